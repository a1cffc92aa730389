"""The results tasks of a submit task, and their arguments as the Dag has them, before any of them runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


class ResultsArguments(msgspec.Struct, frozen=True):
    """Arguments of a results task, or of the single operator."""

    job: Any
    output: Any
    """None: the rows are returned through XCom. What is not known before the run is something else."""
    drop_columns: tuple[str, ...]
    """None of them, where only the run knows which."""


def results_tasks(submit: Any, results_class: type) -> list[Any]:
    """Return the results tasks that take a submit task's output.

    Args:
        submit: The running task.
        results_class: The class of results tasks.
    """
    dag = submit.get_dag()
    found = []
    for task in dag.task_dict.values() if dag is not None else ():
        operator_class = getattr(task, "operator_class", type(task))
        if isinstance(operator_class, type) and issubclass(operator_class, results_class):
            job = arguments_of(task).job
            if any(operator.task_id == submit.task_id for operator, _ in _references(job)):
                found.append(task)
    return found


def arguments_of(task: Any) -> ResultsArguments:
    """Return the arguments of a task that writes results, mapped or not."""
    if not hasattr(task, "partial_kwargs"):
        return ResultsArguments(getattr(task, "job", None), task.output_uri, task.drop_columns)
    expanded = task.expand_input.value
    if not isinstance(expanded, dict):
        return ResultsArguments(None, expanded, ())  # expand_kwargs: only the run knows the arguments
    arguments = {**task.partial_kwargs, **expanded}
    dropped = () if "drop_columns" in expanded else arguments.get("drop_columns", ())
    return ResultsArguments(
        arguments.get("job"), arguments.get("output"), (dropped,) if isinstance(dropped, str) else tuple(dropped)
    )


def _references(value: Any) -> Iterator[Any]:
    return iter(value.iter_references() if hasattr(value, "iter_references") else ())
