"""How fast a job goes, as its counts were seen to move. Pure: times are arguments.

The rate is measured, never assumed. A moment is noted whenever the counts are seen to move. What they have grown by
between the first and the last of these moments, within ``WINDOW_S``, is the rate: growth before the first moment took
nobody knows how long. Counts that move less often than they did before slow it down; counts that stand still for the
whole window leave none.
"""

from __future__ import annotations

from itertools import pairwise

Moments = tuple[tuple[float, int], ...]
"""When the counts were seen to move, epoch seconds, and how many rows were done then."""

WINDOW_S = 900.0
"""How long a movement of the counts has a say in the rate."""

_MAX_MOMENTS = 20

_SHORTEST_S = 5.0
"""The shortest span that a rate is measured over."""


def moved(moments: Moments, n_before: int, n_done: int, now: float) -> Moments:
    """Return the moments of the last minutes, with this one if the count has moved.

    Args:
        moments: Those before.
        n_before: The count when it was looked at last.
        n_done: The count.
        now: Epoch seconds.
    """
    moments = tuple(moment for moment in moments if now - WINDOW_S <= moment[0] <= now)
    if n_before == n_done:
        return moments
    if len(moments) > 1 and moments[-1][0] - moments[-2][0] < WINDOW_S / _MAX_MOMENTS:
        moments = moments[:-1]
    return (*moments, (round(now, 1), n_done))


def rate_per_h(moments: Moments, now: float) -> float | None:
    """Return the rows of an hour, or None if that is not known."""
    if len(moments) < 2:
        return None
    first_at, last_at = moments[0][0], moments[-1][0]
    # Rows that are asked again count backwards for once; that is no growth, and no shrinking either.
    grown = sum(max(0, after - before) for (_, before), (_, after) in pairwise(moments))
    if grown <= 0 or last_at - first_at < _SHORTEST_S:
        return None
    usual_pause = (last_at - first_at) / (len(moments) - 1)
    return grown / (max(last_at, now - usual_pause) - first_at) * 3600
