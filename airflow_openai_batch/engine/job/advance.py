"""Move a job as far as it can go now: load, plan, execute, commit; until there is nothing to do but wait.

``advance`` is the only thing that acts. Submit calls it first; whoever waits lends its worker to it whenever there
may be something to do. Any number of processes may call it at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import msgspec

from airflow_openai_batch.engine.errors import CommitRefused, JobCleaned, StoreError
from airflow_openai_batch.engine.job.actions import execute, observed
from airflow_openai_batch.engine.job.admission import held_back, warn_of_cap
from airflow_openai_batch.engine.job.asking import ask
from airflow_openai_batch.engine.job.cancelling import cancel_extra
from airflow_openai_batch.engine.job.context import Change, Engine, Learned, Stop
from airflow_openai_batch.engine.job.create_batch import adopt, cancel_strangers, intend, post
from airflow_openai_batch.engine.job.duration_history import record_durations
from airflow_openai_batch.engine.job.history import record_end
from airflow_openai_batch.engine.job.planner import Action, needs_manual_create, plan
from airflow_openai_batch.engine.job.probe import is_due, probe
from airflow_openai_batch.engine.job.replay import replayed
from airflow_openai_batch.engine.job.reuse import record_used_answers
from airflow_openai_batch.engine.job.state_machine import Fact, ShardUpdate, backoff_s, learn
from airflow_openai_batch.engine.job.status import Done, Held, Wait, rest
from airflow_openai_batch.engine.job.summary import counted, summarize
from airflow_openai_batch.engine.model import Backoff, Commands, Job, Limit, Shard, State
from airflow_openai_batch.engine.store.job_store import Snapshot

# What gets work to OpenAI comes before what takes it home: its queue should not run dry while we parse.
_ORDER = ("look", "cancel", "call_off", "refresh", "create", "upload", "reshard", "carry", "harvest", "ask", "share")
_AT_ONCE = {"refresh": 1000, "cancel": 1000, "upload": 8, "harvest": 2}
"""How many shards are seen to together. A harvest needs some memory, and a place on disk for a batch's files."""
_SENDING = ("upload", "create", "ask")
_SMALL = ("refresh", "cancel")
"""Calls of a moment, which are not committed one by one even when they are made one by one."""
_MAX_REFUSALS = 50
_OUTAGE_AFTER = 4
"""Calls in a row that failed, after which the others are put off without trying."""
_LOOK_LASTS_S, _MOST_LOOKS = 300.0, 3
"""How long what was seen may be the reason to hold a job, and how often it is looked at before it is held anyway."""


def advance(engine: Engine) -> Wait | Done | Held:
    """Move the job of ``engine.store`` until it waits, is done, or needs manual intervention.

    Raises:
        StoreError: There is no such job, or its store cannot be used.
    """
    for _ in range(_MOST_LOOKS):
        with engine.readers:
            result, age_s = _moved(engine)
        if not isinstance(result, Held) or age_s <= _LOOK_LASTS_S:
            break
        # The process was frozen, or long at work: batches may have ended, and others may have moved the job.
    return result


def _moved(engine: Engine) -> tuple[Wait | Done | Held, float]:
    """Move the job. Returns where it rests, and how old the last look at its batches is then, in seconds."""
    looked_at = engine.clock()
    snapshot = load(engine)
    fresh: set[str] = set()
    stuck: dict[str, str] = {}  # shards that only a person can help, and why
    capped: dict[str, Limit] = {}  # shards of which no further request fits under the cap
    refusals = 0
    has_adopted = False
    while True:
        snapshot, commands = _obey(engine, snapshot)
        job = snapshot.job
        stuck |= {s.id: _hidden_create(s) for s in job.shards if needs_manual_create(s)}
        now = engine.clock()
        planned = plan(job, now, commands, engine.timing, frozenset(fresh))
        actions = [action for action in planned if action.shard not in stuck]
        limits = held_back(job, actions) | capped
        actions = [action for action in actions if action.shard not in limits]
        if not actions:
            return _rest(engine, job, now, stuck, limits), now - looked_at
        group = _together(engine, actions)
        if group[0].verb == "refresh":
            looked_at = now
            fresh.update(action.shard for action in group)
        try:
            before = _before_sending(engine, snapshot, group[0], has_adopted=has_adopted)
            has_adopted = has_adopted or group[0].verb in _SENDING
            if before is not None:
                snapshot = before
                continue
            if group[0].verb == "ask":
                snapshot, hold = _ask(engine, snapshot, group[0].shard, stuck, capped), None
                fresh.clear()  # it may have taken hours
            else:
                snapshot, hold = _step(engine, snapshot, group, stuck)
        except Stop as stop:
            return Held(reason=str(stop), summary=summarize(job), job=job), 0.0
        except CommitRefused:
            refusals += 1
            if refusals > _MAX_REFUSALS:
                raise StoreError(
                    f"{refusals} commits in a row were refused by {engine.store}; is it read-only?"
                ) from None
            snapshot = load(engine)
            fresh.clear()  # what was seen was not kept
            continue
        refusals = 0
        if hold is not None:
            return Held(reason=hold, summary=summarize(snapshot.job), job=snapshot.job), 0.0


def _before_sending(engine: Engine, snapshot: Snapshot, action: Action, *, has_adopted: bool) -> Snapshot | None:
    """Do what comes before an action that sends something. Returns the snapshot after it; None if there was nothing."""
    job = snapshot.job
    if action.verb in _SENDING and not has_adopted and (adopted := adopt(engine, job)):
        return _commit(engine, snapshot, adopted)[0]
    if action.verb == "upload" and is_due(job):
        return probe(engine, snapshot, _find(job, action.shard))
    return None


def _rest(engine: Engine, job: Job, now: float, stuck: dict[str, str], limits: dict[str, Limit]) -> Wait | Done | Held:
    """Return where the job rests, after what has to be done whenever it does."""
    cancel_strangers(engine, job)
    found = rest(engine, job, now, stuck, limits)
    if isinstance(found, Done) and not job.is_plan_only:
        record_end(engine, job)
        record_durations(engine, job)
        record_used_answers(engine, job)
    return found


def _obey(engine: Engine, snapshot: Snapshot) -> tuple[Snapshot, Commands]:
    """Return the newest snapshot and the commands that stand.

    Those to ask bad rows again are obeyed and acknowledged with one commit, so once for each command.

    Raises:
        StoreError: The commit is refused again and again.
    """
    for _ in range(_MAX_REFUSALS):
        commands = engine.store.standing_commands(snapshot.job)
        if not commands.replays or commands.cancel:
            return snapshot, commands
        now, job = engine.clock(), snapshot.job
        after = replayed(job, commands.replays, now, engine.timing)
        n_rows = sum(sum(old.bad.values()) for old, new in zip(job.shards, after.shards, strict=True) if new != old)
        try:
            snapshot = engine.store.commit(snapshot.number + 1, after, now)
        except CommitRefused:
            snapshot = load(engine)
            continue
        engine.log.warning("As a person asked: %s without a good answer are asked again.", counted(n_rows, "row"))
    raise StoreError(f"{_MAX_REFUSALS} commits in a row were refused by {engine.store}; is it read-only?")


def _hidden_create(shard: Shard) -> str:
    return (
        f"Shard {shard.id}: no batch of its {counted(shard.n_creates, 'create')} is listed, and the last had no clear "
        f"answer ({shard.problem or 'no reason'}). A server that hides what it creates would be paid again and again: "
        "look at its batches, cancel those of this job, and clear the submitting task to try anew."
    )


def load(engine: Engine) -> Snapshot:
    """Return the newest snapshot.

    Raises:
        StoreError: There is none. Most often the storage is not shared between workers.
    """
    snapshot = engine.store.load()
    if snapshot is None:
        raise StoreError(
            f"There is no job in {engine.store}. If it was submitted by a task on another machine, the job store is "
            "not shared between workers: set [openai_batch] storage to a shared place, for example "
            "s3://conn@bucket/prefix, and clear the submitting task."
        )
    return snapshot


def _together(engine: Engine, actions: list[Action]) -> list[Action]:
    """Return what to do next: the most urgent action, with others of its kind that one commit can speak of."""
    verb = min((action.verb for action in actions), key=_ORDER.index)
    most = _AT_ONCE.get(verb, 1)
    if verb == "harvest":
        most = max(most, engine.readers.most)
    if verb not in _SMALL:
        most = min(most, engine.parallel)
    return [action for action in actions if action.verb == verb][:most]


def _step(
    engine: Engine, snapshot: Snapshot, group: list[Action], stuck: dict[str, str]
) -> tuple[Snapshot, str | None]:
    """Do a group of actions and commit what became known. Returns too why the job is held, if it is."""
    shards = [_find(snapshot.job, action.shard) for action in group]
    verb = group[0].verb
    if verb == "create":
        return _create(engine, snapshot, shards[0], stuck)
    with engine.timed(verb):
        results = _execute_all(engine, snapshot.job, shards, verb)
    learned = [(shard, result) for shard, result in zip(shards, results, strict=True) if isinstance(result, Learned)]
    stops = [(shard, result) for shard, result in zip(shards, results, strict=True) if isinstance(result, Stop)]
    snapshot, hold = _commit(engine, snapshot, learned)
    for shard, stop in stops:
        if not stop.is_local:
            raise stop
        stuck[shard.id] = str(stop)
    return snapshot, hold


def _ask(
    engine: Engine, snapshot: Snapshot, shard_id: str, stuck: dict[str, str], capped: dict[str, Limit]
) -> Snapshot:
    """Ask a shard's requests synchronously. It commits by itself, as that takes long."""
    try:
        with engine.timed("ask"):
            asked = ask(engine, snapshot, _find(snapshot.job, shard_id))
    except Stop as stop:
        if not stop.is_local:
            raise
        stuck[shard_id] = str(stop)
        return load(engine)
    if asked.limit is not None:
        capped[shard_id] = asked.limit
    return asked.snapshot


def _execute_all(engine: Engine, job: Job, shards: Sequence[Shard], verb: str) -> list[Learned | Stop]:
    """Do one action for several shards, a few at a time.

    When nothing came of several calls in a row, the others are put off unasked: in an outage each would hold the worker
    for as long as a call may take.
    """
    results: list[Learned | Stop] = []
    with ThreadPoolExecutor(engine.parallel, "openai-batch") as pool:
        for start in range(0, len(shards), engine.parallel):
            group = shards[start : start + engine.parallel]
            # Each call runs in the caller's context: its trace, and what is bound to its log.
            calls = [pool.submit(copy_context().run, execute, engine, job, shard, verb) for shard in group]
            results += [call.result() for call in calls]
            last = results[-_OUTAGE_AFTER:]
            if len(last) == _OUTAGE_AFTER and all(_is_postponed(result) for result in last):
                return results + [_put_off(engine, shard, last[-1]) for shard in shards[len(results) :]]
    return results


def _is_postponed(result: Learned | Stop) -> bool:
    return isinstance(result, Learned) and result.fact is Fact.POSTPONED


def _put_off(engine: Engine, shard: Shard, like: Learned | Stop) -> Learned:
    """Postpone a shard as another one was, but for no pause that a server asked for that one.

    A refusal counts for it too, so that a key which is no longer accepted is believed of all shards at once.
    """
    update = ShardUpdate(refused_at=shard.refused_at)
    if isinstance(like, Learned) and "backoff" in like.update:
        other = like.update["backoff"]
        not_before = min(other.not_before, engine.clock() + backoff_s(max(1, other.n_waits), engine.timing))
        update["backoff"] = msgspec.structs.replace(shard.backoff, not_before=not_before)
        update["problem"] = like.update.get("problem")
        if shard.refused_at is None:
            update["refused_at"] = like.update.get("refused_at")
    return Learned(Fact.POSTPONED, update)


def _create(engine: Engine, snapshot: Snapshot, shard: Shard, stuck: dict[str, str]) -> tuple[Snapshot, str | None]:
    warn_of_cap(engine, snapshot.job, shard)
    # The intent must be in the store before the call that costs money.
    snapshot, _ = _commit(engine, snapshot, [(shard, intend(engine, snapshot.job, shard))])
    shard = _find(snapshot.job, shard.id)
    with engine.timed("create"), engine.observer.acting("create", shard) as act:
        learned = post(engine, snapshot.job, shard)
        act.tell(**observed(learned))
    if learned.hold is not None and learned.is_hold_local:
        stuck[shard.id] = learned.hold
    try:
        return _commit(engine, snapshot, [(shard, learned)])
    except CommitRefused:
        return _settle_race(engine, shard, learned)


def _settle_race(engine: Engine, intended: Shard, learned: Learned) -> tuple[Snapshot, str | None]:
    """Another process moved the job while ours was creating a batch: bring the fact home, or cancel the batch."""
    assert intended.intent is not None  # noqa: S101
    batch = learned.update.get("batch") if learned.fact is Fact.BATCH_KNOWN else None
    for _ in range(_MAX_REFUSALS):
        try:
            snapshot = load(engine)
        except JobCleaned:
            if batch is not None:
                engine.log.warning("Batch %s was created after its job was removed. Cancelling it.", batch.id)
                cancel_extra(engine, batch.id)
            raise
        shard = next((s for s in snapshot.job.all_shards if s.id == intended.id), None)
        is_ours = shard is not None and shard.intent is not None and shard.intent.nonce == intended.intent.nonce
        if shard is not None and is_ours and shard.state is State.CREATING:
            try:
                return _commit(engine, snapshot, [(shard, learned)])
            except CommitRefused:
                continue
        if batch is not None and all(s.batch is None or s.batch.id != batch.id for s in snapshot.job.all_shards):
            engine.log.warning("Batch %s is one too many: another worker was faster. Cancelling it.", batch.id)
            cancel_extra(engine, batch.id)
        break
    raise CommitRefused(f"Another process moves {engine.store}.")


def _commit(engine: Engine, snapshot: Snapshot, learned: list[tuple[Shard, Learned]]) -> tuple[Snapshot, str | None]:
    """Commit facts, unless they change nothing. Returns too why the job is held, if one of them says so."""
    job = snapshot.job
    changes: list[Change] = []
    for shard, result in learned:
        after = learn(shard, result.fact, result.update)
        if result.fact is Fact.OUTCOMES_SAVED:
            after = msgspec.structs.replace(after, settled_at=engine.clock())
        if after != shard or result.child is not None:
            job = _replaced(job, after, result.child)
            changes.append(Change(result.fact, shard, after, result.child))
    if any(result.fact is Fact.BATCH_KNOWN for _, result in learned):
        job = _relieved(job)
    if changes:
        snapshot = engine.store.commit(snapshot.number + 1, _with_work(job, engine.work_s), engine.clock())
        engine.work_s.clear()
        engine.observer.committed(snapshot.job, changes)
    holds = (result.hold for _, result in learned if result.hold is not None and not result.is_hold_local)
    return snapshot, next(holds, None)


def _relieved(job: Job) -> Job:
    """Return the job with no pause for what is to be sent, as OpenAI creates batches again. A full queue stays so."""

    def relieve(shard: Shard) -> Shard:
        is_held_up = shard.state is State.UPLOADED and shard.backoff.n_waits and not shard.backoff.n_full
        return msgspec.structs.replace(shard, backoff=Backoff()) if is_held_up else shard

    return msgspec.structs.replace(job, shards=tuple(map(relieve, job.shards)))


def _with_work(job: Job, work_s: dict[str, float]) -> Job:
    """Return the job with more work counted. Seconds alone are worth no commit, so they go with another one."""
    more = {verb: round(job.work_s.get(verb, 0.0) + seconds, 3) for verb, seconds in work_s.items() if seconds}
    return msgspec.structs.replace(job, work_s={**job.work_s, **more}) if more else job


def _replaced(job: Job, after: Shard, child: Shard | None) -> Job:
    """Return the job with one shard as it is now, and the child behind it if there is one."""

    def swap(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
        swapped: list[Shard] = []
        for shard in shards:
            is_it = shard.id == after.id
            swapped.append(after if is_it else shard)
            if is_it and child is not None:
                swapped.append(child)
        return tuple(swapped)

    return msgspec.structs.replace(job, shards=swap(job.shards), earlier=swap(job.earlier))


def _find(job: Job, shard_id: str) -> Shard:
    return next(shard for shard in job.all_shards if shard.id == shard_id)
