"""The requests of some rows, column by column: ids, digests, sizes, and the lines of a batch input file."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec

from airflow_openai_batch.engine.encoding import Pieces, blocks_of, insides_of, sizes_of, streams_of
from airflow_openai_batch.engine.identity import DIGEST_BYTES, endpoint_hash
from airflow_openai_batch.engine.requests.bodies import Rendered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_openai_batch.engine.encoding import Counts


BYTES_PER_TOKEN = 4
"""For the estimate of enqueued tokens. English text has about four bytes a token; images are not counted."""

_BLOCK_BYTES = 192 * 1024  # larger blocks of memory are given back to the system and faulted in anew each time


class Requests:
    """The requests of some rows.

    Args:
        rendered: Their bodies.
        ids: Their custom_ids; None for row ordinal and a short digest.
        endpoint: The job's endpoint.
        first_row: The ordinal of the first row.
        n_rows: How many there are.
    """

    def __init__(
        self, rendered: Rendered, ids: list[str] | None, *, endpoint: str, first_row: int, n_rows: int
    ) -> None:
        import numpy as np

        self.first_row = first_row
        self.has_given_ids = ids is not None
        self.n_rows = n_rows
        self.models = rendered.models
        self.digests = digests(endpoint, rendered.bodies, n_rows)
        self.ids = default_custom_ids(first_row, self.digests) if ids is None else ids
        quoted = list(map(str.encode, self.ids)) if ids is None else insides_of(ids)
        # `url` must equal the batch's endpoint on every line.
        url = b'","method":"POST","url":%b,"body":' % msgspec.json.encode(endpoint)
        around: Pieces = [b'{"custom_id":"', quoted, url, b"}\n"]
        self._lines: Pieces = [*around[:3], *rendered.bodies, *around[3:]]
        body_bytes = sizes_of(rendered.bodies, n_rows)
        self.n_bytes: Counts = body_bytes + sizes_of(around, n_rows)
        self.n_tokens: Counts = body_bytes // BYTES_PER_TOKEN + 1
        self.n_inputs: Counts = np.broadcast_to(np.asarray(rendered.n_inputs, dtype=np.int64), (n_rows,))

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Return the lines of a range of rows, in blocks of many."""
        pieces: Pieces = [piece if isinstance(piece, bytes) else piece[start:stop] for piece in self._lines]
        mean = int(self.n_bytes[start:stop].mean()) or 1
        return blocks_of(pieces, stop - start, max(1, _BLOCK_BYTES // mean))


def digests(endpoint: str, bodies: Pieces, n_rows: int) -> list[bytes]:
    """Return the digests of many bodies. What they begin with in common is hashed once."""
    common = endpoint_hash(endpoint).copy()
    n_common = sum(1 for _ in itertools.takewhile(lambda piece: isinstance(piece, bytes), bodies))
    for piece in bodies[:n_common]:
        common.update(piece)
    if n_common == len(bodies):
        return [bytes(common.digest()[:DIGEST_BYTES])] * n_rows
    found: list[bytes] = []
    copy, append = common.copy, found.append
    for row in zip(*streams_of(bodies[n_common:], n_rows), strict=True):
        state = copy()
        update = state.update
        for piece in row:
            update(piece)
        append(state.digest()[:DIGEST_BYTES])
    return found


def default_custom_ids(first_row: int, row_digests: list[bytes]) -> list[str]:
    """Name requests by their rows and what they ask: ``r0000012-9f86d081``."""
    text = b"".join(row_digests).hex()
    places = range(0, len(text), 2 * DIGEST_BYTES)
    return [f"r{ordinal:07d}-{text[at : at + 8]}" for ordinal, at in enumerate(places, first_row)]
