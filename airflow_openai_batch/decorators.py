"""``@task.openai_batch``: the function returns the rows, the decorator takes the operator's arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DecoratedOperator, determine_kwargs, task_decorator_factory

from airflow_openai_batch.operators import OpenAIBatchOperator
from airflow_openai_batch.task.rows import Rows

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import TaskDecorator


class _OpenAIBatchDecoratedOperator(DecoratedOperator, OpenAIBatchOperator):
    """Calls the function for the rows, then does what ``OpenAIBatchOperator`` does."""

    custom_operator_name = "@task.openai_batch"
    template_fields: Sequence[str] = (
        *(name for name in OpenAIBatchOperator.template_fields if name != "rows"),
        "op_args",
        "op_kwargs",
    )

    def __init__(self, *, python_callable: Callable[..., Any], op_args: Any, op_kwargs: Any, **kwargs: Any) -> None:
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, rows=Rows([]), **kwargs)

    def execute(self, context: Any) -> Any:
        """Make the job or take it up, and move it on. The function is called for the rows, if they are needed."""
        return OpenAIBatchOperator.execute(self, context)

    def _rows(self, context: Any) -> Any:
        # The context's names (ds, ti, …) and the caller's own arguments, as far as the function asks for them.
        arguments = {**context, **self.op_kwargs}
        kwargs = determine_kwargs(self.python_callable, self.op_args, arguments)
        rows = self.python_callable(*self.op_args, **kwargs)
        self.rows = rows if isinstance(rows, str) else Rows(rows)
        return super()._rows(context)


def openai_batch_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a task of a function that returns rows.

    Args:
        python_callable: The function. It may return whatever ``rows`` takes: dicts, a DataFrame, a path.
        **kwargs: The arguments of ``OpenAIBatchOperator`` besides ``rows``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_OpenAIBatchDecoratedOperator, **kwargs
    )
