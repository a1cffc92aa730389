"""The command line, `python -m airflow_openai_batch.emulator`: an emulator in its own process."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from airflow_openai_batch.emulator.answers import Answer, default_answer
from airflow_openai_batch.emulator.dialect import dialect_of
from airflow_openai_batch.emulator.model import DAY_S
from airflow_openai_batch.emulator.runner import Emulator
from airflow_openai_batch.emulator.upstream import CONCURRENCY, Upstream
from airflow_openai_batch.emulator.validate import Limits


def main(argv: Sequence[str] | None = None) -> int:
    """Run the emulator until SIGINT or SIGTERM and return the exit status."""
    options = _parser().parse_args(argv)
    if options.log_requests:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _emulator(options) as emulator:
        print(emulator.base_url, flush=True)
        stop.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m airflow_openai_batch.emulator",
        description="Serve OpenAI's Files and Batches API. Prints its base URL when it listens.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0, the default, takes a free port")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--seed", type=int, help="makes ids, order of lines and chances repeatable")
    add("--answer", metavar="MODULE:FUNCTION", help="what answers requests: answer(endpoint, body)")
    add("--upstream", metavar="URL", help="answer by asking an OpenAI-compatible server")
    add("--upstream-key", metavar="KEY", help="its API key")
    add("--concurrency", type=int, help="requests of a batch answered at a time; 1, or 8 with --upstream")
    add("--duration", type=float, default=5.0, metavar="S", help="from creation to completed, default 5")
    add("--validating", type=float, metavar="S", help="share of it spent validating, default a tenth")
    add("--finalizing", type=float, metavar="S", help="share of it spent finalizing, default a tenth")
    add("--window", type=float, default=DAY_S, metavar="S", help="stands for the 24 hours until a batch expires")
    add("--faults", type=Path, metavar="FILE.json", help="a list of fault rules")
    add("--data-dir", type=Path, metavar="DIR", help="where contents of files are kept while it runs")
    add("--queue-limit", type=int, metavar="TOKENS", help="enqueued tokens per model")
    add("--requests-per-minute", type=int, metavar="N", help="synchronous requests in a minute")
    add("--tokens-per-minute", type=int, metavar="N", help="their tokens in a minute")
    add("--max-requests", type=int, metavar="N", help="requests per batch, default 50,000 (azure: 100,000)")
    add("--dialect", default="openai", choices=("openai", "azure"), help="whose API it speaks, default openai")
    add("--deployment", action="append", metavar="NAME=MODEL", help="a deployment of azure; any name if none is given")
    add("--pending", type=float, metavar="S", help="for how long an uploaded file is pending, azure: a tenth")
    add("--log-requests", action="store_true", help="one line per call on standard error")
    return parser


def _emulator(options: argparse.Namespace) -> Emulator:
    return Emulator(
        answer=_answer(options),
        faults=_rules(options.faults),
        duration=options.duration,
        validating=options.validating,
        finalizing=options.finalizing,
        window=options.window,
        seed=options.seed,
        limits=_limits(options),
        dialect=options.dialect,
        deployments=_deployments(options.deployment),
        pending=options.pending,
        queue_limit=options.queue_limit,
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        concurrency=options.concurrency or (CONCURRENCY if options.upstream else 1),
        host=options.host,
        port=options.port,
        data_dir=options.data_dir,
    )


def _deployments(pairs: list[str] | None) -> dict[str, str] | None:
    if pairs is None:
        return None
    return {name: model or name for name, _, model in (pair.partition("=") for pair in pairs)}


def _limits(options: argparse.Namespace) -> Limits | None:
    if options.max_requests is None:
        return None
    usual = dialect_of(options.dialect, _deployments(options.deployment)).limits
    return replace(usual, requests=options.max_requests)


def _answer(options: argparse.Namespace) -> Answer:
    if options.upstream:
        return Upstream(options.upstream, options.upstream_key)
    if not options.answer:
        return default_answer
    module, _, name = options.answer.partition(":")
    return cast("Answer", getattr(import_module(module), name))


def _rules(path: Path | None) -> list[Any]:
    rules = json.loads(path.read_text(encoding="utf-8")) if path else []
    return rules if isinstance(rules, list) else [rules]


if __name__ == "__main__":
    sys.exit(main())
