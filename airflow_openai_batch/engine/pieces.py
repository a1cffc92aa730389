"""The bytes of many rows, column by column: what every row has stands there once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Counts = np.ndarray[Any, np.dtype[np.int64]]

Pieces = list[bytes | list[bytes]]
"""What rows are made of, from left to right: bytes that every row has, and lists of one value a row."""


def streams_of(pieces: Pieces, n_rows: int) -> list[Iterable[bytes]]:
    """Return one stream a piece, each as long as the rows."""
    return [itertools.repeat(piece, n_rows) if isinstance(piece, bytes) else piece for piece in pieces]


def rows_of(pieces: Pieces, n_rows: int) -> Iterator[bytes]:
    """Put the pieces of each row together."""
    return map(b"".join, zip(*streams_of(pieces, n_rows), strict=True))


def blocks_of(pieces: Pieces, n_rows: int, rows_a_block: int) -> Iterator[bytes]:
    """Put the pieces of many rows together at a time."""
    rows = zip(*streams_of(pieces, n_rows), strict=True)
    while block := b"".join(itertools.chain.from_iterable(itertools.islice(rows, rows_a_block))):
        yield block


def sizes_of(pieces: Pieces, n_rows: int) -> Counts:
    """Return the bytes of each row."""
    import numpy as np

    sizes = np.full(n_rows, sum(len(piece) for piece in pieces if isinstance(piece, bytes)), dtype=np.int64)
    for piece in pieces:
        if not isinstance(piece, bytes):
            sizes += np.fromiter(map(len, piece), dtype=np.int64, count=n_rows)
    return sizes
