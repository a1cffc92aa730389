"""The same thing done to several shards, a few at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from airflow_openai_batch.engine.action import Engine, Learned, Stop
from airflow_openai_batch.engine.machine import Fact
from airflow_openai_batch.engine.model import Shard


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
