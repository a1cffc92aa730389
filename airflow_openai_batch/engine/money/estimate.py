"""What a job will cost: expected, by answers to requests like its own, and at most, by the bodies' bound. Pure.

This is the one place that decides both; the cap, the plan, logs and the page only use what is said here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from airflow_openai_batch.engine.model import AT_OPENAI, BILLED, UNSENT, Cost, Job, Shard, State, Usage, Value
from airflow_openai_batch.engine.money.dollars import PICODOLLARS, format_dollars
from airflow_openai_batch.engine.money.own_answers import OwnAnswers
from airflow_openai_batch.engine.money.prices import Prices, Tariff, Tier, tier_of

Basis = Literal["own", "earlier", "bound", ""]
"""What the expected length of answers is known by: the job's own answers, those of an earlier job of the same task,
only the bound in the bodies, or nothing."""

_BASES: tuple[Basis, ...] = ("own", "earlier", "bound", "")
"""The surest first."""


class Unpriced(Exception):
    """What a job spends cannot be told.

    Args:
        reason: Why, and what to do.
    """


class Estimate(Value, frozen=True, kw_only=True):
    """What a job will use and cost. Costs are of the whole job; the other numbers of what has no answer yet.

    Rows that have to be asked once more, as their answer is no good, come on top.
    """

    n_requests: int = 0
    """Requests that are running or still to be sent."""
    n_bytes: int = 0
    """Their size."""
    input_tokens: int = 0
    output_tokens: int | None = None
    """As many as are expected; None if nothing tells how long answers are."""
    max_output_tokens: int | None = None
    """As many as the bodies allow; None if one of them sets no bound."""
    spent_picodollars: int = 0
    """What answers cost so far, as far as that is known."""
    expected_picodollars: int | None = None
    """What all answers will have cost in the end, those so far among them."""
    upper_picodollars: int | None = None
    """The same, if every answer is as long as the bodies allow."""
    basis: Basis = ""
    """What the expectation stands on; of several models, the least sure."""
    unknown: str | None = None
    """Why a cost is not known, and what to do; None if both are."""
    n_sampled: int = 0
    """Requests of which it was seen whether all their input is counted."""
    n_uncounted: int = 0
    """Of these, those whose input is not: costs are at least what is told."""


class ShardEstimate(NamedTuple):
    """What the requests of a shard will use and cost; see ``Estimate``. Costs are of these requests alone."""

    input_tokens: int
    output_tokens: int | None
    max_output_tokens: int | None
    expected: int | None
    upper: int | None
    basis: Basis
    unknown: str | None

    @property
    def safe(self) -> int:
        """What a cap has to count: by the job's own answers, else at most.

        Raises:
            Unpriced: That is not known.
        """
        cost = self.expected if self.basis == "own" else self.upper
        if cost is None:
            raise Unpriced(self.unknown or "")
        return cost


class Estimator:
    """Estimates the shards of one snapshot of a job.

    Args:
        job: The job.
        prices: What models cost.
        is_finishing: Whether what is not sent yet will be asked synchronously.
    """

    def __init__(self, job: Job, prices: Prices, *, is_finishing: bool = False) -> None:
        self.job = job
        self._prices, self._answers, self._is_finishing = prices, OwnAnswers(job), is_finishing
        self._earlier = {shard.id for shard in job.earlier}

    @functools.cached_property
    def spent(self) -> int:
        """What a cap has to count of all answers so far, in picodollars; see ``spent_by``.

        Raises:
            Unpriced: That is not known of some.
        """
        return spent_by(self.job, self._prices, most_of=self._most_of)

    @functools.cached_property
    def running(self) -> int:
        """What a cap has to count of the requests that are being paid for, in picodollars.

        Raises:
            Unpriced: That is not known.
        """
        return sum(estimate.safe for estimate in self._committed) + self.job.maybe_paid_picodollars

    @functools.cached_property
    def upper_running(self) -> int | None:
        """What those cost if every answer is as long as it may be; None if that is not bounded."""
        return _sum(estimate.upper for estimate in self._committed)

    @functools.cached_property
    def n_running(self) -> int:
        """How many requests those are."""
        return sum(shard.n_requests for shard in self.job.all_shards if is_committed(shard))

    @functools.cached_property
    def _committed(self) -> list[ShardEstimate]:
        return [self.of(shard) for shard in self.job.all_shards if is_committed(shard)]

    def n_answers(self, shard: Shard) -> int:
        """Return how many answers tell what a shard, or what runs beside it, will cost.

        Args:
            shard: The shard.
        """
        answers = self._answers.for_shard(shard)
        return answers.n if answers is not None else self._answers.n

    def of(self, shard: Shard) -> ShardEstimate:
        """Return what the requests of a shard will use and cost; of one that is asked synchronously, what is left.

        Args:
            shard: The shard, which need not be sent yet.
        """
        shard = _rest_of(shard)
        used, most = self._answers.input_of(shard), self._most_output(shard)
        output, basis = self._expected_output(shard, most)
        expected, upper, unknown = self._costs(shard, used, output, most, basis)
        return ShardEstimate(used.input_tokens, output, most, expected, upper, basis, unknown)

    def _most_output(self, shard: Shard) -> int | None:
        """Return how many tokens the answers of a shard may have at most; None if its bodies set no bound."""
        bound, measure = shard.max_output_tokens, self.job.measure
        if bound is None and measure is not None and shard.id not in self._earlier:
            bound = measure.max_output_tokens
        return bound * shard.n_requests if bound is not None else None

    def _most_of(self, shard: Shard) -> int | None:
        """Return what the answers of a shard cost at most; None if that is not known."""
        tariff = self._prices.tariff(shard.model, tier=_tier_of(shard))
        if tariff is None or not shard.n_requests:
            return None
        return at_most(tariff, Usage(input_tokens=shard.n_tokens), self._most_output(shard), shard.n_requests)

    def _expected_output(self, shard: Shard, most: int | None) -> tuple[int | None, Basis]:
        measure, answers = self.job.measure, self._answers.for_shard(shard)
        if answers is not None:
            return round(answers.output_tokens * shard.n_requests), "own"
        is_of_now = measure is not None and shard.id not in self._earlier
        earlier = measure.expected_output_tokens.get(shard.model or "") if measure is not None and is_of_now else None
        if earlier is not None:
            expected = round(earlier * shard.n_requests)
            return expected if most is None else min(expected, most), "earlier"
        return (most, "bound") if most is not None else (None, "")

    def _costs(
        self, shard: Shard, used: Usage, output: int | None, most: int | None, basis: Basis
    ) -> tuple[int | None, int | None, str | None]:
        """Return the expected cost, the highest one, and why one of them is not known."""
        tier = self._tier(shard)
        tariff = self._prices.tariff(shard.model, tier=tier)
        if tariff is None:
            way = "" if tier == "batch" else f" for synchronous requests ({tier})"
            return None, None, f"the price of {shard.model!r}{way} is not known. Give it (`prices`)."
        upper = at_most(tariff, used, most, shard.n_requests)
        expected = upper if basis == "bound" else _cost(tariff, used, output, shard.n_requests)
        if upper is not None and expected is not None:
            return expected, max(expected, upper), None
        if (most is not None and upper is None) or (output is not None and expected is None):
            return expected, upper, f"the price of {shard.model!r} for output is not known. Give it (`prices`)."
        return expected, upper, "the body sets no bound of the answers. Set max_output_tokens in it."

    def _tier(self, shard: Shard) -> Tier:
        if shard.direct is not None:
            return _tier_of(shard)
        is_next = self._is_finishing and shard.state in UNSENT
        return tier_of(self.job.policy.finish_tier) if is_next else "batch"


def _rest_of(shard: Shard) -> Shard:
    """Return a shard as if it had only the requests that have no answer yet, as far as it is asked synchronously."""
    if shard.direct is None or shard.outcomes is not None or not shard.n_requests:
        return shard
    n_left = max(0, shard.n_requests - shard.direct.n_done)
    return msgspec.structs.replace(
        shard,
        n_requests=n_left,
        n_bytes=shard.n_bytes * n_left // shard.n_requests,
        n_tokens=shard.n_tokens * n_left // shard.n_requests,
    )


def _cost(tariff: Tariff, used: Usage, output: int | None, n_requests: int) -> int | None:
    """Return what requests of about the same size cost; None if that is not known."""
    if output is None:
        return None
    return tariff.cost(used + Usage(output_tokens=output), n_requests)


def at_most(tariff: Tariff, used: Usage, most: int | None, n_requests: int) -> int | None:
    """Return what requests cost whose answers are as long as they may be, and of whose input nothing is cached yet.

    Args:
        tariff: The prices.
        used: Their input tokens.
        most: The output tokens that their bodies allow; None if they set no bound.
        n_requests: How many they are, all of about the same size.

    Returns:
        Picodollars, or None if that is not known.
    """
    n = used.input_tokens
    costs = [_cost(tariff, Usage(input_tokens=n, cache_write_tokens=m), most, n_requests) for m in (0, n)]
    return max(known) if (known := [cost for cost in costs if cost is not None]) else None


def spent_by(job: Job, prices: Prices, most_of: Callable[[Shard], int | None] = lambda shard: None) -> int:
    """Return what all answers of a job cost so far, in picodollars.

    Answers that had no price when they came are counted by their tokens and the price of today.

    Args:
        job: The job.
        prices: What models cost.
        most_of: Returns what all answers of a shard cost at most, of which some or all have no count of tokens:
            Azure's content filter refuses prompts, which are charged, without saying what they used. These answers
            count with their part of it. None: it stays unknown.

    Raises:
        Unpriced: It is not known of some.
    """
    amounts: list[tuple[Cost, int | None]] = []
    for shard in job.all_shards:
        amount = _amount(prices, shard.cost, shard.usage, [shard.model], _n_billed(shard), _tier_of(shard))
        most, n_billed = most_of(shard) if shard.cost.n_unknown else None, _n_billed(shard)
        if amount is None:
            amount = most
        elif most is not None and shard.cost.n_unknown < n_billed:
            # Others of the shard had a price, so what these lack is their tokens, which are in no sum.
            amount += -(-most * shard.cost.n_unknown // n_billed)
        amounts.append((shard.cost, amount))
    models: list[str | None] = list({shard.model: None for shard in job.all_shards if shard.model is not None})
    # Of what is remembered no more, nobody knows the model: the dearest counts.
    dropped = job.dropped_cost
    amounts.append((dropped, _amount(prices, dropped, job.dropped_usage, models, dropped.n_unknown, "batch")))
    if job.probe is not None:
        amounts.append((job.probe.cost, _amount(prices, job.probe.cost, job.probe.usage, models, 1, "standard")))
    if n_unknown := sum(cost.n_unknown for cost, amount in amounts if amount is None):
        raise Unpriced(f"the cost of {n_unknown:,} answers is not known. Give the model's price (`prices`).")
    return sum(amount for _, amount in amounts if amount is not None)


def _tier_of(shard: Shard) -> Tier:
    return tier_of(shard.direct.tier) if shard.direct is not None else "batch"


def _n_billed(shard: Shard) -> int:
    return sum(shard.tally.get(status, 0) for status in BILLED)


def _amount(
    prices: Prices, cost: Cost, usage: Usage, models: Sequence[str | None], n_answers: int, tier: Tier
) -> int | None:
    """Return what answers cost; None if that is not known.

    Args:
        prices: What models cost today. If some answers had no price when they came, all are priced by their tokens.
        cost: What was known when they came.
        usage: Their tokens.
        models: The models that were asked.
        n_answers: How many they are.
        tier: How they were asked.
    """
    if not cost.n_unknown:
        return cost.picodollars
    tariffs = [prices.tariff(model, tier=tier) for model in models]
    costs = [tariff.cost(usage, max(1, n_answers)) if tariff is not None else None for tariff in tariffs]
    known = [picodollars for picodollars in costs if picodollars is not None]
    # A server that counts no tokens leaves the cost unknown, whatever the price.
    if not known or len(known) < len(costs) or not (usage.input_tokens or usage.output_tokens):
        return None
    return max(*known, cost.picodollars)


def is_committed(shard: Shard) -> bool:
    """Return whether the requests of a shard are being paid for, and what they cost is not known yet."""
    is_fetched_next = shard.state is State.ENDED and shard.outcomes is None and shard.direct is None
    return shard.state in AT_OPENAI or is_fetched_next


def estimate_of(job: Job, prices: Prices) -> Estimate:
    """Return what a job will use and cost.

    Args:
        job: The newest snapshot's job.
        prices: What models cost.
    """
    estimator = Estimator(job, prices)
    open_shards = [shard for shard in job.shards if shard.outcomes is None and shard.n_requests]
    open_shards += [shard for shard in job.earlier if is_committed(shard)]
    parts = [estimator.of(shard) for shard in open_shards]
    open_shards = [_rest_of(shard) for shard in open_shards]
    unknown = next((part.unknown for part in parts if part.unknown), None)
    spent: int | None = None
    try:
        spent = spent_by(job, prices)
    except Unpriced as unpriced:
        unknown = str(unpriced)
    basis: Basis = max((part.basis for part in parts), key=_BASES.index, default="own")
    # What answers were billed for tells of all input.
    measure = job.measure if basis != "own" else None
    return Estimate(
        n_requests=sum(shard.n_requests for shard in open_shards),
        n_bytes=sum(shard.n_bytes for shard in open_shards),
        input_tokens=sum(part.input_tokens for part in parts),
        output_tokens=_sum(part.output_tokens for part in parts),
        max_output_tokens=_sum(part.max_output_tokens for part in parts),
        spent_picodollars=job.cost.picodollars if spent is None else spent,
        expected_picodollars=_sum([spent, *(part.expected for part in parts)]),
        upper_picodollars=_sum([spent, *(part.upper for part in parts)]),
        basis=basis,
        unknown=unknown,
        n_sampled=measure.n_sampled if measure is not None and measure.n_uncounted else 0,
        n_uncounted=measure.n_uncounted if measure is not None else 0,
    )


def probe_cost(job: Job, prices: Prices, shards: Sequence[Shard]) -> int | None:
    """Return what asking one row synchronously costs at most, in picodollars; None if that is not known.

    Args:
        job: The job.
        prices: What models cost.
        shards: The shards of which one has the row: as long as their rows are on average.
    """
    estimator, most = Estimator(job, prices), 0
    for shard in shards:
        estimate, tariff = estimator.of(shard), prices.tariff(shard.model, tier="standard")
        if tariff is None or estimate.max_output_tokens is None:
            return None
        n_input, n_output = (-(-n // shard.n_requests) for n in (estimate.input_tokens, estimate.max_output_tokens))
        cost = tariff.cost(Usage(input_tokens=n_input, output_tokens=n_output))
        if cost is None:
            return None
        most = max(most, cost)
    return most


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return a sum, or None if one of the numbers is not known."""
    total = 0
    for n in numbers:
        if n is None:
            return None
        total += n
    return total


def estimate_in_dollars(estimate: Estimate) -> dict[str, float | str | None]:
    """Return what is told of an estimate, wherever it is told, in dollars; without costs if all answers are there.

    Args:
        estimate: The estimate.
    """
    amounts = {"expected_cost": estimate.expected_picodollars, "upper_cost": estimate.upper_picodollars}
    is_open = estimate.n_requests > 0
    return {
        **{name: n / PICODOLLARS if n is not None and is_open else None for name, n in amounts.items()},
        "estimate_basis": estimate.basis if is_open else "",
        "estimate_unknown": estimate.unknown if is_open else None,
    }


def estimate_text(estimate: Estimate) -> str:
    """Return an estimate for a person: ``about 12.3 M input tokens, $4.10 expected, at most $9.80``.

    Args:
        estimate: The estimate.
    """
    parts = [f"about {format_count(estimate.input_tokens)} input tokens"]
    if estimate.expected_picodollars is not None and estimate.basis != "bound":
        parts.append(f"{format_dollars(estimate.expected_picodollars)} expected")
    if estimate.upper_picodollars is not None:
        parts.append(f"at most {format_dollars(estimate.upper_picodollars)}")
    if estimate.unknown is not None:
        parts.append(estimate.unknown.rstrip("."))
    if estimate.n_uncounted:
        parts.append(uncounted_text(estimate))
    return ", ".join(parts)


def uncounted_text(estimate: Estimate) -> str:
    """Return that some of the input is not in an estimate, and where that was seen.

    Args:
        estimate: The estimate.
    """
    return (
        f"without some input of {estimate.n_uncounted:,} of {estimate.n_sampled:,} sampled requests, which cannot be "
        "counted before they are answered (pictures, files, stored prompts, conversations, hosted tools)"
    )


def format_count(n: int) -> str:
    """Return a number as exact as an estimate is: ``8,400``, ``84 k``, ``12.3 M``, ``1.2 G``.

    Args:
        n: The number.
    """
    if n < 10_000:
        return f"{n:,}"
    # What would be rounded to a thousand of a unit is one of the next.
    size, unit = next(pair for pair in _UNITS if n >= pair[0] - pair[0] // 20_000)
    return f"{n / size:.1f}".removesuffix(".0") + f" {unit}"


_UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))
