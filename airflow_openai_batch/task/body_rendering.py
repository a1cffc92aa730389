"""Airflow's Jinja in a request body: a prompt stays the text that was written, and an error names its place.

With ``render_template_as_native_obj`` Airflow reads a rendered text as Python: "1" becomes a number, "[1, 2]" a list,
"None" nothing at all. That is meant for parameters such as ``max_output_tokens``, and must not happen to a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException

from airflow_openai_batch.exceptions import OpenAIBatchError, OpenAIBatchFailure

if TYPE_CHECKING:
    import jinja2

_JINJA = ("{{", "{%", "{#")

_TEXTS = frozenset({"input", "instructions", "messages", "prompt", "model", "metadata"})
"""Parameters that hold texts, however deep (OpenAI's API reference)."""


def rendered_body(operator: Any, body: Any, context: Mapping[str, Any]) -> Any:
    """Return a body with its Jinja rendered.

    Args:
        operator: The running task.
        body: What the Dag file gives as the body.
        context: The task's context.

    Raises:
        OpenAIBatchFailure: Jinja cannot render a text; the message names its place in the body.
        OpenAIBatchError: What the text looks up raised an error, which a retry may cure.
    """
    return _BodyRenderer(operator, context).rendered(body, "body", is_text=False)


class _BodyRenderer:
    def __init__(self, operator: Any, context: Mapping[str, Any]) -> None:
        self._operator, self._context = operator, context
        self._environment: jinja2.Environment = operator.get_template_env()
        self._is_native = _is_native(self._environment)

    def rendered(self, value: Any, place: str, *, is_text: bool) -> Any:
        """Render a value and all that is in it.

        Args:
            value: A part of the body.
            place: Its place, for error messages.
            is_text: Whether strings in it are texts for a model, never other values.
        """
        if value.__class__ is dict:
            return {
                key: self.rendered(entry, f'{place}["{key}"]', is_text=is_text or (place == "body" and key in _TEXTS))
                for key, entry in value.items()
            }
        if value.__class__ in (list, tuple):
            return value.__class__(
                self.rendered(entry, f"{place}[{i}]", is_text=is_text) for i, entry in enumerate(value)
            )
        try:
            if self._is_native and isinstance(value, str) and (is_text or not any(mark in value for mark in _JINJA)):
                return self._as_text(value)
            return _defined(self._operator.render_template(value, self._context, self._environment))
        except AirflowException:
            raise  # it says itself what becomes of the task
        except Exception as error:
            raise _failure(error, place) from error

    def _as_text(self, text: str) -> Any:
        """Return a rendered text as a text. The list or object of a lone expression, such as messages, stays one."""
        template = self._environment.from_string(text)
        pieces: list[Any] = list(template.root_render_func(template.new_context(dict(self._context))))
        if len(pieces) == 1 and isinstance(pieces[0], list | dict):
            return pieces[0]
        return "".join(map(str, pieces))


def _defined(value: Any) -> Any:
    """Return a rendered value; natively rendered, an unknown name is an object that has not raised its error yet."""
    import jinja2

    return str(value) if isinstance(value, jinja2.Undefined) else value


def _is_native(environment: jinja2.Environment) -> bool:
    from jinja2.nativetypes import NativeEnvironment

    return isinstance(environment, NativeEnvironment)


def _failure(error: Exception, place: str) -> Exception:
    import jinja2

    if isinstance(error, jinja2.TemplateSyntaxError):
        return OpenAIBatchFailure(f"{place}, line {error.lineno}: Jinja cannot read it: {error.message}.")
    if isinstance(error, jinja2.TemplateError):
        is_name = isinstance(error, jinja2.UndefinedError)
        hint = " A column of the rows is written {column}, with single braces." if is_name else ""
        return OpenAIBatchFailure(f"{place}: Jinja cannot render it: {error.message}.{hint} Nothing was sent.")
    # Without its message, which may quote what was looked up.
    return OpenAIBatchError(f"{place}: rendering it raised {type(error).__name__}.")
