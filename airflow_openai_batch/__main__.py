"""Look at a job, or command it: ``python -m airflow_openai_batch show|cancel|resume|start-over|accept-missing|…``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.status import Done, Held, Wait
    from airflow_openai_batch.engine.model import Job, JobKey
    from airflow_openai_batch.engine.store.job_store import JobStore

_log = logging.getLogger(__name__)

_SHOWN = 20

_HELP = """\
show: where the job stands.
cancel: at once, its batches are cancelled and what was not sent never is. Answers that are finished are kept; clearing
a task fetches them and sends nothing more.
resume: takes a cancel back; clear the waiting task, and the rows without an answer are asked again.
start-over: everything is asked, and paid for, again when the submitting task is cleared.
accept-missing: of a job that is held because its result files are not whole: rows without a line end as `missing`.
ask-missing: of the same: they are asked, and perhaps paid for, once more.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if there is no such job, 2 if a cancel was noted but could not be carried out.
    """
    arguments = _parser().parse_args(argv)

    from airflow_openai_batch.engine.model import JobKey
    from airflow_openai_batch.engine.store.job_store import JobStore
    from airflow_openai_batch.hooks import storage_root

    # As Airflow's own commands do, to find connections in its database; elsewhere they come from the environment.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    key = JobKey(
        dag_id=arguments.dag_id, run_id=arguments.run_id, task_id=arguments.task_id, map_index=arguments.map_index
    )
    root = storage_root(arguments.storage)
    store = JobStore(root, key)
    snapshot = store.load()
    if snapshot is None:
        print(f"There is no job in {store}.", file=sys.stderr)
        return 1
    match arguments.command:
        case "cancel":
            return _cancel(store, key, str(root), arguments.conn_id or snapshot.job.conn_id)
        case "resume":
            return _resume(store)
        case "accept-missing" | "ask-missing":
            return _decide(store, snapshot.job, arguments.command)
        case "start-over":
            store.command("start_over")
            print(f"Noted in {store}. Now clear the task that submitted: everything is asked, and paid for, again.")
        case _:
            _show(store, *snapshot)
    return 0


_COMMANDS = ("show", "cancel", "resume", "start-over", "accept-missing", "ask-missing")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_openai_batch",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=_COMMANDS, metavar="command", help=f"{', '.join(_COMMANDS)}; see below")
    parser.add_argument("dag_id")
    parser.add_argument("run_id")
    parser.add_argument("task_id", help="the task that submitted")
    parser.add_argument("--map-index", type=int, default=-1)
    parser.add_argument("--storage", help="by default the option [openai_batch] storage")
    parser.add_argument("--conn-id", help="cancel: by default the connection that the job was submitted with")
    return parser


def _show(store: JobStore, number: int, job: Job) -> None:
    from airflow_openai_batch.engine.job.summary import progress_line, summarize

    print(f"{store}, epoch {job.epoch}, snapshot {number}")
    print(progress_line(summarize(job)))
    if store.standing_commands(job).cancel:
        print("Cancelled by a command, until `resume` or `start-over`.")
    for shard in job.shards:
        batch = f"{shard.batch.id} {shard.batch.status}" if shard.batch is not None else ""
        print(f"{shard.id:<12}{shard.state.value:<10}{shard.n_requests:>8,}  {batch}  {shard.problem or ''}".rstrip())


def _cancel(store: JobStore, key: JobKey, storage: str, conn_id: str) -> int:
    from airflow_openai_batch.engine.job.commands import cancel
    from airflow_openai_batch.hooks import OpenAIBatchHook

    store.command("cancel")  # first of all: from now on every task of the job sends nothing more
    conn_id = conn_id or OpenAIBatchHook.default_conn_name
    try:
        reached = cancel(_engine(key, storage, conn_id))
    except Exception as error:  # whatever keeps us from OpenAI: a missing connection, a database, a network
        print(
            f"Noted in {store}: nothing more is sent. But OpenAI could not be told, so what runs there runs on: "
            f"{str(error) or type(error).__name__}\nThe next run of any of the job's tasks tells it: clear the waiting "
            f"task. Or run this again where the connection {conn_id!r} can be read (--conn-id names another).",
            file=sys.stderr,
        )
        return 2
    return _tell(reached)


def _tell(reached: Wait | Done | Held) -> int:
    """Print what was cancelled, what was finished before, and what could not be cancelled yet."""
    from airflow_openai_batch.engine.job.status import Held
    from airflow_openai_batch.engine.job.summary import counted
    from airflow_openai_batch.engine.model import AT_OPENAI, Status

    job, by_status = reached.job, reached.summary.by_status
    there = [shard for shard in job.all_shards if shard.state in AT_OPENAI]
    asked = [shard for shard in job.all_shards if shard.cancel_asked_at is not None and shard.batch is not None]
    n_cancelled = by_status.get(Status.CANCELLED, 0)
    n_answered = sum(by_status.values()) - n_cancelled
    n_asked = sum(shard.n_requests for shard in asked)
    if asked:
        print(
            f"OpenAI was asked to cancel {counted(len(asked), 'batch', 'batches')} with {counted(n_asked, 'request')}; "
            "what it finishes until they stop is billed, and kept:"
        )
        for shard in asked[:_SHOWN]:
            if shard.batch is not None:
                print(f"  {shard.batch.id} {shard.batch.status}")
        if len(asked) > _SHOWN:
            print(f"  and {len(asked) - _SHOWN:,} more")
    print(f"Cancelled: {counted(n_cancelled, 'row')}. Finished before, and kept: {counted(n_answered, 'row')}.")
    left = [shard for shard in there if shard.cancel_asked_at is None]
    for shard in left[:_SHOWN]:
        name = shard.batch.id if shard.batch is not None else f"a batch that may exist (shard {shard.id})"
        print(f"Not cancelled yet: {name}. {shard.problem or ''}".rstrip(), file=sys.stderr)
    if isinstance(reached, Held):
        print(reached.reason, file=sys.stderr)
    if left:
        print("The next run of any of the job's tasks does it, or this command once more.", file=sys.stderr)
    print(
        "Clear the waiting task to fetch what was finished and to write the results; nothing more is sent. `resume` "
        "takes the cancel back."
    )
    return 2 if left else 0


def _decide(store: JobStore, job: Job, command: str) -> int:
    """Note what is to become of rows that cannot be proven to have no answer."""
    from airflow_openai_batch.engine.job.summary import counted

    doubtful = [shard for shard in job.shards if shard.evidence is not None]
    if not doubtful:
        print("No shard of this job waits for such a decision.", file=sys.stderr)
        return 1
    for shard in doubtful[:_SHOWN]:
        print(f"{shard.id}: {shard.problem}")
    store.command("accept_missing" if command == "accept-missing" else "ask_missing")
    what = "end as `missing`" if command == "accept-missing" else "are asked again, and may be paid for twice"
    print(f"Noted for {counted(len(doubtful), 'shard')}: rows without a line {what}. Now clear the waiting task.")
    return 0


def _resume(store: JobStore) -> int:
    from airflow_openai_batch.engine.job.commands import resume

    if resume(store):
        print(f"The cancel is taken back in {store}. Now clear the waiting task: rows without an answer are asked.")
    else:
        print(f"There is no cancel in {store} to take back.")
    return 0


def _engine(key: JobKey, storage: str, conn_id: str) -> Engine:
    from airflow_openai_batch.task.job import JobHandle, engine_for

    handle = JobHandle(
        dag_id=key.dag_id,
        run_id=key.run_id,
        task_id=key.task_id,
        map_index=key.map_index,
        conn_id=conn_id,
        storage=storage,
    )
    return engine_for(handle, _log)


if __name__ == "__main__":
    sys.exit(main())
