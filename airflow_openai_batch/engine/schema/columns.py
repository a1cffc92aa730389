"""The names of the result columns: those of the rows, the fixed ones, and the fields of a structured answer.

A fixed column (``status``, ``output``, ``model``, …) always has its own name. A column of the rows keeps its name, but
for one that is called like a fixed column: that becomes ``input_<name>``. A field is called as in the schema, or
``<column_prefix><name>`` if the user gave a prefix. Two columns with one name are refused before anything is sent:
whoever compares an answer with the truth must not compare the truth with itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Spec

_INPUT = "input_"

_SUGGESTED = "answer_"


class ColumnNames(NamedTuple):
    """The names of the result columns, in their order but for the fixed ones, which stand between the two groups.

    Attributes:
        inputs: The name of each column of the rows.
        fields: The name of each field.
    """

    inputs: tuple[str, ...]
    fields: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """The names of all columns, in order."""
        return (*self.inputs, *RESULT_COLUMNS, *self.fields)


def fields_of(spec: Spec) -> tuple[str, ...]:
    """Return the fields of a job's answers: the top-level properties of its schema."""
    properties = (spec.schema or {}).get("properties")
    return tuple(properties) if isinstance(properties, dict) else ()


def column_names(inputs: Sequence[str], spec: Spec) -> ColumnNames:
    """Return the names of a job's result columns.

    Jobs of earlier versions may have columns that clash. They are still read as they were then: one more ``input_`` or
    ``output_`` in front, until the name is free.

    Args:
        inputs: The columns of the rows.
        spec: What the job asks of each row.
    """
    renamed = tuple(
        _free(name, _INPUT, {*RESULT_COLUMNS, *inputs}) if name in RESULT_COLUMNS else name for name in inputs
    )
    taken = {*renamed, *RESULT_COLUMNS}
    fields: list[str] = []
    for field in fields_of(spec):
        fields.append(_free(f"{spec.column_prefix or ''}{field}", "output_", taken))
        taken.add(fields[-1])
    return ColumnNames(renamed, tuple(fields))


def _free(name: str, prefix: str, taken: set[str]) -> str:
    while name in taken:
        name = prefix + name
    return name


def check_column_names(inputs: Sequence[str], spec: Spec) -> None:
    """Check that no two result columns would have one name.

    Args:
        inputs: The columns of the rows.
        spec: What the job asks of each row.

    Raises:
        InputError: Two would; the message names them, and what to change.
    """
    for name in inputs:
        if name in RESULT_COLUMNS and _INPUT + name in inputs:
            raise InputError(
                f"The results have a column {name!r} of their own, so that of the rows would become {_INPUT + name!r}, "
                f"which the rows have too. Rename one of the two in the rows. Nothing was uploaded."
            )
    prefix, fields = spec.column_prefix or "", fields_of(spec)
    of_rows = {_INPUT + name if name in RESULT_COLUMNS else name for name in inputs}
    for owner, taken in (("the results have a column of their own", {*RESULT_COLUMNS}), ("the rows have one", of_rows)):
        if clashing := [prefix + field for field in fields if prefix + field in taken]:
            raise InputError(
                f"response_model: its fields would be the result columns {_listed(clashing)}, but {owner} of that "
                f"name. Set column_prefix={_unused(prefix, fields, {*RESULT_COLUMNS, *of_rows})!r} or another prefix "
                "for the columns of all fields, or rename them. Nothing was uploaded."
            )


def _unused(prefix: str, fields: Sequence[str], taken: set[str]) -> str:
    suggested = prefix + _SUGGESTED
    while any(suggested + field in taken for field in fields):
        suggested += _SUGGESTED
    return suggested


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def told_columns(inputs: Sequence[str], spec: Spec) -> str:
    """Return the names of the result columns as a sentence for the log."""
    names = column_names(inputs, spec)
    text = f"The results will have the columns {', '.join(names.all)}."
    pairs = [*zip(inputs, names.inputs, strict=True), *zip(fields_of(spec), names.fields, strict=True)]
    if renamed := [f"{name!r} is {column!r}" for name, column in pairs if name != column]:
        text += f" Renamed: {', '.join(renamed)}."
    return text
