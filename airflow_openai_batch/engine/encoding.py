"""Canonical JSON, and the JSON bytes of many rows encoded column by column, without a Python string for each row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np

    Counts = np.ndarray[Any, np.dtype[np.int64]]
    import pyarrow as pa


canonical = msgspec.json.Encoder(order="sorted").encode
"""Encode a value as JSON with sorted keys and no spaces, so that equal values give equal bytes."""

Pieces = list[bytes | list[bytes]]
"""The parts of each row from left to right: bytes shared by all rows, or a list with the bytes of each row."""


def streams_of(pieces: Pieces, n_rows: int) -> list[Iterable[bytes]]:
    """Return an iterable of `n_rows` values for each piece."""
    return [itertools.repeat(piece, n_rows) if isinstance(piece, bytes) else piece for piece in pieces]


def rows_of(pieces: Pieces, n_rows: int) -> Iterator[bytes]:
    """Yield the bytes of each row: its pieces joined."""
    return map(b"".join, zip(*streams_of(pieces, n_rows), strict=True))


def blocks_of(pieces: Pieces, n_rows: int, rows_a_block: int) -> Iterator[bytes]:
    """Yield the bytes of consecutive rows, joined into blocks.

    Args:
        pieces: The parts of the rows.
        n_rows: Number of rows.
        rows_a_block: Number of rows in a block; the last block may have fewer.
    """
    rows = zip(*streams_of(pieces, n_rows), strict=True)
    while block := b"".join(itertools.chain.from_iterable(itertools.islice(rows, rows_a_block))):
        yield block


def sizes_of(pieces: Pieces, n_rows: int) -> Counts:
    """Return the size of each row in bytes, as an array of length `n_rows`."""
    import numpy as np

    sizes = np.full(n_rows, sum(len(piece) for piece in pieces if isinstance(piece, bytes)), dtype=np.int64)
    for piece in pieces:
        if not isinstance(piece, bytes):
            sizes += np.fromiter(map(len, piece), dtype=np.int64, count=n_rows)
    return sizes


_ESCAPES = {code: msgspec.json.encode(chr(code))[1:-1] for code in range(32)}

_COMMON_CODES = (10, 13, 9)  # line ends and tab, the likeliest first

_BLOCK_BYTES = 64 * 1024


def text_column(column: pa.Array) -> pa.Array | None:
    """Return a string column in Arrow's plain layout, with nulls as empty strings; None for any other column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    return pc.fill_null(column, "") if column.null_count else column


def utf8(texts: pa.Array) -> list[bytes]:
    """Return the UTF-8 bytes of each string."""
    import pyarrow as pa

    values: list[bytes] = texts.cast(pa.large_binary() if _is_large(texts) else pa.binary()).to_pylist()
    return values


def json_insides(texts: pa.Array) -> list[bytes]:
    """Return each string of a column as JSON without the quotes, byte for byte as msgspec encodes it."""
    values = [value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') for value in utf8(texts)]
    for code in _control_codes(texts):
        raw, escape = bytes([code]), _ESCAPES[code]
        values = [value.replace(raw, escape) for value in values]
    return values


def insides_of(texts: list[str]) -> list[bytes]:
    """Return each string as JSON without the quotes. Equal strings give equal bytes."""
    # No encoded string contains the separator, because quotes inside strings are escaped.
    return msgspec.json.encode(texts)[2:-2].split(b'","') if texts else []


def _is_large(texts: pa.Array) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_large_string(texts.type))


def _control_codes(texts: pa.Array) -> list[int]:
    """Return the control characters that occur in a column: usually none, or only line ends."""
    import numpy as np

    if not len(texts):
        return []
    _, offsets, data = texts.buffers()
    if data is None:
        return []
    ends = np.frombuffer(offsets, dtype=np.int64 if _is_large(texts) else np.int32)
    first, last = ends[texts.offset], ends[texts.offset + len(texts)]
    content = np.frombuffer(data, dtype=np.uint8)[first:last]
    codes: set[int] = set()
    for start in range(0, len(content), _BLOCK_BYTES):  # small blocks need no new memory pages
        block = content[start : start + _BLOCK_BYTES]
        n_remaining = int(np.count_nonzero(block < len(_ESCAPES)))
        for code in _COMMON_CODES:
            if n_remaining and (n := int(np.count_nonzero(block == code))):
                codes.add(code)
                n_remaining -= n
        if n_remaining:
            codes.update(np.unique(block[block < len(_ESCAPES)]).tolist())
    return sorted(codes)
