"""Compare two prompts in a build: ``python -m airflow_openai_batch.evals eval.toml``; see ``evals``."""

from __future__ import annotations

import argparse
import sys
from enum import IntEnum
from pathlib import Path

from airflow_openai_batch.engine.errors import EngineError, InputError


class Exit(IntEnum):
    """Exit statuses."""

    PASSED = 0
    FAILED = 1
    """The candidate is worse, or the rows are too few to tell."""
    USAGE = 2
    """The eval, its golden set or a prompt cannot be used."""
    UNFINISHED = 3
    """The batches could not be finished. Called again, it goes on."""


_EPILOG = """exit status:
  0  the candidate is no worse than the tolerance allows
  1  it is worse, or the rows are too few to tell; the report is written all the same
  2  the eval, its golden set or a prompt cannot be used
  3  the batches could not be finished; called again with the same storage, it goes on and pays for nothing twice

The key is that of OPENAI_API_KEY, the server that of OPENAI_BASE_URL."""


def main(argv: list[str] | None = None) -> int:
    """Run an eval and return the exit status; see ``Exit``.

    Args:
        argv: The arguments; by default those of the process.
    """
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return Exit.USAGE
    except EngineError as error:
        print(error, file=sys.stderr)
        return Exit.UNFINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_openai_batch.evals",
        description="Ask two prompts about every row of a golden set, as batches, and hold the difference to a gate.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("eval", type=Path, help="the TOML file that says what is compared")
    parser.add_argument("--report", type=Path, default=Path("eval-report"), help="folder for the report")
    parser.add_argument("--storage", default="~/openai_batch", help="folder or URI that keeps jobs and answers")
    parser.add_argument("--poll-interval", type=float, default=30.0, metavar="SECONDS", help="between looks (30)")
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    return parser


def _run(arguments: argparse.Namespace) -> Exit:
    from airflow_openai_batch.evals.report import summary, write_report
    from airflow_openai_batch.evals.runner import evaluate
    from airflow_openai_batch.evals.spec import read_spec

    spec, digest = read_spec(arguments.eval)
    result = evaluate(
        spec,
        digest,
        storage=arguments.storage,
        progress=not arguments.quiet,
        poll_interval_s=arguments.poll_interval,
    )
    report = write_report(arguments.report, result)
    print(summary(result))
    print(f"The report is {report}.")
    return Exit.PASSED if result.has_passed else Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
