"""Request bodies: from rows by a template, by the user's function, or ready-made; each in canonical JSON.

In the strings of a template ``{column}`` is replaced by the row's value as text; ``"{column!json}"``, alone in its
string, by the value as JSON. Nothing else is special: JSON in a prompt needs no escaping, and no content of a column
can change the structure of a body. A template is compiled once into constant bytes and slots; rendering fills the
slots column by column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from airflow_openai_batch.engine.concurrency import gc_paused
from airflow_openai_batch.engine.encoding import canonical, rows_of
from airflow_openai_batch.engine.endpoints import EMBEDDINGS, check_body, count_inputs, required
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.money.tokens import UNBOUNDED, bound_names, bound_of_json, most_output_tokens
from airflow_openai_batch.engine.requests.arrow import LINE_BODY
from airflow_openai_batch.engine.requests.lines import Requests
from airflow_openai_batch.engine.requests.nulls import OnNull, blank_rows, is_blank, left_out, prompt_of
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
from airflow_openai_batch.engine.requests.values import (
    has_infinity,
    has_typed_fields,
    python_values,
    values_of,
    without_nulls,
)

if TYPE_CHECKING:
    import pyarrow as pa


CALLABLE = "callable"
"""Stands for a function in a job's spec: what it would send is only known by calling it."""


class Bodies(Protocol):
    """Makes requests of rows."""

    def check(self, columns: Sequence[str]) -> None:
        """Check that the rows have the columns that are needed, before anything is uploaded.

        Raises:
            InputError: A column is missing.
        """

    def render(self, batch: pa.RecordBatch, first_row: int, ids: list[str] | None = None) -> Requests:
        """Return one request for each row.

        Args:
            batch: The rows.
            first_row: The ordinal of the first row.
            ids: The custom_id of each row; None for the default.

        Raises:
            InputError: A body cannot be made or would be rejected; the message names the row.
        """

    @property
    def spec_body(self) -> str:
        """What the job's spec keeps of the bodies: equal texts send equal requests, unless it is `CALLABLE`."""

    @property
    def is_constant(self) -> bool:
        """Whether all requests are the same, because the rows have no part in them."""


def bodies_of(body: Any, endpoint: str, on_null: OnNull = "send") -> Bodies:
    """Return the bodies for the ``body`` parameter: a template (dict), a callable ``row -> body``, or None.

    None stands for ready-made request lines.

    Args:
        body: The parameter.
        endpoint: The job's endpoint.
        on_null: What to do with rows whose prompt holds nothing of them.

    Raises:
        InputError: It is something else, or a template that OpenAI would reject.
    """
    if body is None:
        return ReadyBodies(endpoint, on_null)
    if isinstance(body, dict):
        return TemplateBodies(body, endpoint, on_null)
    if callable(body):
        return CallableBodies(body, endpoint, on_null)
    raise InputError(
        f"body must be a dict, a callable row -> dict, or None for ready-made request lines, not {type(body).__name__}."
    )


class TemplateBodies:
    """Bodies from a template.

    Args:
        template: A body as OpenAI's API reference describes it, with ``{column}`` in its strings.
        endpoint: The job's endpoint.
        on_null: What to do with rows whose prompt holds nothing of them.

    Raises:
        InputError: OpenAI would reject the template, or it cannot be encoded as JSON.
    """

    def __init__(self, template: dict[str, Any], endpoint: str, on_null: OnNull = "send") -> None:
        check_body(template, endpoint, "body")
        if endpoint == EMBEDDINGS:
            # OpenAI's SDK does so by default: answers are four times smaller, without loss. Both encodings are read.
            template = {"encoding_format": "base64", **template}
        self._endpoint = endpoint
        self._template = template
        try:
            self._parts = compile_json(template)
        except (TypeError, msgspec.MsgspecError) as error:
            raise InputError(f"body cannot be written as JSON: {error}") from None
        self._on_null = on_null
        prompt = compile_json(prompt_of(template, endpoint))
        self._prompt_columns = list(dict.fromkeys(part.column for part in prompt if isinstance(part, Slot)))
        self._model = TextTemplate(str(template.get("model", "")))
        self._required = [
            (name, template[name][1:-6]) for name in required(endpoint) if is_json_slot(str(template[name]))
        ]
        embed_input = template.get("input")
        parameters = {name: template[name] for name in bound_names(endpoint) if name in template}
        is_constant = not any(map(is_json_slot, texts_in(parameters)))
        self._bound = bound_of_json(canonical(parameters), endpoint) if is_constant else None
        self._has_one_input = endpoint != EMBEDDINGS or (isinstance(embed_input, str) and not is_json_slot(embed_input))

    @property
    def spec_body(self) -> str:
        """The canonical template."""
        return canonical(self._template).decode()

    @property
    def is_constant(self) -> bool:
        """Whether the template names no column."""
        return not any(isinstance(part, Slot) for part in self._parts)

    def check(self, columns: Sequence[str]) -> None:
        """Check that the rows have the template's columns."""
        check_columns("body", (part.column for part in self._parts if isinstance(part, Slot)), columns)
        check_odd_fields("body", texts_in(self._template), columns)

    def render(self, batch: pa.RecordBatch, first_row: int, ids: list[str] | None = None) -> Requests:
        """Return one request for each row.

        Args:
            batch: The rows.
            first_row: The ordinal of the first row.
            ids: The custom_id of each row; None for the default.

        Raises:
            InputError: A value cannot be encoded as JSON, or a required one is empty.
        """
        bodies = fill(self._parts, batch, first_row)
        skipped = self._skipped(batch, first_row)
        is_sent = _all_but(skipped, batch.num_rows)
        for name, column in self._required:
            missing = (i for i, value in enumerate(values_of(batch, column)) if value is None and is_sent[i])
            if (i := next(missing, None)) is not None:
                raise _lacking(first_row + i, name, self._endpoint)
        model = self._model.constant
        models = list(self._model.render(batch, first_row)) if model is None else model
        if isinstance(models, list) and "model" in required(self._endpoint):
            missing = (i for i, name in enumerate(models) if not name and is_sent[i])
            if (i := next(missing, None)) is not None:
                raise _lacking(first_row + i, "model", self._endpoint)
        n_rows = batch.num_rows
        n_inputs: int | list[int] = 1
        if not self._has_one_input:
            texts = enumerate(rows_of(bodies, n_rows))
            n_inputs = [_inputs_in(body, first_row + i) if is_sent[i] else 1 for i, body in texts]
        bounds = self._bound
        return Requests(
            bodies,
            models,
            n_inputs,
            [bound_of_json(body, self._endpoint) for body in rows_of(bodies, n_rows)] if bounds is None else bounds,
            ids=ids,
            endpoint=self._endpoint,
            first_row=first_row,
            n_rows=n_rows,
            skipped=skipped,
        )

    def _skipped(self, batch: pa.RecordBatch, first_row: int) -> list[int]:
        if self._on_null == "send":
            return []
        columns = self._prompt_columns
        reason = f"the prompt uses {', '.join('{' + name + '}' for name in columns)}, which is null or blank there"
        return left_out(blank_rows(batch, columns), first_row, self._on_null, reason)


def _all_but(places: list[int], n_rows: int) -> list[bool]:
    flags = [True] * n_rows
    for i in places:
        flags[i] = False
    return flags


def _lacking(ordinal: int, name: str, endpoint: str) -> InputError:
    return InputError(
        f"row {ordinal}: the column for {name!r}, which {endpoint} requires, is empty; "
        "OpenAI would refuse the whole batch."
    )


class CallableBodies:
    """Bodies from the user's function.

    Args:
        function: Returns the body (dict) of a row (dict); None for a row that is not to be sent.
        endpoint: The job's endpoint.
        on_null: What to do with rows whose prompt holds nothing of them, and with those without a body.
    """

    spec_body, is_constant = CALLABLE, False

    def __init__(self, function: Callable[[dict[str, Any]], Any], endpoint: str, on_null: OnNull = "send") -> None:
        self._function = function
        self._endpoint = endpoint
        self._on_null = on_null

    def check(self, columns: Sequence[str]) -> None:
        """Check nothing: the columns that the function uses are not known."""

    def render(self, batch: pa.RecordBatch, first_row: int, ids: list[str] | None = None) -> Requests:
        """Return one request for each row.

        Args:
            batch: The rows.
            first_row: The ordinal of the first row.
            ids: The custom_id of each row; None for the default.

        Raises:
            InputError: The function raised, or returned a body that OpenAI would reject; the message names the row.
        """
        return _requests(self._bodies(batch, first_row), first_row, self._endpoint, ids, self._on_null)

    def _bodies(self, batch: pa.RecordBatch, first_row: int) -> Iterator[Any]:
        names, function = batch.schema.names, self._function
        columns = [_row_values(column, name, first_row) for column, name in zip(batch.columns, names, strict=True)]
        for i, values in enumerate(zip(*columns, strict=True)):
            try:
                body = function(dict(zip(names, values, strict=True)))
            except Exception as error:
                # Without its message, which may quote the row.
                raise InputError(f"row {first_row + i}: the body function raised {type(error).__name__}.") from error
            yield body


def _row_values(column: pa.Array, name: str, first_row: int) -> list[Any]:
    try:
        values = python_values(column)
    except (ValueError, OverflowError) as error:
        raise InputError(f"from row {first_row} on, column {name!r}: {error}.") from None
    return list(map(without_nulls, values)) if has_typed_fields(column.type) else values


class ReadyBodies:
    """Bodies of ready-made request lines.

    Args:
        endpoint: The job's endpoint.
        on_null: What to do with lines whose prompt is blank.
    """

    spec_body, is_constant = "", False

    def __init__(self, endpoint: str, on_null: OnNull = "send") -> None:
        self._endpoint = endpoint
        self._on_null = on_null

    def check(self, columns: Sequence[str]) -> None:
        """Check nothing: the source has read the lines already."""

    def render(self, batch: pa.RecordBatch, first_row: int, ids: list[str] | None = None) -> Requests:
        """Return one request for each line, with the line's body in canonical JSON.

        Args:
            batch: The lines.
            first_row: The ordinal of the first row.
            ids: The custom_id of each line.

        Raises:
            InputError: OpenAI would reject a body; the message names the row.
        """
        bodies = map(msgspec.json.decode, batch.column(LINE_BODY).to_pylist())
        return _requests(bodies, first_row, self._endpoint, ids, self._on_null)


def _requests(bodies: Iterable[Any], first_row: int, endpoint: str, ids: list[str] | None, on_null: OnNull) -> Requests:
    """Check bodies that come one by one, and encode them as canonical JSON."""
    embeds = endpoint == EMBEDDINGS
    skipped: list[int] = []
    encoded: list[bytes] = []
    models: list[str] = []
    n_inputs: list[int] = []
    bounds: list[int] = []
    with gc_paused():
        for ordinal, body in enumerate(bodies, first_row):
            if reason := _reason_to_skip(body, endpoint, on_null):
                skipped += left_out([len(encoded)], first_row, on_null, reason)
                encoded.append(b"{}")
                models.append("")
                n_inputs.append(1)
                bounds.append(UNBOUNDED)
                continue
            check_body(body, endpoint, ordinal)
            if embeds:
                body = {"encoding_format": "base64", **body}
                n_inputs.append(count_inputs(body["input"], ordinal))
            try:
                encoded.append(canonical(body))
            except (TypeError, UnicodeError, msgspec.MsgspecError) as error:
                raise InputError(f"row {ordinal}: the body cannot be written as JSON: {error}") from None
            if b"null" in encoded[-1] and has_infinity(body):
                raise InputError(f"row {ordinal}: the body holds an infinite number, for which JSON has no word.")
            models.append(str(body.get("model", "")))
            bound = most_output_tokens(body, endpoint)
            bounds.append(UNBOUNDED if bound is None else bound)
    return Requests(
        [encoded],
        models,
        n_inputs if embeds else 1,
        bounds,
        ids=ids,
        endpoint=endpoint,
        first_row=first_row,
        n_rows=len(encoded),
        skipped=skipped,
    )


def _reason_to_skip(body: Any, endpoint: str, on_null: OnNull) -> str | None:
    if on_null == "send":
        return None
    if body is None:
        return "the body function returned None"
    return "its prompt is blank" if isinstance(body, dict) and is_blank(prompt_of(body, endpoint)) else None


class _WithInput(msgspec.Struct):
    input: Any = None


_decode_input = msgspec.json.Decoder(_WithInput).decode


def _inputs_in(body: bytes, ordinal: int) -> int:
    return count_inputs(_decode_input(body).input, ordinal)
