"""What the tests of the engine build again and again, and a fake of OpenAI that is a dict instead of a server."""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from airflow_openai_batch.engine.api.batch_json import UploadedFile
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import NotFound, Unclear
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.model import (
    FORMAT_VERSION,
    Backoff,
    Batch,
    CarriedAnswers,
    Intent,
    Job,
    JobKey,
    OutcomePart,
    Policy,
    Shard,
    Spec,
    State,
    Status,
    Timing,
    Upload,
)
from airflow_openai_batch.engine.store.job_store import JobStore

KEY = JobKey(dag_id="dag", run_id="manual__2026-01-01T00:00:00+00:00", task_id="ask")
RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
BODY: dict[str, Any] = {"model": "gpt-6-luna", "input": "{text}"}
TIMING = Timing()


DATA = Path(__file__).parent / "data"
SNAPSHOT_V1 = DATA / "snapshot_v1.json"
"""A job as the first version stored it."""


def rows(n: int) -> list[dict[str, Any]]:
    return [{"id": f"t{i}", "text": f"ticket {i}"} for i in range(n)]


def job(*shards: Shard, earlier: tuple[Shard, ...] = (), endpoint: str = RESPONSES, **changes: Any) -> Job:
    """A job on paper, for the pure parts."""
    policy = changes.pop("policy", Policy())
    schema = changes.pop("schema", None)
    values: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "key": KEY,
        "spec": Spec(endpoint=endpoint, body="{}", schema=schema, schema_name="answer" if schema else None),
        "policy": policy,
        "source_version": None,
        "created_at": 0.0,
        "deadline_from": 0.0,
        "shards": shards,
        "earlier": earlier,
        "n_rows": sum(s.n_rows for s in shards if s.parent is None),
    }
    return Job(**{**values, **changes})


def shard(state: State, name: str = "0-00000", **changes: Any) -> Shard:
    """A shard on paper. The fields of its nested values are given flat, an intent as ``nonce`` and ``intent_at``."""
    nested: dict[str, Any] = {}
    for field, kind in (("upload", Upload), ("backoff", Backoff)):
        values = {name: changes.pop(name) for name in kind.__struct_fields__ if name in changes}
        nested |= {field: kind(**values)} if values else {}
    if "nonce" in changes or "n_looks" in changes:
        at = changes.pop("intent_at", 0.0)
        nested["intent"] = Intent(nonce=changes.pop("nonce", "nonce"), at=at, n_looks=changes.pop("n_looks", 0))
    of_part = ("tally", "retryable", "usage", "cost", "unmatched")
    if changes.keys() & set(of_part) or isinstance(changes.get("outcomes"), str):
        part = {name: changes.pop(name) for name in of_part if name in changes}
        nested["outcomes"] = OutcomePart(name=changes.pop("outcomes", "e0/outcomes/part.parquet"), **part)
    if "n_carried" in changes:
        nested["carried"] = CarriedAnswers(name="e0/carried.parquet", n_rows=changes.pop("n_carried"), row_index="")
    return Shard(id=name, state=state, **{"n_rows": 2, "n_requests": 2, "n_tokens": 10, **nested, **changes})


def batch(status: str, name: str = "batch_1", **changes: Any) -> Batch:
    return Batch(id=name, status=status, **changes)


# -- output lines --------------------------------------------------------------------------------------------------


def strict(**properties: Any) -> dict[str, Any]:
    """Return a JSON Schema as OpenAI's strict mode wants it."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def line(custom_id: str, body: Any = None, *, status: int = 200, error: Any = None) -> bytes:
    """An output line as OpenAI writes it."""
    response = None if body is None else {"status_code": status, "request_id": "req_1", "body": body}
    return json.dumps({"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": error}).encode()


def responses_body(*texts: str, status: str = "completed", **more: Any) -> dict[str, Any]:
    items = [{"type": "message", "content": [{"type": "output_text", "text": text}]} for text in texts]
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    return {"model": "gpt-6-luna-2026", "status": status, "output": items, "usage": usage, **more}


def answer(custom_id: str, text: str = "good") -> bytes:
    return line(custom_id, responses_body(text))


def failure(custom_id: str, status: int = 500, code: str | None = "server_error") -> bytes:
    return line(custom_id, {"error": {"code": code, "message": f"it was {status}"}}, status=status)


def line_error(custom_id: str, code: str = "batch_expired") -> bytes:
    return line(custom_id, error={"code": code, "message": "no answer"})


def is_failure(text: bytes) -> bool:
    """Return whether OpenAI counts a line under failed requests."""
    try:
        read = json.loads(text)
        return bool(read["error"]) or read["response"]["status_code"] >= 400
    except (ValueError, KeyError, TypeError):
        return False


# -- OpenAI ----------------------------------------------------------------------------------------------------------


class Lost(Exception):
    """In a script: the call happens, its answer does not arrive."""


class FakeApi:
    """Files and batches in dicts. ``script`` makes the next calls of a verb go wrong."""

    has_openais_prices, host = True, "api.openai.com"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.files: dict[str, bytes] = {}
        self.made: dict[str, Batch] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.calls: Counter[str] = Counter()
        self.hidden: set[str] = set()
        self._numbers = itertools.count()
        self.on_create: Callable[[], None] = lambda: None
        self._scripts: dict[str, deque[Exception | None]] = {}

    def script(self, verb: str, *steps: Exception | None) -> None:
        """An exception is raised instead of the call, ``Lost()`` after it; None lets a call pass."""
        self._scripts.setdefault(verb, deque()).extend(steps)

    def forget_scripts(self) -> None:
        """Let all calls pass from now on."""
        self._scripts.clear()

    def _step(self, verb: str) -> bool:
        """Count the call and go wrong as scripted. Returns whether the answer is to be lost."""
        self.calls[verb] += 1
        script = self._scripts.get(verb)
        step = script.popleft() if script else None
        if isinstance(step, Exception) and not isinstance(step, Lost):
            raise step
        return step is not None

    def upload(self, name: str, file: IO[bytes], expires_after_s: int | None = None) -> UploadedFile:
        is_lost = self._step("upload")
        assert name.endswith(".jsonl")
        file_id = f"file-{next(self._numbers)}"
        self.files[file_id] = file.read()
        if is_lost:
            raise Unclear("lost")
        return UploadedFile(file_id)

    def create(
        self,
        *,
        file_id: str,
        endpoint: str,
        completion_window: str,
        metadata: dict[str, str],
        timeout_s: float,
        output_expires_after_s: int | None = None,
    ) -> Batch:
        is_lost = self._step("create")
        now = self._clock()
        made = Batch(
            id=f"batch_{len(self.made)}",
            status="validating",
            created_at=now,
            expires_at=now + 86_400,
            input_file_id=file_id,
            nonce=metadata[NONCE_KEY],
        )
        self.made[made.id] = made
        self.metadata[made.id] = metadata
        self.on_create()
        if is_lost:
            raise Unclear("lost")
        return made

    def retrieve(self, batch_id: str) -> Batch:
        self._step("retrieve")
        if batch_id not in self.made:
            raise NotFound("no such batch", status=404)
        return self.made[batch_id]

    def batches(self, since: float) -> Iterator[Batch]:
        self._step("batches")
        return iter([b for b in reversed(self.made.values()) if b.id not in self.hidden])

    def cancel(self, batch_id: str) -> Batch | None:
        self._step("cancel")
        known = self.made[batch_id]
        if known.status in ("completed", "failed", "expired"):
            return None
        self.change(batch_id, status="cancelling")
        return self.made[batch_id]

    def download(self, file_id: str, target: IO[bytes]) -> int:
        is_lost = self._step("download")
        if file_id not in self.files:
            raise NotFound("no such file", status=404)
        data = self.files[file_id]
        if is_lost:
            target.write(data[: len(data) // 2])
            raise Unclear("lost")
        return target.write(data)

    def file_bytes(self, file_id: str) -> int | None:
        self._step("file_bytes")
        return len(self.files[file_id]) if file_id in self.files else None

    # -- what happens at OpenAI ------------------------------------------------------------------------------------

    def change(self, batch_id: str, **changes: Any) -> None:
        self.made[batch_id] = msgspec.structs.replace(self.made[batch_id], **changes)

    def requests(self, batch_id: str) -> list[dict[str, Any]]:
        """The lines of a batch's input file."""
        data = self.files[self.made[batch_id].input_file_id or ""]
        return [json.loads(text) for text in data.split(b"\n") if text]

    def finish(
        self,
        batch_id: str,
        output: Callable[[str], bytes | None] | None = answer,
        errors: Callable[[str], bytes | None] | None = None,
        status: str = "completed",
    ) -> None:
        """End a batch: each custom_id gets what the functions say into the output and the error file."""
        ids = [request["custom_id"] for request in self.requests(batch_id)]
        named: dict[str, str | None] = {}
        n_lines = n_failed = 0
        for name, write in (("output_file_id", output), ("error_file_id", errors)):
            lines = [text for i in ids if (text := write(i)) is not None] if write is not None else []
            named[name] = f"{batch_id}-{name}" if lines else None
            n_lines += len(lines)
            n_failed += len(lines) if name == "error_file_id" else sum(map(is_failure, lines))
            self.files[f"{batch_id}-{name}"] = b"".join(text + b"\n" for text in lines)
        counts = {"n_completed": n_lines - n_failed, "n_failed": n_failed}
        self.change(batch_id, status=status, ended_at=self._clock(), n_total=len(ids), **counts, **named)

    @property
    def running(self) -> list[str]:
        """Ids of batches that cost money now, in order of creation."""
        return [b.id for b in self.made.values() if b.status in ("validating", "in_progress", "finalizing")]


class Clock:
    """The time, as the test says."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class World:
    """A store, a fake OpenAI and a clock, and what a user does with them."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.clock = Clock()
        self.api = FakeApi(self.clock)
        self.engine = self.worker()

    def worker(self) -> Engine:
        """Another process on the same job."""
        return Engine(store=self.store, api=self.api, timing=TIMING, clock=self.clock, sleep=self.clock.sleep)  # type: ignore[arg-type]

    def submit(
        self, data: Any = 3, *, start_over: str | None = None, policy: Policy | None = None, **request: Any
    ) -> Job:
        asked = {"endpoint": RESPONSES, "body": BODY, "custom_id": "{id}", **request}
        data = rows(data) if isinstance(data, int) else data
        return submit(self.engine, Request(data, **asked), policy or Policy(), start_over=start_over)

    def advance(self) -> Wait | Done | Held:
        return advance(self.engine)

    def waits(self) -> Wait:
        found = self.advance()
        assert isinstance(found, Wait), found
        return found

    def done(self) -> Done:
        found = self.advance()
        assert isinstance(found, Done), found
        return found

    def held(self) -> str:
        found = self.advance()
        assert isinstance(found, Held), found
        return found.reason

    def later(self, seconds: float) -> None:
        self.clock.now += seconds

    def ends_well(self, n: int = 2) -> None:
        """The job ends with every row answered, and every row was asked once."""
        for _ in range(6):
            self.later(3600)
            self.advance()
            for name in self.api.running:
                self.api.finish(name)
        assert self.done().summary.by_status == {Status.SUCCEEDED: n}
        paid = [b for b in self.api.made.values() if b.status == "completed"]
        assert sum(len(self.api.requests(b.id)) for b in paid) == n

    def ended(
        self,
        output: Callable[[str], bytes | None] = answer,
        data: Any = 5,
        errors: Callable[[str], bytes | None] | None = None,
        **request: Any,
    ) -> None:
        """Run a job to its end; every batch answers alike."""
        self.submit(data, **request)
        for _ in range(5):
            self.advance()
            for name in self.api.running:
                self.api.finish(name, output, errors)
        self.done()

    @property
    def job(self) -> Job:
        snapshot = self.store.load()
        assert snapshot is not None
        return snapshot.job

    @property
    def number(self) -> int:
        snapshot = self.store.load()
        assert snapshot is not None
        return snapshot.number


def cut(n: int) -> Limits:
    """Limits that put n requests into a batch."""
    return Limits(max_requests=n)


# -- what must not be told -------------------------------------------------------------------------------------------

SECRET = "patient Jane Roe"
"""Content of a row or an answer, which no message and no log may repeat."""


def has_no_secret(*texts: object) -> None:
    """Assert that no text tells the secret."""
    for text in texts:
        assert "Jane" not in str(text), text
