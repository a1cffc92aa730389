"""Counting the tokens of a job's requests by a sample of them, while they stream by or when they are in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from airflow_openai_batch.engine.model import Measure
from airflow_openai_batch.engine.money.tokens import TokenCounter, has_uncounted_input

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_openai_batch.engine.encoding import Counts

    Ratios = NDArray[np.float64]

BYTES_PER_TOKEN = 4
"""Of English text, where nothing was counted."""

_FIRST_BYTES, _SHARE = 256 * 1024, 256
"""The first requests are counted one by one, and of the bytes that follow one in so many."""

_OF_EACH_SHARD = 64
"""Requests that are counted of each shard, where a shard may have only so many tokens."""

_NEAR = 8
"""How many requests tell what those between them are like: rows may be sorted by language."""

_MARGIN = 0.03
"""By how much more tokens than estimated a request is counted on where a limit must not be passed."""


class Tokens(NamedTuple):
    """Input tokens of requests, each an array of the same length.

    Attributes:
        expected: Counted, or estimated by those that were counted.
        at_most: The same, with a margin where it is an estimate.
    """

    expected: Counts
    at_most: Counts


class TokenSample:
    """Counts some requests of a job, spread over its bytes, and estimates the others by those near them.

    Attributes:
        problem: Why tokens cannot be counted; None if they can.

    Args:
        endpoint: The job's endpoint.
        max_tokens: How many tokens a shard may have; None if that is not bounded. Of each shard so many requests are
            counted that it keeps this.
    """

    def __init__(self, endpoint: str, max_tokens: int | None = None) -> None:
        self.problem: str | None = None
        self._max_tokens = max_tokens
        self._allowance = float(_FIRST_BYTES)
        self._ratios: dict[str | None, float] = {}
        self._n_sampled = 0
        self._n_uncounted = 0
        self._counter: TokenCounter | None = None
        try:
            self._counter = TokenCounter(endpoint)
        except ImportError as error:
            self.problem = f"Tokens cannot be counted ({error}), so four bytes of a request count as one."

    def weigh(self, sizes: Counts, body: Callable[[int], bytes], model: str | None) -> Tokens:
        """Return the input tokens of requests of one model.

        Args:
            sizes: The sizes of their bodies in bytes.
            body: Returns the JSON of the body at a place.
            model: Their model.
        """
        import numpy as np

        places = self._places(sizes, is_known=model in self._ratios)
        counts = [self._count(body(place)) for place in places]
        counted = {place: n for place, n in zip(places, counts, strict=True) if n is not None}
        ratio = self._ratio(sizes, counted, model)
        expected = sizes // BYTES_PER_TOKEN + 1 if ratio is None else np.ceil(sizes * ratio).astype(np.int64)
        at_most = np.ceil(expected * (1 + _MARGIN)).astype(np.int64) if ratio is not None else expected.copy()
        for place, n in counted.items():
            expected[place] = at_most[place] = n
        return Tokens(expected, at_most)

    def _ratio(self, sizes: Counts, counted: dict[int, int], model: str | None) -> Ratios | float | None:
        """Return the tokens of a byte: of each request, by those near it that were counted, or of all if few were."""
        import numpy as np

        if not counted:
            return self._ratios.get(model)
        # Places are chosen by bytes, so each ratio counts once.
        places = np.fromiter(counted, dtype=np.int64)
        ratios = np.fromiter(counted.values(), dtype=float) / sizes[places]
        mean = float(ratios[-_NEAR:].mean())
        if len(ratios) < _NEAR:  # few do not stand for themselves
            before = self._ratios.get(model, mean)
            self._ratios[model] = before + (mean - before) * len(ratios) / _NEAR
            return self._ratios[model]
        self._ratios[model] = mean
        around = np.pad(ratios, (_NEAR // 2, _NEAR - 1 - _NEAR // 2), mode="edge")
        return np.interp(np.arange(len(sizes)), places, np.convolve(around, np.ones(_NEAR) / _NEAR, "valid"))

    def _places(self, sizes: Counts, *, is_known: bool) -> Sequence[int]:
        """Return which requests are counted: all while that is little, else some at even distances of bytes."""
        import numpy as np

        total = int(sizes.sum())
        share = 1 / _SHARE
        if self._max_tokens is not None:
            share = max(share, _OF_EACH_SHARD * total / len(sizes) / (self._max_tokens * BYTES_PER_TOKEN))
        self._allowance += total * min(1.0, share)
        if total <= self._allowance:
            self._allowance -= total
            return range(len(sizes))
        # The longer a request, the likelier it is chosen.
        mean = float(np.square(sizes, dtype=float).sum()) / total
        n = max(0 if is_known else 1, int(self._allowance // mean))
        if not n:
            return ()
        places = np.unique(np.searchsorted(np.cumsum(sizes), (np.arange(n) + 0.5) * (total / n)))
        self._allowance -= int(sizes[places].sum())
        return [int(place) for place in places]

    def _count(self, body: bytes) -> int | None:
        try:
            decoded = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeError):  # half a character, which OpenAI may accept
            return None
        self._n_sampled += 1
        self._n_uncounted += has_uncounted_input(decoded)
        try:
            return self._counter.count(decoded) if self._counter is not None else None
        except UnicodeError:
            return None

    def measure(self, max_output_tokens: int | None) -> Measure | None:
        """Return what the requests so far are like; None if there are none.

        Args:
            max_output_tokens: How many tokens an answer may have at most, by the bodies of all of them.
        """
        if not self._n_sampled:
            return None
        return Measure(max_output_tokens=max_output_tokens, n_sampled=self._n_sampled, n_uncounted=self._n_uncounted)
