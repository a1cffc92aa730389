"""What became of an eval: every row with its scores, the comparison by each metric, and whether it has passed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.evals.scores import Pair
from airflow_openai_batch.evals.statistics import Comparison, Verdict, compare


@dataclass(frozen=True)
class Result:
    """What became of an eval."""

    name: str
    pairs: Sequence[Pair]
    comparisons: Sequence[Comparison]
    tolerance: float
    costs: Mapping[str, float | None]
    """In dollars, by ``baseline``, ``candidate`` and ``judge``; None where a price is not known."""
    expected: str | None = None
    """The column of the golden set with the right answer."""
    passes_undecided: bool = False

    @property
    def n_left_out(self) -> int:
        """Rows that lack an answer, or a judgement, for no fault of a prompt."""
        return sum(
            any(getattr(pair, comparison.metric) is None for comparison in self.comparisons) for pair in self.pairs
        )

    @property
    def has_passed(self) -> bool:
        """Whether the candidate may take the baseline's place, by every metric."""
        allowed = {Verdict.PASSED} | ({Verdict.UNDECIDED} if self.passes_undecided else set())
        return all(comparison.verdict in allowed for comparison in self.comparisons)


def result_of(
    name: str,
    pairs: Sequence[Pair],
    metrics: Iterable[str],
    *,
    tolerance: float = 0.05,
    min_score: float | None = None,
    costs: Mapping[str, float | None],
    expected: str | None = None,
    passes_undecided: bool = False,
) -> Result:
    """Compare both prompts by each metric.

    Args:
        name: The eval's name.
        pairs: The rows; see ``scores``.
        metrics: ``exact``, ``judged`` or both.
        tolerance: By how much the candidate may be worse, 0 to 1.
        min_score: The least score that it must have; None for no such.
        costs: What was paid, in dollars.
        expected: The column of the golden set with the right answer.
        passes_undecided: Whether it passes when the rows are too few to tell.

    Raises:
        InputError: No row has a score.
    """
    comparisons = []
    for metric in metrics:
        scores = [getattr(pair, metric) for pair in pairs if getattr(pair, metric) is not None]
        if not scores:
            raise InputError(f"No row has a score by the metric {metric!r}: nothing was answered.")
        before, after = zip(*scores, strict=True)
        comparisons.append(compare(metric, before, after, tolerance=tolerance, min_score=min_score))
    return Result(name, pairs, comparisons, tolerance, costs, expected, passes_undecided)
