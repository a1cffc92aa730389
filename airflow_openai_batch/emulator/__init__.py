"""A server that speaks OpenAI's Files and Batches API over real HTTP, with faults on request.

Emulated: uploading, listing, reading, deleting and expiring files; creating, listing, reading and cancelling
batches; the asynchronous validation of an input file with OpenAI's error codes; the states of a batch as a
function of a clock; partial results of expired and cancelled batches; the enqueued-token limit; response bodies
of the eight endpoints a batch may use; five of them synchronously too, at their own prices; and faults, from a
dropped response to a malformed line. With `dialect="azure"` all this as Azure OpenAI v1 speaks it.

Not emulated: models (answers are generated, or come from a function of yours, or from another server), other
endpoints outside a batch, streamed answers, the Uploads API, webhooks, scopes, organizations and projects, rate
limits other than batches per hour and those of synchronous requests, real token counts (4 bytes are one token),
prompt caching, image and video downloads, Azure's blob storage, the dialects of other vendors, TLS, and state that
survives a restart.

Where a comment states a fact about the API, "OpenAI:" means its published specification and documentation, "seen:"
a response of the real service that was reported in public, and "assumed:" that neither says it.

Use it inside a process (`with Emulator() as emu: OpenAI(base_url=emu.base_url, api_key="x")`), from a shell
(`python -m airflow_openai_batch.emulator`) or as the pytest fixture `openai_batch_emulator`.

Reading order: `model` (files, batches, time), `validate`, `answers` → `bodies` → `worker` (request line to output
line), `direct`, `dialect` (what Azure does in another way), `backend` (the state and its rules, no HTTP), `server`
(HTTP), `faults` → `http_faults` → `response_faults`, `row_faults` and `file_faults`, `ledger`, `runner`.
docs/emulator.md lists the faults.
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

_MODULES = {
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
    # Lazy: the pytest plug-in imports this package in every pytest run that has it installed.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'answers')}"), name)
