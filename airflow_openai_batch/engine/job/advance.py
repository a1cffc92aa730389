"""Move a job as far as it can go now: load, plan, execute, commit; until there is nothing to do but wait.

``advance`` is the only thing that acts. Submit calls it first; whoever waits lends its worker to it whenever there
may be something to do. Any number of processes may call it at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import msgspec

from airflow_openai_batch.engine.errors import CommitRefused, StoreError
from airflow_openai_batch.engine.job.actions import perform
from airflow_openai_batch.engine.job.context import Change, Engine, Learned, Stop, told
from airflow_openai_batch.engine.job.create_batch import cancel_extra, cancel_strangers, intend, post
from airflow_openai_batch.engine.job.planner import Action, plan
from airflow_openai_batch.engine.job.state_machine import Fact, learn
from airflow_openai_batch.engine.job.status import Done, Held, Wait, rest
from airflow_openai_batch.engine.job.summary import summarize
from airflow_openai_batch.engine.model import Job, Shard, State

# What gets work to OpenAI comes before what takes it home: its queue should not run dry while we parse.
_ORDER = ("look", "cancel", "call_off", "refresh", "create", "upload", "reshard", "carry", "harvest")

_AT_ONCE = {"refresh": 1000, "cancel": 1000, "upload": 8, "harvest": 2}
"""How many shards are seen to together. A harvest needs some memory, and a place on disk for a batch's files."""

_SMALL = ("refresh", "cancel")
"""Calls of a moment, which are not committed one by one even when they are made one by one."""

_MAX_REFUSALS = 50


def advance(engine: Engine) -> Wait | Done | Held:
    """Move the job of ``engine.store`` until it waits, is done, or needs a person.

    Raises:
        StoreError: There is no such job, or its store cannot be used.
    """
    number, job = load(engine)
    fresh: set[str] = set()
    stuck: dict[str, str] = {}  # shards that only a person can help, and why
    refusals = 0
    while True:
        commands = engine.store.standing_commands(job)
        now = engine.clock()
        planned = plan(job, now, commands, engine.timing, frozenset(fresh))
        actions = [action for action in planned if action.shard not in stuck]
        if not actions:
            cancel_strangers(engine, job)
            return rest(engine, job, now, stuck)
        group = _together(engine, actions)
        if group[0].verb == "refresh":
            fresh.update(action.shard for action in group)
        try:
            number, job, hold = _step(engine, number, job, group, stuck)
        except Stop as stop:
            return Held(reason=str(stop), summary=summarize(job), job=job)
        except CommitRefused:
            refusals += 1
            if refusals > _MAX_REFUSALS:
                raise StoreError(
                    f"{refusals} commits in a row were refused by {engine.store}; is it read-only?"
                ) from None
            number, job = load(engine)
            continue
        refusals = 0
        if hold is not None:
            return Held(reason=hold, summary=summarize(job), job=job)


def load(engine: Engine) -> tuple[int, Job]:
    """Return the newest snapshot.

    Raises:
        StoreError: There is none. Most often the storage is not shared between workers.
    """
    found = engine.store.load()
    if found is None:
        raise StoreError(
            f"There is no job in {engine.store}. If it was submitted by a task on another machine, the job store is "
            "not shared between workers: set [openai_batch] storage to a shared place, for example "
            "s3://conn@bucket/prefix, and clear the submitting task."
        )
    return found


def _together(engine: Engine, actions: list[Action]) -> list[Action]:
    """Return what to do next: the most urgent action, with others of its kind that one commit can speak of."""
    verb = min((action.verb for action in actions), key=_ORDER.index)
    most = _AT_ONCE.get(verb, 1) if verb in _SMALL else min(_AT_ONCE.get(verb, 1), engine.parallel)
    return [action for action in actions if action.verb == verb][:most]


def _step(
    engine: Engine, number: int, job: Job, group: list[Action], stuck: dict[str, str]
) -> tuple[int, Job, str | None]:
    if group[0].verb == "create":
        return _create(engine, number, job, group[0])
    shards = [_find(job, action.shard) for action in group]
    with engine.timed(group[0].verb):
        found = in_parallel(engine, lambda shard: _performed(engine, job, shard, group[0].verb), shards)
    stops = {shard.id: said for shard, said in zip(shards, found, strict=True) if isinstance(said, Stop)}
    learned = [(shard, said) for shard, said in zip(shards, found, strict=True) if isinstance(said, Learned)]
    number, job, hold = _take(engine, number, job, learned)
    for stop in stops.values():
        if not stop.is_local:
            raise stop
    stuck.update((shard, str(stop)) for shard, stop in stops.items())
    return number, job, hold


def _create(engine: Engine, number: int, job: Job, action: Action) -> tuple[int, Job, str | None]:
    shard = _find(job, action.shard)
    # The intent must be in the store before the call that costs money.
    number, job, _ = _take(engine, number, job, [(shard, intend(engine, job, shard))])
    shard = _find(job, action.shard)
    with engine.timed("create"), engine.observer.acting("create", shard) as act:
        learned = post(engine, job, shard)
        act.tell(**told(learned))
    try:
        return _take(engine, number, job, [(shard, learned)])
    except CommitRefused:
        return _settle_race(engine, shard, learned)


def _performed(engine: Engine, job: Job, shard: Shard, verb: str) -> Learned | Stop:
    with engine.observer.acting(verb, shard) as act:
        said = _tried(engine, job, shard, verb)
        act.tell(**told(said))
    return said


def _tried(engine: Engine, job: Job, shard: Shard, verb: str) -> Learned | Stop:
    try:
        return perform(engine, job, shard, verb)
    except Stop as stop:
        if not stop.is_local or all(s.id != shard.id for s in job.earlier):
            return stop
        # The job asks something else now: what is lost of an earlier epoch must not hold it.
        engine.log.warning("Shard %s of an earlier epoch is given up: %s", shard.id, stop)
        return Learned(Fact.GIVEN_UP, {"problem": str(stop)[:500]})


def _settle_race(engine: Engine, intended: Shard, learned: Learned) -> tuple[int, Job, str | None]:
    """Another process moved the job while ours was creating a batch: bring the fact home, or cancel the batch."""
    for _ in range(_MAX_REFUSALS):
        number, job = load(engine)
        shard = next((s for s in job.all_shards if s.id == intended.id), None)
        if shard is not None and shard.state is State.CREATING and shard.nonce == intended.nonce:
            try:
                return _take(engine, number, job, [(shard, learned)])
            except CommitRefused:
                continue
        if learned.fact is Fact.BATCH_KNOWN:
            batch = learned.known["batch"]
            is_adopted = any(s.batch is not None and s.batch.id == batch.id for s in job.all_shards)
            if not is_adopted:
                engine.log.warning("Batch %s is one too many: another worker was faster. Cancelling it.", batch.id)
                cancel_extra(engine, batch.id)
        break
    raise CommitRefused(f"Another process moves {engine.store}.")


def _take(engine: Engine, number: int, job: Job, learned: list[tuple[Shard, Learned]]) -> tuple[int, Job, str | None]:
    """Commit facts, unless they change nothing. Returns too why a person must act, if one says so."""
    changes: list[Change] = []
    for shard, said in learned:
        after = learn(shard, said.fact, **said.known)
        if after != shard or said.child is not None:
            job = _replaced(job, after, said.child)
            changes.append(Change(said.fact, shard, after, said.child))
    if changes:
        number, job = engine.store.commit(number + 1, _with_work(job, engine.work_s), engine.clock())
        engine.work_s.clear()
        engine.observer.committed(job, changes)
    return number, job, next((said.hold for _, said in learned if said.hold is not None), None)


def _with_work(job: Job, work_s: dict[str, float]) -> Job:
    """Return the job with more work counted. Seconds alone are worth no commit, so they go with another one."""
    more = {verb: round(job.work_s.get(verb, 0.0) + seconds, 3) for verb, seconds in work_s.items() if seconds}
    return msgspec.structs.replace(job, work_s={**job.work_s, **more}) if more else job


def _replaced(job: Job, after: Shard, child: Shard | None) -> Job:
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


def _everything(job: Job) -> tuple[Shard, ...]:
    return job.earlier + job.shards


def in_parallel(
    engine: Engine, act: Callable[[Shard], Learned | Stop], shards: Sequence[Shard]
) -> list[Learned | Stop]:
    """Return what became known of each shard.

    When nothing came of several calls in a row, the others are put off unasked: in an outage each would hold the worker
    for as long as a call may take.
    """
    found: list[Learned | Stop] = []
    with ThreadPoolExecutor(engine.parallel, "openai-batch") as pool:
        for start in range(0, len(shards), engine.parallel):
            group = shards[start : start + engine.parallel]
            # Each call runs in the caller's context: its trace, and what is bound to its log.
            found += pool.map(lambda context, shard: context.run(act, shard), [copy_context() for _ in group], group)
            last = found[-_ENOUGH:]
            if len(last) == _ENOUGH and all(_is_postponed(said) for said in last):
                return found + [_put_off(last[-1])] * (len(shards) - len(found))
    return found


_ENOUGH = 4


def _is_postponed(said: Learned | Stop) -> bool:
    return isinstance(said, Learned) and said.fact is Fact.POSTPONED


def _put_off(said: Learned | Stop) -> Learned:
    known = said.known if isinstance(said, Learned) else {}
    return Learned(Fact.POSTPONED, {name: known[name] for name in ("not_before", "problem") if name in known})
