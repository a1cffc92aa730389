"""Whether another synchronous request fits under a job's cap. Pure.

Each request is counted with the most that it can cost while it is on its way, and with what it did cost afterwards.
"""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.direct.lines import DirectRequest
from airflow_openai_batch.engine.model import Cost, Job, ServiceTier, Shard, Usage
from airflow_openai_batch.engine.money.dollars import format_dollars
from airflow_openai_batch.engine.money.estimate import Estimator, Unpriced, at_most
from airflow_openai_batch.engine.money.prices import prices_of, tier_of
from airflow_openai_batch.engine.money.tokens import most_output_tokens

_MARGIN = 1.1
"""By how much more tokens a request may have than its bytes tell."""


class Budget:
    """What a job may still spend while a shard is asked.

    Attributes:
        prices: What models cost.
        mean_picodollars: What a request costs at most, by the estimate of all; 0 if that is not known.

    Args:
        job: The newest snapshot's job.
        shard: The shard.
        tier: The service tier in which it is asked.
    """

    def __init__(self, job: Job, shard: Shard, tier: ServiceTier) -> None:
        self.prices = prices_of(job.policy)
        self._cap, self._endpoint, self._tier = job.policy.max_cost, job.spec.endpoint, tier_of(tier)
        self._reserved = self._lost = self._others = 0
        self._unpriced: str | None = None
        self._tokens_per_byte = shard.n_tokens / shard.n_bytes if shard.n_bytes else 0.0
        self._model = shard.model
        self.mean_picodollars = 0
        self.refresh(job, shard)

    def refresh(self, job: Job, shard: Shard) -> None:
        """Take up what is known by a newer snapshot of all that the job spends beside this shard.

        Args:
            job: The newest snapshot's job.
            shard: The shard.
        """
        others = tuple(s for s in job.shards if s.id != shard.id)
        self._lost = 0  # the snapshot has it now
        estimator = Estimator(job, self.prices, is_finishing=True)
        n_left = shard.n_requests - (shard.direct.n_done if shard.direct is not None else 0)
        if shard.n_bytes and n_left > 0:
            estimate = estimator.of(shard)
            self._tokens_per_byte = estimate.input_tokens / (shard.n_bytes * n_left / shard.n_requests)
            self.mean_picodollars = (estimate.upper or estimate.expected or 0) // n_left
        try:
            self._unpriced = None
            spent = Estimator(msgspec.structs.replace(job, shards=others), self.prices).spent
            self._others = spent + estimator.running
        except Unpriced as unpriced:
            self._unpriced = str(unpriced)

    def tokens_of(self, request: DirectRequest) -> int:
        """Return about how many tokens a request counts for in a rate limit: its own, and those of its answer."""
        output = most_output_tokens(request.body, self._endpoint) or 0
        return round(request.n_bytes * self._tokens_per_byte) + output

    def refusal(self, request: DirectRequest, cost: Cost) -> str | None:
        """Return why a request must not be asked; None if it fits, or there is no cap.

        Args:
            request: The request.
            cost: What the answers of this shard cost so far.
        """
        most = self._most(request)
        request.most_picodollars = most or 0
        if self._cap is None:
            return None
        cap = format_dollars(self._cap)
        if self._unpriced is not None or most is None:
            reason = self._unpriced or f"what {self._model!r} costs synchronously ({self._tier}) is not known."
            return (
                f"max_cost is {cap}, and {reason} Nothing more is asked. Give the price and clear the submitting task."
            )
        # Answers whose tokens nobody counted, as of prompts that a filter stopped, cost no more than others may.
        uncounted = cost.n_unknown * max(most, self.mean_picodollars)
        spent = self._others + self._lost + cost.picodollars + uncounted
        if spent + self._reserved + most <= self._cap:
            return None
        return (
            f"max_cost is {cap}: {format_dollars(spent)} are spent or on their way, and the next synchronous request "
            f"may cost {format_dollars(most)}. Nothing more is asked. Raise max_cost and clear the submitting task to "
            "go on; answers so far are kept."
        )

    def reserve(self, request: DirectRequest) -> None:
        """Count a request that is sent."""
        self._reserved += request.most_picodollars

    def release(self, request: DirectRequest) -> None:
        """Count a request no more whose end is known."""
        self._reserved -= request.most_picodollars

    def lose(self, request: DirectRequest) -> None:
        """Count a request whose answer was lost: it may be billed all the same."""
        self._lost += request.most_picodollars

    def _most(self, request: DirectRequest) -> int | None:
        model = request.body.get("model")
        tariff = self.prices.tariff(model if isinstance(model, str) else self._model, tier=self._tier)
        if tariff is None:
            return None
        used = Usage(input_tokens=round(request.n_bytes * self._tokens_per_byte * _MARGIN) + 1)
        return at_most(tariff, used, most_output_tokens(request.body, self._endpoint), 1)
