"""Finding requests that a job has made before, while its rows stream by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SeenRequests:
    """Remembers requests by half of their digest: 8 bytes each, in sorted runs that are merged as they grow.

    Of two different requests with the same half the second counts as a repeat. It is found to be none when its answer
    is looked for, and asked by itself.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def repeats(self, digests: Sequence[bytes]) -> NDArray[np.bool_]:
        """Return which requests equal an earlier one, and remember the others.

        Args:
            digests: The digests of the next requests, 16 bytes each.
        """
        import numpy as np

        keys = np.frombuffer(b"".join(digests), np.uint64)[::2]
        unique, first = np.unique(keys, return_index=True)
        is_new = np.ones(len(unique), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            is_new &= run[at] != unique
        is_repeat = np.ones(len(keys), bool)
        is_repeat[first[is_new]] = False
        self._remember(unique[is_new])
        return is_repeat

    def _remember(self, run: Any) -> None:
        import numpy as np

        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")  # which makes one of two sorted runs
            self._runs.append(merged)
