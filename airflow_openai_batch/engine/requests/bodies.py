"""A row becomes the canonical body of a request.

In the strings of a template ``{column}`` stands for the row's value as text; ``"{column!json}"`` alone in a string
stands for the value itself. Nothing else is special: JSON in a prompt needs no escaping, and no content of a column
can change the structure of a body. A template is compiled once into constant bytes and slots; rendering rows is
then filling the slots, column by column.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from airflow_openai_batch.engine.concurrency import gc_paused
from airflow_openai_batch.engine.encoding import Pieces, canonical, rows_of
from airflow_openai_batch.engine.endpoints import EMBEDDINGS, REQUIRED, check_body, count_inputs
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import LINE_BODY, python_values, values_of, without_nulls
from airflow_openai_batch.engine.requests.template import (
    Slot,
    TextTemplate,
    check_columns,
    check_odd_fields,
    compile_json,
    fill,
    is_json_slot,
    texts_in,
)

if TYPE_CHECKING:
    import pyarrow as pa


class Rendered(NamedTuple):
    """The bodies of some rows, with what the cutting of shards needs to know of them.

    What is the same for every row stands there once, not in a list.
    """

    bodies: Pieces
    models: str | list[str]
    n_inputs: int | list[int]


class Bodies(Protocol):
    """Whatever turns rows into bodies."""

    def check(self, columns: Sequence[str]) -> None:
        """Refuse columns that do not fit, before anything is uploaded."""

    def render(self, batch: pa.RecordBatch, first_row: int) -> Rendered:
        """Return one body a row. ``first_row`` is the ordinal of the batch's first row, for error messages."""

    @property
    def fingerprint(self) -> str:
        """What identifies the bodies in the job's spec."""


def bodies_of(body: Any, endpoint: str) -> Bodies:
    """Read the ``body`` parameter: a template (dict), a callable ``row -> body``, or None for ready-made lines.

    Raises:
        InputError: It is something else, or a template that OpenAI would refuse.
    """
    if body is None:
        return ReadyBodies(endpoint)
    if isinstance(body, dict):
        return TemplateBodies(body, endpoint)
    if callable(body):
        return CallableBodies(body, endpoint)
    raise InputError(
        f"body must be a dict, a callable row -> dict, or None for ready-made request lines, not {type(body).__name__}."
    )


class TemplateBodies:
    """Bodies from a template.

    Args:
        template: The body that OpenAI documents, with ``{column}`` in its strings.
        endpoint: The endpoint it is for.
    """

    def __init__(self, template: dict[str, Any], endpoint: str) -> None:
        check_body(template, endpoint, "body")
        if endpoint == EMBEDDINGS:
            # As the SDK does by default: four times smaller answers, and no digit is lost. Both are read.
            template = {"encoding_format": "base64", **template}
        self._endpoint = endpoint
        self._template = template
        try:
            self._parts = compile_json(template)
        except (TypeError, msgspec.MsgspecError) as error:
            raise InputError(f"body cannot be written as JSON: {error}") from None
        self._model = TextTemplate(str(template.get("model", "")))
        self._required = [
            (name, template[name][1:-6]) for name in REQUIRED[endpoint] if is_json_slot(str(template[name]))
        ]
        embed_input = template.get("input")
        self._has_one_input = endpoint != EMBEDDINGS or (isinstance(embed_input, str) and not is_json_slot(embed_input))

    @property
    def fingerprint(self) -> str:
        """The canonical template."""
        return canonical(self._template).decode()

    def check(self, columns: Sequence[str]) -> None:
        """Refuse a template that names a column which the rows do not have."""
        check_columns("body", (part.column for part in self._parts if isinstance(part, Slot)), columns)
        check_odd_fields("body", texts_in(self._template), columns)

    def render(self, batch: pa.RecordBatch, first_row: int) -> Rendered:
        """Return one body a row."""
        for name, column in self._required:
            if None in (values := values_of(batch, column)):
                raise _lacking(first_row + values.index(None), name, self._endpoint)
        bodies = fill(self._parts, batch, first_row)
        model = self._model.constant
        models = list(self._model.render(batch, first_row)) if model is None else model
        if isinstance(models, list) and "" in models and "model" in REQUIRED[self._endpoint]:
            raise _lacking(first_row + models.index(""), "model", self._endpoint)
        if self._has_one_input:
            return Rendered(bodies, models, 1)
        rows = enumerate(rows_of(bodies, batch.num_rows), first_row)
        return Rendered(bodies, models, [_inputs_in(body, ordinal) for ordinal, body in rows])


def _lacking(ordinal: int, name: str, endpoint: str) -> InputError:
    return InputError(
        f"row {ordinal}: the column for {name!r}, which {endpoint} requires, is empty; "
        "OpenAI would refuse the whole batch."
    )


class CallableBodies:
    """Bodies from the user's function ``row (dict) -> body (dict)``."""

    def __init__(self, function: Callable[[dict[str, Any]], Any], endpoint: str) -> None:
        self._function = function
        self._endpoint = endpoint

    @property
    def fingerprint(self) -> str:
        """What the function does, as far as it can be told: a changed prompt in it is a changed spec."""
        return _fingerprint(self._function)

    def check(self, columns: Sequence[str]) -> None:
        """Nothing can be known before the first row."""

    def render(self, batch: pa.RecordBatch, first_row: int) -> Rendered:
        """Return one body a row. An error of the function names the row."""
        return _rendered(self._made(batch, first_row), first_row, self._endpoint)

    def _made(self, batch: pa.RecordBatch, first_row: int) -> Iterator[Any]:
        names, function = batch.schema.names, self._function
        for i, values in enumerate(zip(*map(_row_values, batch.columns), strict=True)):
            try:
                body = function(dict(zip(names, values, strict=True)))
            except Exception as error:
                # Not its text, which may quote the row.
                raise InputError(f"row {first_row + i}: the body function raised {type(error).__name__}.") from error
            yield body


def _row_values(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    values = python_values(column)
    return [without_nulls(value) for value in values] if pa.types.is_nested(column.type) else values


def _fingerprint(function: Any) -> str:
    if isinstance(function, functools.partial):
        given = [_value_text(value) for value in (function.func, *function.args)]
        return f"partial({given}, {sorted((name, _value_text(value)) for name, value in function.keywords.items())})"
    code = getattr(function, "__code__", None)
    if code is not None and code.co_name == "<lambda>":
        # Its source line holds the arguments beside it too.
        return f"{_code_text(code)} {_value_text(function.__defaults__)} {_value_text(function.__kwdefaults__)}"
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"


def _code_text(code: CodeType) -> str:
    constants = [_value_text(constant) for constant in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _value_text(value: Any) -> str:
    """Write a value so that equal ones read the same in every process: no addresses, no order of hashing."""
    if isinstance(value, CodeType):
        return _code_text(value)
    if value is None or isinstance(value, str | bytes | int | float | complex):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value_text(entry) for entry in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_value_text(entry) for entry in value))}}}"
    if isinstance(value, dict):
        return str(sorted((_value_text(key), _value_text(entry)) for key, entry in value.items()))
    return _fingerprint(value) if callable(value) else f"{type(value).__module__}:{type(value).__qualname__}"


class ReadyBodies:
    """Bodies that came as ready-made request lines."""

    fingerprint = ""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def check(self, columns: Sequence[str]) -> None:
        """The source has read the lines already."""

    def render(self, batch: pa.RecordBatch, first_row: int) -> Rendered:
        """Return the body of each line, made canonical."""
        bodies = map(msgspec.json.decode, batch.column(LINE_BODY).to_pylist())
        return _rendered(bodies, first_row, self._endpoint)


def _rendered(bodies: Iterable[Any], first_row: int, endpoint: str) -> Rendered:
    """Check bodies that come one by one, as objects, and write them as canonical JSON."""
    embeds = endpoint == EMBEDDINGS
    written: list[bytes] = []
    models: list[str] = []
    n_inputs: list[int] = []
    with gc_paused():
        for ordinal, body in enumerate(bodies, first_row):
            check_body(body, endpoint, ordinal)
            if embeds:
                body = {"encoding_format": "base64", **body}
                n_inputs.append(count_inputs(body["input"], ordinal))
            try:
                written.append(canonical(body))
            except (TypeError, UnicodeError, msgspec.MsgspecError) as error:
                raise InputError(f"row {ordinal}: the body cannot be written as JSON: {error}") from None
            models.append(str(body.get("model", "")))
    return Rendered([written], models, n_inputs if embeds else 1)


class _WithInput(msgspec.Struct):
    input: Any = None


_decode_input = msgspec.json.Decoder(_WithInput).decode


def _inputs_in(body: bytes, ordinal: int) -> int:
    return count_inputs(_decode_input(body).input, ordinal)
