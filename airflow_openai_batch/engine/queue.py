"""OpenAI's queue: what its errors say of it, and which shards may enter. Pure.

The limit counts enqueued input tokens per model and organization, cannot be asked for, and is met in two forms: a
batch that fails while validating, or HTTP 400 or 429 at the create call.
"""

from __future__ import annotations

import re

from airflow_openai_batch.engine.model import AT_OPENAI, Job, Shard, State

QUEUE_CODES = frozenset({"token_limit_exceeded"})
ACCOUNT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_QUEUE_WORDS = re.compile(r"enqueued token", re.IGNORECASE)
_FILE_WORDS = re.compile(r"cannot find file", re.IGNORECASE)
_LIMIT = re.compile(r"Limit:\s*([\d,]+)\s*enqueued tokens", re.IGNORECASE)


def is_queue_message(code: str | None, message: str) -> bool:
    """Say whether an error of the create call means that the queue is full (HTTP 400 and 429 were both seen)."""
    return code in QUEUE_CODES or bool(_QUEUE_WORDS.search(message))


def is_file_message(message: str) -> bool:
    """Say whether an error means that OpenAI does not see the input file."""
    return bool(_FILE_WORDS.search(message))


def queue_limit(message: str) -> int | None:
    """Return the limit of enqueued tokens that an error message states, if it does."""
    found = _LIMIT.search(message)
    return int(found[1].replace(",", "")) if found else None


class Gate:
    """Decides which shards may enter OpenAI's queue: the stated token budget, and what a full queue taught us."""

    def __init__(self, job: Job, now: float, *, is_closed: bool) -> None:
        self.is_open = not is_closed
        everything = (*job.earlier, *job.shards)
        budget = job.policy.max_enqueued_tokens
        used = sum(s.n_tokens for s in everything if s.state in AT_OPENAI)
        self._room = None if budget is None else budget - used
        self._is_empty = not used
        # Not those of earlier epochs: they are never sent again.
        waiting = [s for s in job.shards if s.state is State.UPLOADED and s.n_waits]
        self._is_shut = any(s.not_before > now for s in waiting)
        # After a full queue one batch at a time tries the door: each refused try is a failed batch in the dashboard.
        self._is_probing = bool(waiting)
        running = [s.batch for s in everything if s.state is State.RUNNING]
        self._is_probed = any(batch is not None and batch.status == "validating" for batch in running)

    def admits(self, shard: Shard) -> bool:
        """Say whether the shard may be sent now, and count it as sent if so."""
        if not self.is_open or self._is_shut or (self._is_probing and self._is_probed):
            return False
        # Cut for a larger budget, or grown by a conversation: what exceeds even the whole budget goes alone.
        if self._room is not None and shard.n_tokens > self._room and not self._is_empty:
            self._room = 0  # a later, smaller shard must not overtake for ever
            return False
        self._is_empty = False
        if self._room is not None:
            self._room -= shard.n_tokens
        self._is_probed = True
        return True
