"""Who watches a schedule and says what must hold, from what the emulator billed and what the store was told."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from schedule_plan import Plan

from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.clock import ManualClock
from airflow_openai_batch.emulator.ledger import Billed, body_hash
from airflow_openai_batch.emulator.model import Batch, Status
from airflow_openai_batch.engine.model import Job
from airflow_openai_batch.engine.store.job_store import JobStore

NONCE = "airflow_openai_batch"
_SHARD = re.compile(r"[0-9a-f]+/\d+/(\d+-\d{5}(?:\.\d+)?)[^/]*/[^/]+")


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Epoch:
    """What one epoch asks."""

    group: int
    """How often a person had asked to start over by then."""
    bodies: dict[str, int] = field(default_factory=dict)
    """Hash of each request's body, by custom_id."""


def shard_of(batch: Batch) -> str:
    """Return the shard for which a batch was made; its id says the epoch."""
    found = _SHARD.fullmatch((batch.metadata or {}).get(NONCE, ""))
    if found is None:
        raise Violation(f"A batch without a nonce: {batch.metadata}")
    return found[1]


def epoch_of(batch: Batch) -> int:
    """Return the epoch for which a batch was made."""
    return int(shard_of(batch).partition("-")[0])


def root_of(batch: Batch) -> str:
    """Return the first-round shard that a batch serves."""
    return shard_of(batch).partition(".")[0]


class Witness:
    """Sees every snapshot and every batch."""

    def __init__(self, plan: Plan, backend: Backend, clock: ManualClock) -> None:
        self._plan = plan
        self._backend = backend
        self._clock = clock
        self.intents: set[str] = set()
        self.has_new_intent = False
        """Whether the newest snapshot announces a create."""
        self.epochs: dict[int, Epoch] = {}
        self.poison: Counter[int] = Counter()
        self.late: set[str] = set()
        """Batches made by a process that had been frozen for too long."""
        self.n_snapshots = 0
        self._seen: dict[str, Batch] = {}
        self._posted: set[str] = set()

    # -- while it runs -----------------------------------------------------------------------------------------

    def note_snapshot(self, store: JobStore, job: Job) -> None:
        """A snapshot was made."""
        self.n_snapshots += 1
        nonces = {s.intent.nonce for s in job.all_shards if s.intent is not None}
        self.has_new_intent = not nonces <= self.intents
        self.intents |= nonces
        if job.epoch not in self.epochs:
            group = sum(name.startswith("start_over-") for name in job.acknowledged)
            lines = (json.loads(line) for s in job.shards for line in store.read(s.requests).split(b"\n") if line)
            self.epochs[job.epoch] = Epoch(group, {line["custom_id"]: body_hash(line["body"]) for line in lines})

    def note_poison(self, body: dict[str, Any]) -> None:
        """A request that is wrong for ever was answered so."""
        self.poison[body_hash(body)] += 1

    def check_intent(self, request: dict[str, Any]) -> None:
        """A create must have been announced in the store, and only one may carry a nonce."""
        nonce = (request.get("metadata") or {}).get(NONCE)
        if nonce not in self.intents:
            raise Violation(f"A batch was created without a committed intent: {nonce}")
        if nonce in self._posted:
            raise Violation(f"The same intent was sent twice: {nonce}")
        self._posted.add(nonce)

    def note_batches(self, *, is_late: bool) -> list[Batch]:
        """Take note of batches that were made by the last call."""
        made = [batch for batch in self._backend.all() if batch.id not in self._seen]
        for batch in made:
            self._seen[batch.id] = batch
            if is_late:
                self.late.add(batch.id)
        return made

    def check_live(self) -> None:
        """No shard has two batches that run, unless one is the work of a frozen process."""
        by_shard: dict[str, list[str]] = defaultdict(list)
        for batch in self._backend.ledger.live_batches():
            by_shard[shard_of(batch)].append(batch.id)
        for shard, ids in by_shard.items():
            if len(ids) > 1 and not self.late & set(ids):
                raise Violation(f"Shard {shard} has {len(ids)} live batches: {ids}")

    # -- in the end --------------------------------------------------------------------------------------------

    def check_paid(self) -> None:
        """No request was paid for twice, and none that is wrong for ever was asked again."""
        late_roots = {root_of(self._seen[batch_id]) for batch_id in self.late}
        paid: dict[tuple[str, int, int], set[str]] = defaultdict(set)
        for row, batch in self._good_rows():
            if root_of(batch) not in late_roots:
                paid[row.custom_id, row.body_hash, self.epochs[epoch_of(batch)].group].add(batch.id)
        twice = {key: ids for key, ids in paid.items() if len(ids) > 1}
        if twice:
            raise Violation(f"{len(twice)} rows were paid for twice: {next(iter(twice.items()))}")
        for body, n in self.poison.items():
            n_epochs = sum(body in epoch.bodies.values() for epoch in self.epochs.values())
            if n > n_epochs and not late_roots:
                raise Violation(f"A row that OpenAI refuses for ever was asked {n} times in {n_epochs} epochs")

    def check_results(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """No good answer was lost, and none is older than a person's command to start over."""
        now = self.epochs[job.epoch]
        status = {row["custom_id"]: row["status"] for row in rows}
        answered: set[tuple[str, str]] = set()
        for row, batch in self._good_rows():
            epoch = epoch_of(batch)
            answered.add((row.custom_id, batch.id))
            if batch.id in self.late or self.epochs[epoch].group != now.group or row.custom_id not in now.bodies:
                continue
            is_asked_now = epoch == job.epoch or row.body_hash == now.bodies[row.custom_id]
            if is_asked_now and status[row.custom_id] != "succeeded":
                raise Violation(f"The answer to {row.custom_id} in {batch.id} is lost: it is {status[row.custom_id]}")
        for row_ in rows:
            if row_["status"] == "succeeded" and (row_["custom_id"], row_["batch_id"]) not in answered:
                raise Violation(f"{row_['custom_id']} succeeded in {row_['batch_id']}, which never answered it")
            if row_["status"] == "succeeded" and self._group(row_["batch_id"]) != now.group:
                raise Violation(f"{row_['custom_id']} has an answer from before a person started over")

    def check_ended(self) -> None:
        """Nothing runs at OpenAI but what is being cancelled."""
        live = [b for b in self._backend.ledger.live_batches() if b.status is not Status.CANCELLING]
        known = [b for b in live if b.id not in self.late]
        if known:
            raise Violation(f"{len(known)} batches still run: {[(b.id, shard_of(b)) for b in known]}")
        if live:
            raise Violation(f"LATE: {len(live)} batches of frozen processes still run")

    def n_late_paid(self) -> int:
        """Return how many rows the batches of frozen processes cost."""
        return sum(self._backend.ledger.n_rows(batch_id) for batch_id in self.late)

    def _group(self, batch_id: str) -> int:
        return self.epochs[epoch_of(self._seen[batch_id])].group

    def _good_rows(self) -> list[tuple[Billed, Batch]]:
        """Return the rows that were billed and whose answer could be fetched."""
        found = ((row, self._seen[row.batch_id]) for row in self._backend.ledger.rows() if row.delivered == "ok")
        return [(row, batch) for row, batch in found if not batch.quirks.no_output_file]
