"""A server that speaks OpenAI's Files and Batches API over real HTTP, and misbehaves on request.

Emulated: uploading, listing, reading, deleting and expiring files; creating, listing, reading and cancelling
batches; the asynchronous validation of an input file with OpenAI's error codes; the passage of a batch through
its states as a function of a clock; partial results of expired and cancelled batches; the enqueued-token queue;
response bodies of the eight endpoints a batch may use; and faults, from a dropped answer to a mangled line.

Not emulated: models (answers are made up, or come from a function of yours, or from another server), the
endpoints outside a batch, the Uploads API, webhooks, scopes, organizations and projects, rate limits other than
batches per hour, real token counts (4 bytes are one token), prompt caching, prices, image and video downloads,
Azure's and other vendors' dialects, TLS, and state that survives a restart.

Use it inside a process (`with Emulator() as emu: OpenAI(base_url=emu.base_url, api_key="x")`), from a shell
(`python -m airflow_openai_batch.emulator`) or as the pytest fixture `openai_batch_emulator`.

Reading order: `model` (files, batches, time), `validate`, `answers` → `bodies` → `work` (request line to output
line), `backend` (the state and its rules, no HTTP), `server` (HTTP), `faults`, `ledger`, `runner`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_openai_batch.emulator.answers import (
        Answer,
        Filtered,
        Fragmented,
        HttpError,
        LineError,
        Malformed,
        Missing,
        Raw,
        Refusal,
        Reply,
        Text,
        Truncated,
        Vectors,
    )
    from airflow_openai_batch.emulator.clock import Clock, ManualClock, SystemClock
    from airflow_openai_batch.emulator.faults import Rule, chaos
    from airflow_openai_batch.emulator.runner import Emulator
    from airflow_openai_batch.emulator.upstream import Upstream
    from airflow_openai_batch.emulator.validate import Limits

__all__ = [
    "Answer",
    "Clock",
    "Emulator",
    "Filtered",
    "Fragmented",
    "HttpError",
    "Limits",
    "LineError",
    "Malformed",
    "ManualClock",
    "Missing",
    "Raw",
    "Refusal",
    "Reply",
    "Rule",
    "SystemClock",
    "Text",
    "Truncated",
    "Upstream",
    "Vectors",
    "chaos",
]

_HOMES = {
    "Clock": "clock",
    "Emulator": "runner",
    "Limits": "validate",
    "ManualClock": "clock",
    "Rule": "faults",
    "SystemClock": "clock",
    "Upstream": "upstream",
    "chaos": "faults",
}


def __getattr__(name: str) -> object:
    # Lazy, because the pytest plug-in imports this package in every pytest run that has it installed.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'answers')}"), name)
