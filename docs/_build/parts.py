"""Tables and texts that are made from the package itself, so that they cannot differ from it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from importlib import import_module


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def options() -> str:
    """Return the options of ``[openai_batch]``, as Airflow itself gets them."""
    from airflow_openai_batch.provider_info import get_provider_info

    told = []
    for section, described in get_provider_info()["config"].items():
        for name, option in described["options"].items():
            variable = f"AIRFLOW__{section.upper()}__{name.upper()}"
            default = f"`{option['default']}`" if option["default"] else "empty"
            example = f", for example `{option['example']}`" if option["example"] else ""
            about = f"{option['type']}, default {default}{example}; environment: `{variable}`"
            told.append(f"## `{name}`\n\n{option['description']}\n\n{about}\n")
    return "\n".join(told)


def metrics() -> str:
    """Return the table of metrics."""
    from airflow_openai_batch.reporting.metrics import METRICS, PREFIX

    return _table(
        ("name", "kind", "unit", "tags", "when"),
        (
            (
                f"`{PREFIX}{name}`" + (f" ({', '.join(f'`{v}`' for v in metric.values)})" if metric.values else ""),
                metric.instrument,
                metric.unit,
                ", ".join(f"`{tag}`" for tag in metric.tags),
                metric.when,
            )
            for name, metric in METRICS.items()
        ),
    )


_MEANINGS = {
    "custom_id": "The id of the request",
    "status": "What became of the row; see below",
    "output": "The text of the answer; for embeddings the vector; for tool calls, several choices, pictures and "
    "moderations JSON, as OpenAI gives it",
    "error_code": "Why there is no good answer: OpenAI's code, or ours",
    "error_message": "The same in words",
    "finish_reason": "Why the model stopped",
    "model": "The model that answered, with its date",
    "input_tokens": "Tokens of the request",
    "cached_tokens": "Of these, from the cache",
    "cache_write_tokens": "Of these, written to the cache",
    "output_tokens": "Tokens of the answer",
    "reasoning_tokens": "Of these, for reasoning",
    "cost": "US dollars of this row alone, as an exact decimal; null where no price is known",
    "via": "`batch`, or `direct` if it was asked synchronously",
    "batch_id": "The batch that answered",
    "request_id": "OpenAI's id of the request",
    "round": "0 for the first asking",
    "reused_from": "The folder, in the storage, of the job that asked, if its answer was used again",
}

_STATUSES = {
    "succeeded": "a good answer",
    "invalid": "an answer that does not match the schema",
    "refused": "the model refused, or a content filter removed the answer",
    "truncated": "the answer was cut at the token limit",
    "failed": "OpenAI's error",
    "expired": "not answered before its batch expired",
    "cancelled": "not answered before its batch was cancelled",
    "missing": "no line in the result files",
    "skipped": "not sent, as its prompt has nothing",
}


def columns() -> str:
    """Return the table of the fixed columns, and that of the outcomes with what of them is billed and good."""
    from airflow_openai_batch.engine.model import BILLED, GOOD, RESULT_COLUMNS, Status

    names = _table(("column", "what it holds"), ((f"`{name}`", _MEANINGS[name]) for name in RESULT_COLUMNS))
    statuses = _table(
        ("`status`", "means", "good", "billed"),
        (
            (f"`{each}`", _STATUSES[each], "yes" if each in GOOD else "no", "yes" if each in BILLED else "no")
            for each in Status
        ),
    )
    return f"{names}\n\n## The outcomes\n\n{statuses}"


def reasons() -> str:
    """Return the reasons of failures with their values."""
    from airflow_openai_batch.exceptions import Reason

    return _table(("`Reason`", "value"), ((f"`{reason.name}`", f"`{reason.value}`") for reason in Reason))


def command_line(place: str) -> str:
    """Return the help of a command line, one chapter for each command.

    Args:
        place: ``module:function`` of what makes the parser.
    """
    module, _, function = place.partition(":")
    parser: argparse.ArgumentParser = getattr(import_module(module), function)()
    return "\n".join(_help(each, name) for name, each in _parsers(parser))


def _parsers(parser: argparse.ArgumentParser) -> Iterable[tuple[str, argparse.ArgumentParser]]:
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from ((f"{name}", each) for name, each in action.choices.items())


def _help(parser: argparse.ArgumentParser, name: str) -> str:
    os.environ["COLUMNS"], before = "110", os.environ.get("COLUMNS")  # argparse reads the width from there
    try:
        text = parser.format_help().rstrip()
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return f"## `{name}`\n\n```text\n{text}\n```\n"
