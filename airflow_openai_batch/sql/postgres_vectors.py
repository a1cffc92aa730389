"""Vectors on their way into pgvector: in COPY's binary form, which numpy makes of a whole column at a time.

As texts they take thirty times as long, because each number is printed and parsed. The other columns stay as they are,
so each column of vectors has a staging table of its own, where they stand by the number of their row.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.sql.statements import IS_GOOD, ROW, STAGING, quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts

_NUMBERS = {"vector": ">f4", "halfvec": ">f2"}
"""pgvector's types, and how their binary form has numbers: pgvector's `vector_recv` and `halfvec_recv`."""

_MOST_NUMBERS = 16_000
"""pgvector's README: the most that a vector or halfvec has."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
"""PostgreSQL's documentation of COPY, "Binary Format": no flags, no extension; and the end."""


@dataclasses.dataclass
class VectorColumn:
    """A column of the table that holds vectors.

    Args:
        name: Its name.
        type_name: ``vector`` or ``halfvec``.
        dimensions: How many numbers its vectors have; None if the column does not say so.
        place: Its place among such columns.

    Attributes:
        seen: How many numbers the vectors have that came.
    """

    name: str
    type_name: str
    dimensions: int | None
    place: int
    seen: set[int] = dataclasses.field(default_factory=set)

    @property
    def staging(self) -> str:
        """The name of its staging table."""
        return f"{STAGING}_{self.place}"

    def create_staging(self, target: str) -> str:
        """Return the statement that creates its staging table.

        Args:
            target: The target's name, quoted.
        """
        return (
            f"CREATE TEMPORARY TABLE {self.staging} AS "  # noqa: S608 - quoted
            f"SELECT CAST(NULL AS bigint) AS {ROW}, {quoted(self.name)} FROM {target} WHERE 1 = 0"
        )

    def joined(self, source: str) -> str:
        """Return a source of rows with these vectors added; a row without one has null.

        Args:
            source: What the rows are selected from.
        """
        return f"{source} LEFT JOIN {self.staging} USING ({ROW})"

    @property
    def copy_statement(self) -> str:
        """The statement that reads what ``copies`` returns."""
        return f"COPY {self.staging} ({ROW}, {quoted(self.name)}) FROM STDIN (FORMAT binary)"

    def copies(self, column: pa.Array, first_row: int) -> tuple[list[bytes], Counts]:
        """Return what COPY reads of a batch, and the places of rows whose vector is none: with NaN or an infinity.

        Args:
            column: A vector or null for each row.
            first_row: The number of the first row.

        Raises:
            InputError: A vector has not as many numbers as the column's.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        column = column.cast(pa.list_(pa.float32()))
        has_vector = column.is_valid().to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(column.drop_null()).to_numpy()
        rows = np.flatnonzero(has_vector)
        self._check(lengths, rows + first_row)
        numbers = column.flatten().to_numpy(zero_copy_only=False)
        starts = np.cumsum(lengths) - lengths
        copies, odd = [], []
        for n in np.unique(lengths):
            chosen = np.flatnonzero(lengths == n)
            matrix = numbers[starts[chosen][:, None] + np.arange(n)] if len(chosen) < len(rows) else numbers
            with np.errstate(over="ignore"):  # what is too large for half a float is infinite
                made = matrix.reshape(len(chosen), n).astype(_NUMBERS[self.type_name])
            is_finite = np.isfinite(made).all(axis=1)
            if not is_finite.all():
                odd.append(rows[chosen[~is_finite]])
                made, chosen = made[is_finite], chosen[is_finite]
            copies.append(_binary(rows[chosen] + first_row, made))
        return copies, np.concatenate(odd) if odd else np.empty(0, np.int64)

    def dimensions_seen(self) -> int:
        """Return how many numbers all vectors have that came.

        Raises:
            InputError: They differ.
        """
        if len(self.seen) > 1:
            shown = " and ".join(f"{n:,}" for n in sorted(self.seen)[:2])
            raise InputError(f"SqlTable: the vectors for the column {self.name!r} have {shown} numbers.")
        return next(iter(self.seen))

    def _check(self, lengths: Counts, rows: Counts) -> None:
        most = self.dimensions or _MOST_NUMBERS
        wrong = (lengths != most) if self.dimensions else (lengths > most) | (lengths < 1)
        if wrong.any():
            place = int(wrong.argmax())
            raise wrong_dimensions(self, int(lengths[place]), f"row {rows[place]} has")
        self.seen.update(map(int, lengths))


def wrong_dimensions(column: VectorColumn, n: int, whose: str) -> InputError:
    """Return the error of vectors that do not fit into a column.

    Args:
        column: The column.
        n: How many numbers they have.
        whose: Subject and verb of the sentence that tells it.
    """
    limit = column.dimensions or _MOST_NUMBERS
    return InputError(
        f"SqlTable: column {column.name!r} is {column.type_name}({limit}), and {whose} {n:,} numbers. Ask for as many "
        f'("dimensions" in the body, where the model knows it), or let the column be {column.type_name}({n}).'
    )


def _binary(rows: Counts, vectors: Any) -> bytes:
    """Return rows of two fields, a number and a vector, as COPY reads them."""
    import numpy as np

    n = vectors.shape[1]
    head = [("n_fields", ">i2"), ("row_bytes", ">i4"), ("row", ">i8"), ("vector_bytes", ">i4")]
    form = np.dtype([*head, ("n", ">i2"), ("unused", ">i2"), ("numbers", vectors.dtype, (n,))])
    records = np.zeros(len(rows), form)
    records["n_fields"], records["row_bytes"], records["row"] = 2, 8, rows
    records["vector_bytes"], records["n"], records["numbers"] = 4 + n * vectors.dtype.itemsize, n, vectors
    return _HEADER + records.tobytes() + _TRAILER


def numbered(
    rows: pa.RecordBatch, columns: list[VectorColumn], first_row: int
) -> tuple[pa.RecordBatch, list[tuple[str, bytes]], int]:
    """Take the vectors out of rows.

    Args:
        rows: The rows, with the staging table's columns.
        columns: Those that are vectors.
        first_row: The number of the first row.

    Returns:
        The rows without vectors and with their numbers; statements of COPY and what each reads; and how many vectors
        are none, which makes their rows no good ones.

    Raises:
        InputError: A vector has not as many numbers as its column's.
    """
    import numpy as np
    import pyarrow as pa

    is_good = rows.column(IS_GOOD).to_numpy(zero_copy_only=False).copy()
    copies, n_odd = [], 0
    for column in columns:
        contents, odd = column.copies(rows.column(column.name), first_row)
        copies += [(column.copy_statement, content) for content in contents]
        is_good[odd] = False
        n_odd += len(odd)
    rest = rows.drop_columns([IS_GOOD, *(column.name for column in columns)])
    numbers = pa.array(np.arange(first_row, first_row + rows.num_rows))
    return rest.append_column(ROW, numbers).append_column(IS_GOOD, pa.array(is_good)), copies, n_odd


def vector_columns(arrow_schema: pa.Schema, types: dict[str, tuple[str, int]]) -> list[VectorColumn]:
    """Return the columns whose lists of numbers go into pgvector's types.

    Args:
        arrow_schema: The rows' columns, by their names in the table.
        types: The table's: the name of each type, and its modifier.

    Raises:
        InputError: A column has several vectors a row.
    """
    columns: list[VectorColumn] = []
    for field in arrow_schema:
        type_name, modifier = types[field.name]
        if type_name not in _NUMBERS or not _is_list(field.type):
            continue
        if _is_list(field.type.value_type):
            raise InputError(
                f"SqlTable: the rows have several vectors each, as their input is a list, and {field.name!r} is one "
                f"{type_name}. Let each row have one text."
            )
        columns.append(VectorColumn(field.name, type_name, modifier if modifier > 0 else None, len(columns)))
    return columns


def _is_list(arrow_type: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type))
