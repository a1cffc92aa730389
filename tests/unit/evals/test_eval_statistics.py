"""Intervals, the sign test and the verdict of an eval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from airflow_openai_batch.evals.statistics import (
    Verdict,
    compare,
    difference_interval,
    score_interval,
    sign_test,
)


def test_the_interval_of_paired_proportions_is_that_of_bonett_and_price():
    # 30 rows, of which 12 got better and 4 worse; by the formula of the paper.
    n, better, worse = 30, 12, 4
    p12, p21 = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    half = 1.959964 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    found = difference_interval(np.array([1.0] * better + [-1.0] * worse + [0.0] * (n - better - worse)))
    assert found.value == pytest.approx(8 / 30)
    assert (found.low, found.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half))


def test_wilsons_interval_is_the_published_one():
    found = score_interval(np.array([1.0] * 8 + [0.0] * 2))  # Agresti and Coull's ways of 8 of 10
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert score_interval(np.ones(10)).low == pytest.approx(0.7225, abs=1e-4)


@pytest.mark.parametrize(
    ("better", "worse", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375), (9, 1, 0.021484375)]
)
def test_the_sign_test_is_exact(better, worse, p):
    assert sign_test(better, worse) == pytest.approx(p)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    for p_better, p_worse, n in [(0.1, 0.1, 60), (0.02, 0.01, 100), (0.3, 0.05, 40)]:
        draws = rng.choice([1.0, -1.0, 0.0], p=[p_better, p_worse, 1 - p_better - p_worse], size=(2000, n))
        found = [difference_interval(draw) for draw in draws]
        covered = np.mean([one.low <= p_better - p_worse <= one.high for one in found])
        assert covered >= 0.94, (p_better, p_worse, n, covered)


def scores(n_right, n):
    return [1.0] * n_right + [0.0] * (n - n_right)


def test_few_rows_without_a_difference_prove_nothing():
    assert compare("exact", scores(10, 10), scores(10, 10), tolerance=0.05).verdict is Verdict.UNDECIDED
    found = compare("exact", scores(100, 100), scores(100, 100), tolerance=0.05)
    assert found.verdict is Verdict.PASSED
    assert (found.difference.value, found.p_value) == (0, 1)


def test_a_worse_prompt_is_told_from_rows_that_are_too_few():
    assert compare("exact", scores(90, 100), scores(60, 100), tolerance=0.05).verdict is Verdict.WORSE
    near = compare("exact", scores(90, 100), scores(88, 100), tolerance=0.05)
    assert near.verdict is Verdict.UNDECIDED
    assert near.n_enough is not None and 100 < near.n_enough < 1000
    enough = scores(90, 100) * 8, scores(88, 100) * 8
    assert compare("exact", *enough, tolerance=0.05).verdict is Verdict.PASSED


def test_the_least_score_counts_whatever_the_baseline_has():
    assert compare("exact", scores(50, 100), scores(60, 100), tolerance=0.05, min_score=0.7).verdict is Verdict.TOO_LOW
    assert compare("exact", scores(0, 100), scores(0, 100), tolerance=0.05).verdict is Verdict.TOO_LOW


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], [1, 0]), ([2], [1]), ([0.5], [float("nan")])])
def test_scores_that_are_none_are_refused(before, after):
    with pytest.raises(ValueError, match="core"):
        compare("exact", before, after, tolerance=0)
