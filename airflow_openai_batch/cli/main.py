"""The arguments of the command line, and what is printed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from airflow_openai_batch.cli import clean, look, order, plan
from airflow_openai_batch.cli.answer import Answer, Exit, NoJob
from airflow_openai_batch.cli.examples import examples
from airflow_openai_batch.cli.jobs import Found, find

_DESCRIPTION = """Look at a job, or command it.

Jobs are found in the storage ([openai_batch] storage), by Dag, run and the task that submitted; if a run has only one,
by any of its tasks. Commands that change something are kept in the job's store and obeyed by its tasks."""

_EPILOG = """exit status:
  0  as asked
  1  there is no such job, or nothing to do; nothing was changed
  2  wrong arguments
  3  a command is noted, but OpenAI could not be told; clean, forget: something could not be removed
  4  show --exit-code: the job is not finished
  5  show --exit-code: it is finished, and worse than its thresholds allow
"""


class _Command(NamedTuple):
    run: Callable[[Found, Any], Answer]
    help: str


_COMMANDS = {
    "show": _Command(look.show, "where the job stands now, also at OpenAI: rows, batches, tokens, errors, age"),
    "errors": _Command(look.errors, "why rows have no good answer: codes, counts, messages, examples"),
    "tokens": _Command(look.tokens, "tokens by epoch and round"),
    "requests": _Command(look.requests, "the first lines of what is sent"),
    "results": _Command(look.results, "the first result rows, or all of them into a file"),
    "cancel": _Command(order.cancel, "cancel what runs at once, and never send the rest; finished answers are kept"),
    "resume": _Command(order.resume, "take a cancel back; then clear the waiting task"),
    "start-over": _Command(order.start_over, "ask, and pay for, everything again when the submitting task is cleared"),
    "replay": _Command(order.replay, "ask the rows without a good answer once more; then clear the waiting task"),
    "accept-missing": _Command(
        order.decide("accept-missing"), "of a job held over broken result files: rows without a line end as `missing`"
    ),
    "ask-missing": _Command(
        order.decide("ask-missing"), "of the same: they are asked, and perhaps paid for, once more"
    ),
}


_REMOVING = {"clean": clean.clean, "forget": clean.forget}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit status; see ``Exit``.
    """
    arguments = _parser().parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # Airflow logs to standard output, which belongs to the answer
        answer = _answer(arguments)
    if arguments.json:
        import msgspec

        data = dict(answer.data) | ({"problem": answer.problem} if answer.problem else {})
        print(msgspec.json.format(msgspec.json.encode(data, enc_hook=str), indent=2).decode())
    else:
        if answer.text:
            print(answer.text)
        if answer.problem:
            print(answer.problem, file=sys.stderr)
    return int(answer.exit)


def _answer(arguments: Any) -> Answer:
    if arguments.command == "examples":
        return examples(arguments)  # needs no Airflow
    from airflow_openai_batch.engine.errors import EngineError, JobCleaned
    from airflow_openai_batch.engine.model import JobKey
    from airflow_openai_batch.hooks import storage_root

    # As Airflow's own commands do, to find connections in its database; elsewhere they come from the environment.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    if arguments.command == "plan":
        return plan.plan(arguments)
    if arguments.command in _REMOVING:
        return _REMOVING[arguments.command](arguments)
    try:
        root = storage_root(arguments.storage)
        if arguments.command == "list":
            return look.list_jobs(root, arguments)
        found = find(
            root,
            JobKey(
                dag_id=arguments.dag_id,
                run_id=arguments.run_id,
                task_id=arguments.task_id,
                map_index=arguments.map_index,
            ),
        )
        answer = _COMMANDS[arguments.command].run(found, arguments)
    except JobCleaned as error:
        state = {"state": "cleaned", "reason": error.tombstone.reason, "removed_at": error.tombstone.removed_at}
        return Answer(problem=str(error), data=state, exit=Exit.NOTHING)
    except (NoJob, EngineError) as error:
        return Answer(problem=str(error), exit=Exit.NOTHING)
    return answer._replace(text="\n".join(filter(None, (found.note, answer.text))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_openai_batch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    listing = commands.add_parser("list", help="the jobs in the storage")
    listing.add_argument("dag_id", nargs="?")
    listing.add_argument("run_id", nargs="?")
    _add_common(listing)
    _add_examples(commands)
    _add_plan(commands)
    _add_removing(commands)
    for name, command in _COMMANDS.items():
        one = commands.add_parser(name, help=command.help, description=command.help)
        one.add_argument("dag_id")
        one.add_argument("run_id")
        one.add_argument("task_id", help="the task that submitted, or another of a run with one job")
        one.add_argument("--map-index", type=int, default=-1, help="of a mapped task")
        _add_common(one)
        if name in ("show", "cancel"):
            one.add_argument("--conn-id", help="by default the connection that the job was submitted with")
        if name == "show":
            one.add_argument("--offline", action="store_true", help="do not ask OpenAI")
            one.add_argument("--exit-code", action="store_true", help="tell by the exit status how the job stands")
        if name in ("requests", "results"):
            one.add_argument("--limit", type=int, default=10, help="how many to print (default: 10)")
        if name == "results":
            one.add_argument("--output", help="path or URI of a .parquet, .jsonl or .csv file for all rows")
    return parser


def _add_examples(commands: Any) -> None:
    words = "the example Dags, with what each is for; with a name, copy that one"
    showing = commands.add_parser("examples", help=words, description=words)
    showing.add_argument("name", nargs="?", help="the example to copy")
    showing.add_argument("--to", default=".", metavar="FOLDER", help="where to copy it (default: this folder)")
    showing.add_argument("--json", action="store_true", help="print one JSON value")


def _add_plan(commands: Any) -> None:
    words = "what a task of a Dag would ask and cost; nothing is sent, and nothing is left in the storage"
    planning = commands.add_parser("plan", help=words, description=words)
    planning.add_argument("dag_id")
    planning.add_argument("task_id", help="a task that submits")
    planning.add_argument("--conf", help="the run's conf, as JSON")
    planning.add_argument("--logical-date", help="by default now, as when somebody triggers the Dag")
    planning.add_argument("--map-index", type=int, default=-1, help="of a mapped task")
    planning.add_argument("--file", help="the Dag's file; by default all files of the deployment are looked at")
    planning.add_argument("--refresh", action="store_true", help="as if everything were asked anew: nothing is reused")
    planning.add_argument("--requests", help="a file for the first 20 requests, as JSON")
    _add_common(planning)


def _add_removing(commands: Any) -> None:
    words = "remove old jobs, and what no job needs, from the storage and at OpenAI; safe beside running jobs"
    cleaning = commands.add_parser("clean", help=words, description=words)
    cleaning.add_argument(
        "--older-than", type=clean.age, required=True, metavar="AGE", help="of finished jobs to remove: 90d, 48h, 12w"
    )
    cleaning.add_argument("--conn-id", action="append", help="clean this connection's files too; may be repeated")
    cleaning.add_argument("--offline", action="store_true", help="leave the files at OpenAI")
    words = "remove a job, or all jobs of a run, from the storage, at OpenAI and from ledgers"
    forgetting = commands.add_parser("forget", help=words, description=words)
    forgetting.add_argument("dag_id")
    forgetting.add_argument("run_id")
    forgetting.add_argument("task_id", nargs="?", help="the task that submitted; by default all of the run")
    forgetting.add_argument("--map-index", type=int, default=-1, help="of a mapped task")
    forgetting.add_argument("--conn-id", help="by default the connection that the job was submitted with")
    for one in (cleaning, forgetting):
        one.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
        _add_common(one)


def _place(text: str) -> str:
    """Return a URI as it is, a path as an absolute one, and nothing as nothing, which stands for the option."""
    return text if not text or "://" in text else os.path.abspath(os.path.expanduser(text))


def _add_common(parser: argparse.ArgumentParser) -> None:
    words = "by default the option [openai_batch] storage; a relative path is one of where the command is run"
    parser.add_argument("--storage", type=_place, help=words)
    parser.add_argument("--json", action="store_true", help="print one JSON value")
