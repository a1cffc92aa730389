"""Rows whose prompt holds nothing of them: which rows these are, and whether they are sent, left out, or an error.

The prompt is the body's ``input``, ``messages`` or ``prompt``, without messages of the system and the developer. A
template's prompt holds nothing of a row if every column that it uses is null, blank, NaN or an empty list there; a
whole body's, if its texts are. A function may also return None instead of a body.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from airflow_openai_batch.engine.endpoints import required
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import column_index, is_json, without_views

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

OnNull: TypeAlias = Literal["send", "skip", "fail"]

ON_NULL: tuple[OnNull, ...] = ("send", "skip", "fail")

OnEmpty: TypeAlias = Literal["fail", "skip", "succeed"]

ON_EMPTY: tuple[OnEmpty, ...] = ("fail", "skip", "succeed")

_PROMPTS = ("input", "messages", "prompt")

_NO_JSON = ["null", '""', "[]", "{}"]
"""JSON texts that hold nothing."""

_INSTRUCTING = ("system", "developer")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check a setting that is one of a few words.

    Args:
        name: The setting's name.
        value: Its value.
        choices: The words.

    Raises:
        InputError: It is none of them; the message lists them.
    """
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, is {value!r}.")


def prompt_of(body: dict[str, Any], endpoint: str) -> Any:
    """Return the prompt of a body, or of a template of bodies; a text that is not blank if the body lacks one."""
    name = next((name for name in required(endpoint) if name in _PROMPTS), None)
    prompt = body.get(name, "none") if name is not None else "none"
    if not isinstance(prompt, list):
        return prompt
    return [entry for entry in prompt if not (isinstance(entry, dict) and entry.get("role") in _INSTRUCTING)] or prompt


def is_blank(value: Any) -> bool:
    """Return whether a prompt, or a part of one, has no content. What is no text, as a picture or a call, has some."""
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, list):
        return all(map(is_blank, value))
    if isinstance(value, dict):
        if value.get("tool_calls"):
            return False
        return any(name in value and is_blank(value[name]) for name in ("content", "text"))
    return value is None


def blank_rows(batch: pa.RecordBatch, columns: Iterable[str]) -> list[int]:
    """Return the places of the rows, counted from the first, in which every one of some columns holds nothing.

    Args:
        batch: The rows. A column that they lack holds nothing, as of dicts that leave out an optional key.
        columns: The names of the columns. If there are none, no row is returned.
    """
    import numpy as np

    blank: NDArray[np.bool_] | None = None
    for name in columns:
        index = column_index(batch.schema, name)
        here = _holds_nothing(batch.column(index)) if index >= 0 else np.ones(batch.num_rows, dtype=bool)
        blank = here if blank is None else blank & here
        if not blank.any():
            return []
    places: list[int] = np.flatnonzero(blank).tolist() if blank is not None else []
    return places


def _holds_nothing(column: pa.Array) -> NDArray[np.bool_]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    column = without_views(column)
    if is_json(column.type):
        nothing = pc.is_in(column.storage, pa.array(_NO_JSON, column.storage.type))
        return np.asarray(pc.or_(nothing, pc.is_null(column.storage)))
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        nothing = pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column))
    elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        nothing = pc.equal(pc.list_value_length(column), 0)
    else:
        nothing = pc.is_null(column, nan_is_null=True)
    return np.asarray(nothing.fill_null(True))


def left_out(places: list[int], first_row: int, on_null: OnNull, reason: str) -> list[int]:
    """Return the places of rows that are not sent.

    Args:
        places: The places of the rows whose prompt holds nothing of them.
        first_row: The ordinal of the row at place 0.
        on_null: What to do with them.
        reason: What is wrong with them, for the error message.

    Raises:
        InputError: They are an error; the message names the first row.
    """
    if places and on_null == "fail":
        raise InputError(
            f"row {first_row + places[0]}: {reason}, so there is nothing to ask (on_null='fail'). Fill it or leave "
            "the row out; or give on_null='skip', and such rows are not sent and come back as skipped. Nothing was "
            "uploaded."
        )
    return places if on_null == "skip" else []
