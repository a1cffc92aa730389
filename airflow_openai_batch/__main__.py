"""Look at a job, or command it: ``python -m airflow_openai_batch show|cancel|start-over``."""

from __future__ import annotations

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if there is no such job.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_openai_batch", description=__doc__)
    parser.add_argument(
        "command",
        choices=["show", "cancel", "start-over"],
        help="show: where the job stands. cancel: its batches are cancelled as soon as its waiting task runs. "
        "start-over: everything is asked, and paid for, again when the submitting task is cleared.",
    )
    parser.add_argument("dag_id")
    parser.add_argument("run_id")
    parser.add_argument("task_id", help="the task that submitted")
    parser.add_argument("--map-index", type=int, default=-1)
    parser.add_argument("--storage", help="by default the option [openai_batch] storage")
    arguments = parser.parse_args(argv)

    from airflow_openai_batch.engine.job.summary import progress_line, summarize
    from airflow_openai_batch.engine.model import JobKey
    from airflow_openai_batch.engine.store.job_store import JobStore
    from airflow_openai_batch.hooks import storage_root

    key = JobKey(
        dag_id=arguments.dag_id, run_id=arguments.run_id, task_id=arguments.task_id, map_index=arguments.map_index
    )
    store = JobStore(storage_root(arguments.storage), key)
    snapshot = store.load()
    if snapshot is None:
        print(f"There is no job in {store}.", file=sys.stderr)
        return 1
    if arguments.command != "show":
        store.command(arguments.command.replace("-", "_"))
        print(f"Noted in {store}. Now clear the task.")
        return 0
    number, job = snapshot
    print(f"{store}, epoch {job.epoch}, snapshot {number}")
    print(progress_line(summarize(job)))
    for shard in job.shards:
        batch = f"{shard.batch.id} {shard.batch.status}" if shard.batch is not None else ""
        print(f"{shard.id:<12}{shard.state.value:<10}{shard.n_requests:>8,}  {batch}  {shard.problem or ''}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
