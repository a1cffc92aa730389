"""Answers the requests of a batch: request lines in, output and error lines out, in shuffled order."""

from __future__ import annotations

import functools
import json
import logging
import mmap
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from airflow_openai_batch.emulator.answers import Answer, HttpError, LineError, LineReply, Malformed, Raw
from airflow_openai_batch.emulator.bodies import BatchRequest, respond
from airflow_openai_batch.emulator.dialect import Dialect
from airflow_openai_batch.emulator.faults import Event, Faults, Rule
from airflow_openai_batch.emulator.invoice import PriceList
from airflow_openai_batch.emulator.ledger import Bill, body_hash
from airflow_openai_batch.emulator.model import Batch, JsonObject, Usage
from airflow_openai_batch.emulator.row_faults import answer_with_fault, apply_line_fault, delivery_status
from airflow_openai_batch.emulator.validate import strict_json

log = logging.getLogger(__name__)

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


@dataclass(frozen=True, slots=True)
class BatchTask:
    """How to answer a batch.

    Attributes:
        batch: The batch, validated.
        path: Its input file.
        n_answered: How many rows are answered, in the shuffled order.
        unfinished_error: The error line of the other rows; None gives them no line.
        seed: Determines the order and, with the batch's number, the ids.
        concurrency: Requests answered at the same time.
    """

    batch: Batch
    path: Path
    n_answered: int
    unfinished_error: LineError | None
    seed: int
    concurrency: int


@dataclass(slots=True)
class Tally:
    """The bill, counts and numbers of lines of an answered batch."""

    bill: Bill
    completed: int = 0
    failed: int = 0
    n_output_lines: int = 0
    n_error_lines: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """Return the billed tokens of the batch."""
        input_tokens, output_tokens = sum(self.bill.input_tokens), sum(self.bill.output_tokens)
        return Usage(input_tokens, self.cached_tokens, output_tokens, self.reasoning_tokens)


@dataclass(slots=True)
class _Row:
    """One answered row: its lines in both files and what the ledger records of it."""

    custom_id: str
    output: list[bytes]
    error: list[bytes]
    body: JsonObject | None = None  # the response body of a billed row
    digest: int = 0
    delivered: str = "ok"
    is_failed: bool = False


class Stopped(Exception):
    """The emulator stops."""


class Worker:
    """Answers batches.

    Args:
        answer: The answer function.
        faults: The active rules.
        stop: Is set when the emulator stops.
        dialect: How lines are written.
    """

    def __init__(self, answer: Answer, faults: Faults, stop: threading.Event, dialect: Dialect) -> None:
        self._answer = answer
        self._faults = faults
        self._stop = stop
        self._dialect = dialect

    def run(self, task: BatchTask, output: BinaryIO, error: BinaryIO) -> Tally:
        """Write the two files of a batch.

        Args:
            task: How to answer the batch.
            output: The output file.
            error: The error file.

        Returns:
            The bill, counts and numbers of lines.

        Raises:
            Stopped: The emulator stops.
        """
        verdict = task.batch.verdict
        tally = Tally(Bill(task.batch.id))
        if verdict is None or verdict.total == 0:
            return tally
        with task.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            rng = random.Random(f"{task.seed}:{task.batch.number}")  # noqa: S311 - no secrets here
            # OpenAI: the order is not preserved. Which rows are answered before an early end is random too.
            sequence = list(range(verdict.total))
            rng.shuffle(sequence)
            offsets = verdict.offsets
            lines = (data[offsets[i] : offsets[i + 1]] for i in sequence)
            requests = ((line, f"{rng.getrandbits(128):032x}") for line in lines)
            now = int(task.batch.clock.now())
            answered = islice(requests, task.n_answered)
            for row in self._map(lambda request: self._row(task.batch, *request, now), answered, task.concurrency):
                if self._stop.is_set():
                    raise Stopped
                _write(row, tally, output, error)
            if task.unfinished_error is not None:
                for line, hex_id in requests:
                    error.write(self._line_error(hex_id, strict_json(line)["custom_id"], task.unfinished_error))
                    tally.n_error_lines += 1
        return tally

    def _map(
        self, function: Callable[[tuple[bytes, str]], _Row], items: Iterable[tuple[bytes, str]], concurrency: int
    ) -> Iterator[_Row]:
        if concurrency <= 1:
            yield from map(function, items)
            return
        items = iter(items)
        with ThreadPoolExecutor(concurrency, "emulator-answer") as pool:
            while chunk := list(islice(items, 4 * concurrency)):
                yield from pool.map(function, chunk)

    def _row(self, batch: Batch, raw: bytes, hex_id: str, now: int) -> _Row:
        line = strict_json(raw)
        custom_id, body = line["custom_id"], line["body"]
        rule = self._rule(batch, custom_id, raw) if self._faults.has_row_rules else None
        request = BatchRequest(batch.endpoint, body, hex_id, now)
        try:
            answered = answer_with_fault(request, rule, self._answer)
            reply = respond(request, answered)
        except Exception as error:  # a defect of the user's answer function is the error of its row
            log.exception("The answer to '%s' failed", custom_id)
            answered = reply = HttpError(message=f"The emulator's answer failed: {type(error).__name__}: {error}")
        row = self._to_row(reply, hex_id, custom_id)
        if rule is not None:
            row.output, row.error = apply_line_fault(rule, hex_id, custom_id, row.output, row.error)
        if isinstance(reply, HttpError) and reply.code == "content_filter":
            row.body = self._dialect.billed_of_filtered(body)
        if row.body is not None or isinstance(reply, Malformed):
            row.body = row.body or {}
            row.digest = body_hash(body)
            row.delivered = delivery_status(answered, rule)
        return row

    def _rule(self, batch: Batch, custom_id: str, raw: bytes) -> Rule | None:
        return self._faults.for_row(
            Event(custom_id=custom_id, body=raw, metadata=batch.metadata, endpoint=batch.endpoint, batch=batch.number)
        )

    def _to_row(self, reply: LineReply, hex_id: str, custom_id: str) -> _Row:
        """Return the row with its line. OpenAI: answers are in the output file, failed requests in the error file."""
        if isinstance(reply, Raw):
            if reply.status != 200:
                line = self._response_line(hex_id, custom_id, reply.status, reply.body)
                return _Row(custom_id, [], [line], is_failed=True)
            body = self._dialect.body(reply.body)
            return _Row(custom_id, [self._response_line(hex_id, custom_id, 200, body)], [], body)
        if isinstance(reply, HttpError):
            error = {"message": reply.message, "type": reply.type, "param": None, "code": reply.code}
            line = self._response_line(hex_id, custom_id, reply.status, {"error": error})
            # Seen: such a line in the output file is counted as completed.
            return _Row(custom_id, [line], []) if reply.in_output else _Row(custom_id, [], [line], is_failed=True)
        if isinstance(reply, LineError):
            return _Row(custom_id, [], [self._line_error(hex_id, custom_id, reply)], is_failed=True)
        if isinstance(reply, Malformed):
            return _Row(custom_id, [reply.data + b"\n"], [])
        return _Row(custom_id, [], [])

    def _response_line(self, hex_id: str, custom_id: str, status: int, body: JsonObject) -> bytes:
        response = {"status_code": status, "request_id": hex_id, "body": body}
        line = {"id": "batch_req_" + hex_id, "custom_id": custom_id, "response": response, "error": None}
        return _to_line(self._dialect.line(line))

    def _line_error(self, hex_id: str, custom_id: str, reply: LineError) -> bytes:
        error = {"code": reply.code, "message": reply.message}
        line = {"id": "batch_req_" + hex_id, "custom_id": custom_id, "response": None, "error": error}
        return _to_line(self._dialect.line(line))


def _to_line(value: Any) -> bytes:
    """Return a value as one line of JSON, with U+2028 and its like unescaped, as parsers have to expect them."""
    try:
        return _encode(value).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
        return json.dumps(value).encode() + b"\n"


def _write(row: _Row, tally: Tally, output: BinaryIO, error: BinaryIO) -> None:
    output.writelines(row.output)
    error.writelines(row.error)
    tally.n_output_lines += len(row.output)
    tally.n_error_lines += len(row.error)
    tally.failed += row.is_failed
    # A request that was dropped without a line is in neither count.
    tally.completed += not row.is_failed and bool(row.output)
    if row.body is None:
        return
    usage = row.body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    cost = price_list().cost(row.body.get("model"), usage)
    tally.bill.add(row.custom_id, row.digest, billed_tokens(usage), row.delivered, cost)
    details = usage.get("input_tokens_details") or usage.get("prompt_tokens_details")
    tally.cached_tokens += _detail(details, "cached_tokens")
    details = usage.get("output_tokens_details") or usage.get("completion_tokens_details")
    tally.reasoning_tokens += _detail(details, "reasoning_tokens")


def billed_tokens(usage: JsonObject) -> tuple[int, int]:
    """Return the input and output tokens of an answer's usage, whatever its endpoint calls them."""
    input_tokens = usage.get("input_tokens", usage.get("prompt_tokens")) or 0
    return input_tokens, usage.get("output_tokens", usage.get("completion_tokens")) or 0


@functools.cache
def price_list() -> PriceList:
    """Return the published prices, read once."""
    return PriceList()


def _detail(details: object, name: str) -> int:
    value = details.get(name) if isinstance(details, dict) else None
    return value if isinstance(value, int) else 0
