"""Who watches a schedule and says what must hold, from what the emulator billed and what the store was told."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from schedule_direct import DIRECT, DirectWitness
from schedule_plan import INPUT_RATE, OUTPUT_RATE, TIMING, Plan

from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.clock import ManualClock
from airflow_openai_batch.emulator.ledger import Billed, body_hash
from airflow_openai_batch.emulator.model import Batch, Status
from airflow_openai_batch.engine.model import BILLED, Job, Policy, State
from airflow_openai_batch.engine.store.job_store import JobStore

NONCE = "airflow_openai_batch"
_SHARD = re.compile(r"[0-9a-f]+/\d+/(\d+-\d{5}(?:\.\d+)?)[^/]*/[^/]+(?:/[^/]*)*")
_CUSTOM_ID = re.compile(rb'"custom_id": "([^"]*)"')
_UNPROVEN = re.compile(r"result files of batch (batch_[0-9a-f]{32})")

_SUM = r"\$[\d,.]+"
_OF_CAP = re.compile(
    rf"max_cost is {_SUM}: {_SUM} are spent, what runs costs about {_SUM}, and the next batch \([\d,]+ requests of "
    rf"shard [\d.-]+\) about {_SUM}\. Nothing more is sent\. Raise max_cost|max_cost is {_SUM}, and the .* not known"
    rf"|max_cost is {_SUM}: {_SUM} are spent or on their way, and the next synchronous request may cost {_SUM}\."
    rf"|max_cost is {_SUM}, and what .* costs synchronously \(standard\) is not known\."
)
_UNREADABLE = ("missing", "malformed")
"""Faults of rows that were billed, of which no answer tells the tokens."""
_ENOUGH_ANSWERS = 20

NOT_WHOLE = "not whole, or not all there"
"""In the reason with which a job is held whose result files prove nothing."""
STUCK = "asked to cancel"
"""In the reason with which a job is held at the moment of `finish_by` because a batch does not end."""
_LATE_FILE_S = TIMING.late_file_s
_EARLIER_EPOCH_S = 3600.0
_MOST_CREATES = 10
"""Batches of one shard that may run, per time that a person is asked."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Epoch:
    """What one epoch asks."""

    group: int
    """How often a person had asked to start over by then."""
    bodies: dict[str, int] = field(default_factory=dict)
    """Hash of each request's body, by custom_id."""


@dataclass(frozen=True)
class Promise:
    """What the job knew when it announced a create, and what it might cost then."""

    max_cost: int | None
    known: frozenset[str]
    """All batches that the job ever had."""
    settled: frozenset[str]
    """Those of them whose answers it had."""
    n_answers: int


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


def _known_ids(job: Job) -> set[str]:
    return {name for s in job.all_shards for name in (*s.past_batches, *([s.batch.id] if s.batch else ()))}


class Witness:
    """Sees every snapshot and every batch."""

    def __init__(self, plan: Plan, backend: Backend, clock: ManualClock, store_folder: Path) -> None:
        self._plan = plan
        self._backend = backend
        self._clock = clock
        self._store_folder = store_folder
        self._is_new = bool(plan.misbehaviours)
        self._accepted: set[str] = set()
        """Batches whose missing rows a person has accepted."""
        self._n_held = 0
        self._failed_ids: dict[str, set[str]] = {}
        """The rows that the error file of a batch names."""
        self.intents: set[str] = set()
        self.has_new_intent = False
        """Whether the newest snapshot announces a create."""
        self.epochs: dict[int, Epoch] = {}
        self.poison: Counter[int] = Counter()
        self.late: set[str] = set()
        """Batches made by a process that had been frozen for too long."""
        self.n_snapshots = 0
        self._seen: dict[str, Batch] = {}
        self.direct = DirectWitness(backend.ledger)
        self._posted: set[str] = set()
        self._promises: dict[str, Promise] = {}
        self._known: set[str] = set()
        self._settled: set[str] = set()

    # -- while it runs -----------------------------------------------------------------------------------------

    def note_snapshot(self, store: JobStore, job: Job) -> None:
        """A snapshot was made."""
        self.n_snapshots += 1
        nonces = {s.intent.nonce for s in job.all_shards if s.intent is not None}
        self.has_new_intent = not nonces <= self.intents
        self._known |= _known_ids(job)
        self._settled |= {s.batch.id for s in job.all_shards if s.state is State.SETTLED and s.batch is not None}
        n_answers = sum(n for s in job.all_shards for status, n in s.tally.items() if status in BILLED)
        for nonce in nonces - self.intents:
            self._promises[nonce] = Promise(
                job.policy.max_cost, frozenset(self._known), frozenset(self._settled), n_answers
            )
        self.intents |= nonces
        if job.epoch not in self.epochs:
            group = sum(name.startswith("start_over-") for name in job.acknowledged)
            lines = (json.loads(line) for s in job.shards for line in store.read(s.requests).split(b"\n") if line)
            self.epochs[job.epoch] = Epoch(group, {line["custom_id"]: body_hash(line["body"]) for line in lines})

    def note_asked(self, epoch: int) -> None:
        """A request was asked synchronously, for an epoch."""
        self.direct.note_calls(self.epochs[epoch].group)

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
            if len(ids) > 1 and not self.late & set(ids) and not self._plan.hides:
                raise Violation(f"Shard {shard} has {len(ids)} live batches: {ids}")

    def check_hold(self, reason: str) -> None:
        """The job is held: the reason must be true."""
        self._n_held += 1
        if "a defect" in reason or "please report" in reason:
            raise Violation(reason)
        if "max_cost is " in reason and not _OF_CAP.search(reason):
            raise Violation(f"The cap is not told with its figures: {reason}")
        if NOT_WHOLE in reason:
            for batch in self._named(reason):
                if not self._may_prove_nothing(batch):
                    raise Violation(f"Nothing was wrong with the files of {batch.id}: {reason}")
        if "does not know batch" in reason or "are gone at OpenAI" in reason:
            self._require_status({404}, reason)
        if "refused the credentials" in reason and not any(rule.name == "fail" for rule in self._plan.rules):
            self._require_status({401, 403, 429, 400}, reason)
        if STUCK in reason:
            self._check_stuck(reason)
        live = [batch.id for batch in self._backend.ledger.live_batches() if batch.id not in self.late]
        if "Nothing runs at OpenAI" in reason and live and not self._plan.hides:
            raise Violation(f"{live} run at OpenAI: {reason}")

    def _check_stuck(self, reason: str) -> None:
        for name in re.findall(r"batch_[0-9a-f]{32}", reason):
            is_odd = f"{name} has the status" in reason and "status_unknown" in self._plan.misbehaviours
            if self._seen[name].status is not Status.CANCELLING and not is_odd:
                raise Violation(f"{name} is {self._seen[name].status}: {reason}")

    def _require_status(self, statuses: set[int], reason: str) -> None:
        answered = {rule.args.get("code", 500) for rule in self._plan.all_rules if rule.name == "status"}
        # A file that was named and never written is answered with 404 without a rule for calls.
        if 404 in statuses and {"unwritten_file", "edit"} & {rule.name for rule in self._plan.all_rules}:
            return
        if not statuses & answered:
            raise Violation(f"OpenAI never answered {statuses}: {reason}")

    def _named(self, reason: str) -> list[Batch]:
        return [self._seen[name] for name in _UNPROVEN.findall(reason) if name in self._seen]

    def _may_prove_nothing(self, batch: Batch) -> bool:
        """Return whether the files of a batch, as they are or as they came, can leave a doubt about a row."""
        quirks = batch.quirks
        is_odd = quirks.file_faults or quirks.no_output_file or quirks.late_output_file_id_s or quirks.unwritten_file
        rules = self._plan.all_rules
        is_row_odd = any(rule.on == "row" and rule.name in ("missing", "malformed") for rule in rules)
        is_called_oddly = any(rule.on.startswith(("GET /v1/files", "GET /v1/batches", "*")) for rule in rules)
        return bool(is_odd or quirks.counts or quirks.relapse_s or is_row_odd or is_called_oddly)

    def check_raw(self, reason: str) -> None:
        """What arrived of files that prove nothing must be in the store, before a person gives their rows up."""
        kept = {path.read_bytes() for path in self._store_folder.rglob("*") if path.is_file()}
        for batch in self._named(reason):
            self._accepted.add(batch.id)
            for content in self._shown_files(batch):
                if content and content not in kept:
                    raise Violation(f"What arrived of {batch.id} is not in the store: {content[:200]!r}")

    def _shown_files(self, batch: Batch) -> list[bytes]:
        """Return the contents that the server gives of a batch's files, without those it does not name."""
        result, now = batch.result, self._clock.now()
        if result is None or now < batch.times.ended_at + batch.quirks.late_output_file_id_s:
            return []
        found = [self._backend.file_store.find(name) for name in (result.output_file_id, result.error_file_id) if name]
        return [stored.shown_content(now) for stored in found if stored is not None]

    # -- in the end --------------------------------------------------------------------------------------------

    def is_cancelling_for_ever(self, batch: Batch) -> bool:
        """Return whether a batch never leaves `cancelling`."""
        return batch.times.cancelling_at is not None and batch.times.cancelled_at == inf

    def _is_obscured(self, batch: Batch, within_s: float = inf) -> bool:
        """Return whether the answers of a batch may not be readable within so many seconds of its end."""
        quirks = batch.quirks
        is_spoilt = any(f.seconds >= within_s and f.form != "as_is" for f in quirks.file_faults)
        is_unnamed = quirks.no_output_file or quirks.late_output_file_id_s >= within_s
        cancelling_at = batch.times.cancelling_at
        is_cancelling = cancelling_at is not None and batch.times.cancelled_at - cancelling_at >= within_s
        return is_spoilt or is_unnamed or is_cancelling

    def _is_given_up(self, batch: Batch, job: Job) -> bool:
        """Return whether a batch belongs to an earlier epoch, which is waited for only so long."""
        if epoch_of(batch) == job.epoch:
            return False
        is_unknown = "listing_missing" in self._plan.misbehaviours and batch.id not in _known_ids(job)
        return is_unknown or self._is_obscured(batch, _EARLIER_EPOCH_S)

    def _is_denied(self, batch: Batch) -> bool:
        """Return whether OpenAI says of an unfinished batch, in all ways that it has, that it answered nothing."""
        quirks = batch.quirks
        is_named_too_late = quirks.late_output_file_id_s > _LATE_FILE_S
        says_zero = quirks.counts is not None or (quirks.has_zero_counts_meanwhile and is_named_too_late)
        is_early = batch.status in (Status.EXPIRED, Status.CANCELLED)
        is_spoilt = any(f.form != "as_is" for f in quirks.file_faults)
        return is_early and says_zero and (is_spoilt or is_named_too_late or quirks.no_output_file)

    def _is_failed(self, row: Billed, batch: Batch) -> bool:
        """Return whether the error file says that a row failed, and its answer is in a file that may be unreadable."""
        if not self._is_obscured(batch) or batch.result is None or batch.result.error_file_id is None:
            return False
        if batch.id not in self._failed_ids:
            stored = self._backend.file_store.find(batch.result.error_file_id)
            content = stored.read() if stored is not None else b""
            self._failed_ids[batch.id] = {name.decode() for name in _CUSTOM_ID.findall(content)}
        return row.custom_id in self._failed_ids[batch.id]

    def check_creates(self) -> None:
        """No shard was sent again and again."""
        n = Counter((epoch_of(b), shard_of(b)) for b in self._seen.values() if b.status is not Status.FAILED)
        bound = _MOST_CREATES * (1 + self._n_held)
        if many := {shard: times for shard, times in n.items() if times > bound}:
            raise Violation(f"Batches were made again and again: {many}")

    def check_cap(self, job: Job) -> int:
        """Nothing was sent that did not fit under the cap. Returns how many batches were sent under one.

        Before the job has answers of its own, each request counts with its bound: then what is billed for all it has
        sent is never more than the cap. Later those that run are estimated, so it is what it has answers of that is
        not more.
        """
        n_capped = 0
        costs = {batch_id: self._cost(batch, job) for batch_id, batch in self._seen.items()}
        for batch in self._seen.values():
            promise = self._promises.get((batch.metadata or {}).get(NONCE, ""))
            if promise is None or promise.max_cost is None or batch.id in self.late:
                continue
            n_capped += 1
            is_bounded = promise.n_answers < _ENOUGH_ANSWERS
            counted = promise.known | {batch.id} if is_bounded else promise.settled
            billed = sum(costs.get(batch_id, 0) for batch_id in counted)
            if billed > promise.max_cost:
                raise Violation(f"{billed} picodollars were billed, and {promise.max_cost} allowed for {counted}")
        return n_capped

    def _cost(self, batch: Batch, job: Job) -> int:
        """Return what was billed for a batch, as far as anybody could know it."""
        if batch.id in self._accepted | self.late or self._is_obscured(batch) or self._is_denied(batch):
            return 0
        if self._is_given_up(batch, job):
            return 0
        rows = [row for row in self._backend.ledger.rows(batch.id) if row.delivered not in _UNREADABLE]
        return sum(row.input_tokens * INPUT_RATE + row.output_tokens * OUTPUT_RATE for row in rows)

    def check_paid(self, job: Job) -> None:
        """No request was paid for twice, and none that is wrong for ever was asked again."""
        late_roots = {root_of(self._seen[batch_id]) for batch_id in self.late}
        paid: dict[tuple[str, int, int], set[str]] = defaultdict(set)
        for row, batch in self._good_rows():
            # What an earlier epoch's batch answers where nobody can read it has to be asked again.
            is_gone = self._is_given_up(batch, job)
            if root_of(batch) not in late_roots and not is_gone and not self._plan.hides:
                # With a ledger equal requests are asked once, whichever row they are of.
                name = "" if self._plan.has_ledger else row.custom_id
                paid[name, row.body_hash, self.epochs[epoch_of(batch)].group].add(f"{batch.id} {row.custom_id}")
        twice = {key: ids for key, ids in paid.items() if len(ids) > 1}
        if twice:
            raise Violation(f"{len(twice)} rows were paid for twice: {next(iter(twice.items()))}")
        n_direct = self.direct.n_too_many(Counter((body, group) for _, body, group in paid))
        if n_direct > job.n_maybe_paid_twice:
            raise Violation(f"{n_direct} requests were paid for again synchronously, told: {job.n_maybe_paid_twice}")
        for body, n in self.poison.items():
            n_epochs = sum(body in epoch.bodies.values() for epoch in self.epochs.values())
            if n > n_epochs and not late_roots and not self._is_new:
                raise Violation(f"A row that OpenAI refuses for ever was asked {n} times in {n_epochs} epochs")

    def check_results(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """No good answer was lost, and none is older than a person's command to start over."""
        now = self.epochs[job.epoch]
        status = {row["custom_id"]: row["status"] for row in rows}
        for row, batch in self._good_rows():
            epoch = epoch_of(batch)
            is_asked_now = epoch == job.epoch or row.body_hash == now.bodies.get(row.custom_id)
            if self.epochs[epoch].group != now.group or row.custom_id not in now.bodies or not is_asked_now:
                continue
            if status[row.custom_id] != "succeeded" and not self._is_lost_by_others(row, batch, job):
                raise Violation(f"The answer to {row.custom_id} in {batch.id} is lost: it is {status[row.custom_id]}")
        good = [row for row in self._backend.ledger.rows() if row.delivered == "ok"]
        answered = {(row.custom_id, row.batch_id) for row in good}
        requests = {(row.body_hash, None if row.batch_id == DIRECT else row.batch_id) for row in good}
        self._check_direct_results(job, rows)
        for row_ in rows:
            if row_["reused_from"] is not None:
                if row_["status"] == "succeeded" and (now.bodies[row_["custom_id"]], row_["batch_id"]) not in requests:
                    raise Violation(f"{row_['custom_id']} has the answer to another request: {row_}")
            elif row_["via"] == "batch" and row_["status"] == "succeeded":
                is_own = (row_["custom_id"], row_["batch_id"]) in answered
                # Of an earlier epoch, the answer to an equal request counts, whichever row that was of.
                is_equal = (now.bodies[row_["custom_id"]], row_["batch_id"]) in requests
                if not is_own and not (is_equal and self._is_earlier(row_["batch_id"], job)):
                    raise Violation(f"{row_['custom_id']} succeeded in {row_['batch_id']}, which never answered it")
            is_direct = row_["batch_id"] is None
            if row_["status"] == "succeeded" and not is_direct and self._group(row_["batch_id"]) != now.group:
                raise Violation(f"{row_['custom_id']} has an answer from before a person started over")

    def _is_earlier(self, batch_id: str, job: Job) -> bool:
        return epoch_of(self._seen[batch_id]) < job.epoch

    def _check_direct_results(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """An answer that was paid for synchronously is in the results, and none is older than a wish to start over."""
        now = self.epochs[job.epoch]
        good = {now.bodies[row["custom_id"]] for row in rows if row["status"] == "succeeded"}
        n_lost = self.direct.n_lost(now.group, set(now.bodies.values()), good)
        if n_lost > job.n_maybe_paid_twice:
            raise Violation(f"{n_lost} answers that were paid for synchronously are lost")
        for row in rows:
            # In later rounds the request says what was wrong with the answer before, and so is another one.
            is_first = row["round"] == 0 and row["status"] == "succeeded"
            is_direct = row["via"] == DIRECT and is_first and row["reused_from"] is None
            if is_direct and not self.direct.n_paid[now.bodies[row["custom_id"]], now.group]:
                raise Violation(f"{row['custom_id']} has a synchronous answer that was never given: {row}")

    def check_direct_cap(self, policy: Policy, *, may_be_lowered: bool) -> None:
        """What was asked synchronously did not cost more than the whole job may, unless a person lowered that."""
        cap, cost = policy.max_cost, self.direct.picodollars
        if cap is not None and cost > cap and not may_be_lowered:
            raise Violation(f"{cost} picodollars were billed for synchronous answers, and {cap} allowed for all")

    def _is_lost_by_others(self, row: Billed, batch: Batch, job: Job) -> bool:
        """Return whether nobody could know of an answer, or read it, or a person gave it up."""
        if batch.id in self.late:
            return True
        if self._plan.hides and batch.id not in _known_ids(job):
            return True
        # A person accepts for the whole job, also where OpenAI never names a file.
        is_accepted = batch.id in self._accepted or (bool(self._accepted) and batch.quirks.no_output_file)
        if is_accepted or self._is_given_up(batch, job):
            return row.custom_id not in self._readable_ids(batch)
        return False

    def _readable_ids(self, batch: Batch) -> set[str]:
        """Return the ids of the lines that the server gives as they were written."""
        if self.is_cancelling_for_ever(batch) or batch.result is None or batch.result.output_file_id is None:
            return set()
        stored = self._backend.file_store.find(batch.result.output_file_id)
        if stored is None:
            return set()
        shown = {line for content in self._shown_files(batch) for line in content.split(b"\n")[:-1]}
        written = b"\n".join(line for line in stored.read().split(b"\n") if line in shown)
        return {name.decode() for name in _CUSTOM_ID.findall(written)}

    def check_ended(self, job: Job) -> None:
        """Nothing runs at OpenAI but what is being cancelled, and what no look could find for an earlier epoch."""
        if self._plan.hides:
            return
        doubtful = {s.id for s in job.earlier if s.state is State.CREATING}
        ledger = self._backend.ledger
        live = [b for b in ledger.live_batches() if b.status is not Status.CANCELLING and shard_of(b) not in doubtful]
        known = [b for b in live if b.id not in self.late]
        if known:
            raise Violation(f"{len(known)} batches still run: {[(b.id, shard_of(b)) for b in known]}")
        if live:
            raise Violation(f"LATE: {len(live)} batches of frozen processes still run")

    def _batch_rows(self) -> list[Billed]:
        """Return the rows that were billed in a batch, and whose answer was delivered."""
        return [row for row in self._backend.ledger.rows() if row.delivered == "ok" and row.batch_id != DIRECT]

    def n_late_paid(self) -> int:
        """Return how many rows the batches of frozen processes cost."""
        return sum(self._backend.ledger.n_rows(batch_id) for batch_id in self.late)

    def _group(self, batch_id: str) -> int:
        return self.epochs[epoch_of(self._seen[batch_id])].group

    def _good_rows(self) -> list[tuple[Billed, Batch]]:
        """Return the rows that were billed and whose answer could be fetched, sooner or later, or is known to exist."""
        found = [(row, self._seen[row.batch_id]) for row in self._batch_rows()]
        if self._is_new:
            return [(row, b) for row, b in found if not self._is_denied(b) and not self._is_failed(row, b)]
        return [(row, batch) for row, batch in found if not batch.quirks.no_output_file]
