"""Requests: the lines of a batch input file for consecutive rows, with their ids, digests and sizes."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Self

import msgspec

from airflow_openai_batch.engine.encoding import Pieces, blocks_of, insides_of, sizes_of, streams_of
from airflow_openai_batch.engine.identity import DIGEST_BYTES, endpoint_hash
from airflow_openai_batch.engine.money.tokens import UNBOUNDED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_openai_batch.engine.encoding import Counts
    from airflow_openai_batch.engine.money.token_sample import Tokens, TokenSample


SKIPPED_DIGEST = bytes(DIGEST_BYTES)
"""The digest of a request that is never sent: equal to no other, so that sending it one day is a difference."""

_BLOCK_BYTES = 192 * 1024  # larger blocks of memory are returned to the system, and faulted in anew each time

_N_BEFORE = 3
"""Pieces of a line that stand before the body."""


class Requests:
    """The requests of a record batch. What is the same for every row may be given once instead of in a list.

    Args:
        bodies: The canonical bodies, as pieces of JSON.
        models: The model of each row; None for a row that is not sent.
        n_inputs: The number of embedding inputs of each row; 1 for other endpoints.
        bounds: How many tokens the answer to each row may have at most; `UNBOUNDED` where its body does not say.
        ids: The custom_id of each row; None for row ordinal and a short digest.
        endpoint: The job's endpoint.
        first_row: The ordinal of the first row.
        n_rows: Number of rows.
        skipped: The places of the rows that are not sent, counted from the first row.

    Attributes:
        ordinals: The ordinal of each row: an array of length `n_rows`, ascending.
        digests: The digest of each request, 16 bytes.
        n_bytes: The size of each line in bytes: an array of length `n_rows`, as the next three.
        n_inputs: The embedding inputs of each request.
        bounds: The most tokens of each answer.
        tokens: The input tokens of each request, once they are counted.
    """

    def __init__(
        self,
        bodies: Pieces,
        models: str | list[str],
        n_inputs: int | list[int],
        bounds: int | list[int] = UNBOUNDED,
        *,
        ids: list[str] | None,
        endpoint: str,
        first_row: int,
        n_rows: int,
        skipped: Sequence[int] = (),
    ) -> None:
        import numpy as np

        self.ordinals: Counts = np.arange(first_row, first_row + n_rows)
        self.has_custom_ids = ids is not None
        self.n_rows = n_rows
        self.models: str | list[str | None] = models if isinstance(models, str) else list(models)
        self.digests = digests(endpoint, bodies, n_rows)
        if skipped:
            self.models = [self.models] * n_rows if isinstance(self.models, str) else self.models
            for i in skipped:
                self.models[i], self.digests[i] = None, SKIPPED_DIGEST
        self.ids = default_custom_ids(first_row, self.digests) if ids is None else ids
        quoted = list(map(str.encode, self.ids)) if ids is None else insides_of(ids)
        # OpenAI's guide: `url` must equal the batch's endpoint on every line.
        url = b'","method":"POST","url":%b,"body":' % msgspec.json.encode(endpoint)
        around: Pieces = [b'{"custom_id":"', quoted, url, b"}\n"]
        self._lines: Pieces = [*around[:_N_BEFORE], *bodies, *around[_N_BEFORE:]]
        self._body_bytes = sizes_of(bodies, n_rows)
        self.n_bytes: Counts = self._body_bytes + sizes_of(around, n_rows)
        self.tokens: Tokens | None = None
        self.n_inputs: Counts = np.broadcast_to(np.asarray(n_inputs, dtype=np.int64), (n_rows,))
        self.bounds: Counts = np.broadcast_to(np.asarray(bounds, dtype=np.int64), (n_rows,))

    @property
    def bodies(self) -> Pieces:
        """The canonical bodies, as pieces of JSON."""
        return self._lines[_N_BEFORE:-1]

    def take(self, places: list[int], model: str | None) -> Self:
        """Return some of the requests, which all have the same model.

        Args:
            places: Their places, counted from the first request, ascending.
            model: Their model; None if they are not sent.
        """
        taken = copy.copy(self)
        taken.models, taken.n_rows = [model] * len(places) if model is None else model, len(places)
        taken.ordinals = self.ordinals[places]
        taken.n_bytes, taken._body_bytes, taken.n_inputs, taken.bounds = (
            counts[places] for counts in (self.n_bytes, self._body_bytes, self.n_inputs, self.bounds)
        )
        taken.ids = [self.ids[i] for i in places]
        taken.digests = [self.digests[i] for i in places]
        taken._lines = [piece if isinstance(piece, bytes) else [piece[i] for i in places] for piece in self._lines]
        return taken

    def count_tokens(self, sample: TokenSample, model: str) -> None:
        """Count the input tokens of some of the requests, and estimate those of the others.

        Args:
            sample: What the requests before these are like.
            model: The model of all requests.
        """
        bodies = self.bodies

        def body(place: int) -> bytes:
            return b"".join(piece if isinstance(piece, bytes) else piece[place] for piece in bodies)

        self.tokens = sample.weigh(self._body_bytes, body, model)

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Return the lines of the requests from `start` to before `stop`, counted from the first, in larger blocks."""
        pieces: Pieces = [piece if isinstance(piece, bytes) else piece[start:stop] for piece in self._lines]
        mean = int(self.n_bytes[start:stop].mean()) or 1
        return blocks_of(pieces, stop - start, max(1, _BLOCK_BYTES // mean))


def digests(endpoint: str, bodies: Pieces, n_rows: int) -> list[bytes]:
    """Return the digest of each request. The prefix that all bodies share is hashed once.

    Args:
        endpoint: The job's endpoint.
        bodies: The canonical bodies, as pieces of JSON.
        n_rows: Number of rows.
    """
    common = endpoint_hash(endpoint).copy()
    n_common = sum(1 for _ in itertools.takewhile(lambda piece: isinstance(piece, bytes), bodies))
    for piece in bodies[:n_common]:
        common.update(piece)
    if n_common == len(bodies):
        return [bytes(common.digest()[:DIGEST_BYTES])] * n_rows
    row_digests: list[bytes] = []
    copy, append = common.copy, row_digests.append
    for row in zip(*streams_of(bodies[n_common:], n_rows), strict=True):
        state = copy()
        update = state.update
        for piece in row:
            update(piece)
        append(state.digest()[:DIGEST_BYTES])
    return row_digests


def default_custom_ids(first_row: int, row_digests: list[bytes]) -> list[str]:
    """Return custom_ids made of row ordinal and short digest: ``r0000012-9f86d081``."""
    text = b"".join(row_digests).hex()
    places = range(0, len(text), 2 * DIGEST_BYTES)
    return [f"r{ordinal:07d}-{text[at : at + 8]}" for ordinal, at in enumerate(places, first_row)]
