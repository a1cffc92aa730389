"""From the scores of two prompts over the same rows to intervals, a verdict and how many rows would be enough.

Scores lie between 0 and 1. The rows are the same for both prompts, so their differences are looked at row by row.

* The interval of the difference is that of Bonett and Price (Adjusted Wald confidence interval for a difference of
  binomial proportions based on paired data, 2012): one row that got better and one that got worse are added, and the
  normal approximation is taken. It holds for the few rows that a golden set has, also where no row differs, which a
  bootstrap would take for certainty. For graded scores the same is done, which is cautious.
* The interval of one prompt's score is Wilson's; of graded scores too, whose variance is at most that of 0 and 1.
* The p-value is that of the exact sign test, which for scores of 0 and 1 is McNemar's exact test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

_Z = 1.959964
"""Half the width of a two-sided interval of 95 percent, in standard errors."""


class Verdict(StrEnum):
    """What the interval of the difference says of the candidate."""

    PASSED = "passed"
    """It is no worse than the tolerance allows: all of the interval lies above that."""
    WORSE = "worse"
    """It is worse: all of the interval lies below that."""
    UNDECIDED = "undecided"
    """The rows are too few to tell."""
    TOO_LOW = "too low"
    """It is never right, or its score is lower than the least that is asked for."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval of 95 percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two prompts by one metric."""

    metric: str
    n: int
    """Rows that have a score of both."""
    baseline: Interval
    candidate: Interval
    difference: Interval
    """Of the candidate to the baseline: above 0 it is better."""
    n_better: int
    n_worse: int
    p_value: float
    """How probable so one-sided a change is among equal prompts."""
    verdict: Verdict
    n_enough: int | None = None
    """About how many rows would decide, if the difference stayed as it is; None if no number would."""


def compare(
    metric: str,
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    tolerance: float,
    min_score: float | None = None,
) -> Comparison:
    """Compare two prompts by their scores of the same rows.

    Args:
        metric: The metric's name.
        baseline: The baseline's scores, 0 to 1.
        candidate: The candidate's scores of the same rows.
        tolerance: By how much the candidate may be worse, 0 to 1.
        min_score: The least score that the candidate must have; None for no such.

    Raises:
        ValueError: There are no scores, not as many of both, or some are not between 0 and 1.
    """
    before, after = np.asarray(baseline, float), np.asarray(candidate, float)
    if before.shape != after.shape or not len(before):
        raise ValueError(f"{len(before)} scores cannot be compared with {len(after)}.")
    if not all(((scores >= 0) & (scores <= 1)).all() for scores in (before, after)):
        raise ValueError("Scores must be between 0 and 1.")
    difference = difference_interval(after - before)
    n_better, n_worse = int((after > before).sum()), int((after < before).sum())
    of_candidate = score_interval(after)
    is_low = of_candidate.value == 0 or (min_score is not None and of_candidate.value < min_score)
    return Comparison(
        metric=metric,
        n=len(before),
        baseline=score_interval(before),
        candidate=of_candidate,
        difference=difference,
        n_better=n_better,
        n_worse=n_worse,
        p_value=sign_test(n_better, n_worse),
        verdict=Verdict.TOO_LOW if is_low else verdict_of(difference, tolerance),
        n_enough=_n_enough(difference, len(before), tolerance),
    )


def difference_interval(differences: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    """Return the mean of paired differences (-1 to 1) with Bonett's and Price's interval."""
    adjusted = np.append(differences, [1.0, -1.0])
    center = float(adjusted.mean())
    half = _Z * float(adjusted.std()) / math.sqrt(len(adjusted))
    return Interval(float(differences.mean()), max(-1.0, center - half), min(1.0, center + half))


def score_interval(scores: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    """Return the mean of scores (0 to 1) with Wilson's interval."""
    n, share = len(scores), float(scores.mean())
    scale = 1 + _Z**2 / n
    center = (share + _Z**2 / (2 * n)) / scale
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / scale
    return Interval(share, max(0.0, center - half), min(1.0, center + half))


def sign_test(n_better: int, n_worse: int) -> float:
    """Return the two-sided p-value of the exact sign test."""
    n, fewer = n_better + n_worse, min(n_better, n_worse)
    tail: int = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n))


def verdict_of(difference: Interval, tolerance: float) -> Verdict:
    """Return what the interval of a difference says, held against a tolerance."""
    if difference.low >= -tolerance:
        return Verdict.PASSED
    return Verdict.WORSE if difference.high < -tolerance else Verdict.UNDECIDED


def _n_enough(difference: Interval, n: int, tolerance: float) -> int | None:
    room = abs(difference.value + tolerance)
    half = (difference.high - difference.low) / 2
    return math.ceil(n * (half / room) ** 2) if room > 1e-9 else None
