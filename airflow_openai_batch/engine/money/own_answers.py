"""What a job's own answers say of its other requests: how many input tokens they have, how long answers are. Pure."""

from __future__ import annotations

from typing import NamedTuple

from airflow_openai_batch.engine.model import BILLED, Job, Shard, Usage

_ENOUGH_ROWS = 20
"""Answers after which the job's own tell more than anything else; fewer if its pilot has fewer rows."""


class Answers(NamedTuple):
    """Answers of one model.

    Attributes:
        n: How many there are.
        n_asked: How many of them this epoch asked itself; the others were carried over.
        counted: Input tokens of the requests that it asked, as they were counted before they were sent.
        usage: The tokens that those were billed for.
        output_sum: The output tokens of all.
    """

    n: int = 0
    n_asked: int = 0
    counted: float = 0.0
    usage: Usage = Usage()
    output_sum: int = 0

    @property
    def output_tokens(self) -> float:
        """Tokens of an answer on average."""
        return self.output_sum / self.n

    def asked(self, n: int, counted: float, usage: Usage) -> Answers:
        """Return these and others that this epoch asked itself.

        Args:
            n: How many there are.
            counted: Input tokens of their requests, as they were counted before they were sent.
            usage: The tokens that they were billed for.
        """
        return Answers(
            self.n + n,
            self.n_asked + n,
            self.counted + counted,
            self.usage + usage,
            self.output_sum + usage.output_tokens,
        )

    def carried(self, n: int, usage: Usage) -> Answers:
        """Return these and others that were carried over.

        Args:
            n: How many there are.
            usage: The tokens that they were billed for when they were asked.
        """
        return self._replace(n=self.n + n, output_sum=self.output_sum + usage.output_tokens)


class OwnAnswers:
    """The answers to a job's own requests in one snapshot, by model, where there are enough.

    Those to requests of earlier epochs tell nothing: another prompt has other answers. What was carried over from them
    does, as its requests are the same. Answers of other jobs count in a pilot alone: they stand for its rows.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self._measure = job.measure
        self._earlier = {shard.id for shard in job.earlier}
        by_model: dict[str | None, Answers] = {}
        for shard in job.shards:
            sums = by_model.get(shard.model, Answers())
            carried = shard.carried
            if carried is not None and carried.usage.input_tokens and (shard.is_pilot or not carried.n_reused):
                sums = sums.carried(carried.n_rows, carried.usage)
            if shard.outcomes is not None and shard.n_requests:
                n = sum(shard.tally.get(status, 0) for status in BILLED)
                # A server that counts no tokens tells nothing.
                if shard.usage.input_tokens or not n:
                    sums = sums.asked(n, self._counted(shard) * n / shard.n_requests, shard.usage)
            by_model[shard.model] = sums
        enough = min(_ENOUGH_ROWS, job.policy.pilot_rows or _ENOUGH_ROWS)
        self._by_model = {model: answers for model, answers in by_model.items() if answers.n >= enough}

    @property
    def n(self) -> int:
        """How many answers tell something, of all models."""
        return sum(answers.n for answers in self._by_model.values())

    def of(self, model: str | None) -> Answers | None:
        """Return the answers of a model; None if there are too few to tell anything.

        Args:
            model: The model.
        """
        return self._by_model.get(model)

    def for_shard(self, shard: Shard) -> Answers | None:
        """Return the answers that tell what those to a shard's requests will be like; None if there are too few.

        Args:
            shard: The shard, which may be of an earlier epoch: nothing tells of that.
        """
        return None if shard.id in self._earlier else self.of(shard.model)

    def input_of(self, shard: Shard) -> Usage:
        """Return the input tokens that a shard's requests will be billed for: as counted, corrected by the answers.

        Args:
            shard: The shard.
        """
        counted, answers = self._counted(shard), self.for_shard(shard)
        if answers is None or not answers.counted:
            return Usage(input_tokens=round(counted))
        ratio = counted / answers.counted
        return Usage(
            input_tokens=round(answers.usage.input_tokens * ratio),
            cached_tokens=round(answers.usage.cached_tokens * ratio),
            cache_write_tokens=round(answers.usage.cache_write_tokens * ratio),
        )

    def _counted(self, shard: Shard) -> float:
        measure = self._measure
        if measure is not None and measure.tokens_per_byte is not None:
            return measure.tokens_per_byte * shard.n_bytes
        return shard.n_tokens
