"""What a person commands outside of the job's tasks: to cancel, and to take that back."""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.errors import CommitRefused, StoreError
from airflow_openai_batch.engine.job.advance import advance, load
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.status import Done, Held, Wait

_TRIES = 20


def cancel(engine: Engine) -> Wait | Done | Held:
    """Cancel what runs and call off what was never sent, at once; finished answers are kept.

    The command stays in the store: whatever moves the job obeys it, until it is taken back or the job starts over.

    Raises:
        StoreError: There is no such job, or its store cannot be used.
    """
    load(engine)
    engine.store.command("cancel")
    return advance(engine)


def resume(engine: Engine) -> bool:
    """Take cancel commands back. Rows that were cancelled or called off are asked again as the policy allows.

    Returns:
        Whether there was anything to take back.

    Raises:
        StoreError: There is no such job, or its store cannot be used.
    """
    for _ in range(_TRIES):
        number, job = load(engine)
        standing = tuple(name for name in engine.store.commands(job.acknowledged) if name.startswith("cancel-"))
        if not standing:
            return False
        after = msgspec.structs.replace(job, acknowledged=(*job.acknowledged, *standing))
        try:
            engine.store.commit(number + 1, after, engine.clock())
        except CommitRefused:
            continue
        return True
    raise StoreError(f"Other processes keep moving {engine.store}; try again.")
