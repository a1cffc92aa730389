"""The engine over real HTTP against the emulator, with one clock for both that only moves when told.

`world` starts an emulator and returns a kit around it. Everything is read from the emulator's ledger: which batches
were made, which rows were billed, what was called.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import DefaultHttpxClient, OpenAI
from upath import UPath

from airflow_openai_batch.emulator import Emulator, ManualClock, Rule
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.job.summary import Summary, check_thresholds
from airflow_openai_batch.engine.model import Job, JobKey, Policy, Timing
from airflow_openai_batch.engine.results.sinks import FileSink
from airflow_openai_batch.engine.results.writer import Written, write_results
from airflow_openai_batch.engine.store.job_store import JobStore

BODY = {"model": "gpt-6-luna", "input": "Label: {text}"}
NONCE = "airflow_openai_batch"


class Killed(BaseException):
    """The process died here."""


class Fate:
    """Kills the process at the n-th dangerous moment: when a commit or a call has taken effect and nobody knows.

    Dying before one is dying after the one before: nothing that lasts happens between them.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self._n = 0
        self.has_struck = False
        self.log: list[str] = []

    def around(self, what: str, act: Callable[[], Any]) -> Any:
        result = act()
        self._n += 1
        self.log.append(what)
        if self._n == self._at:
            self.has_struck = True
            raise Killed(f"after {what}")
        return result


class MortalStore(JobStore):
    """A job store whose process can die right after each commit."""

    fate: Fate

    def commit(self, number: int, job: Job, now: float) -> tuple[int, Job]:
        return self.fate.around(f"commit {number}", lambda: super(MortalStore, self).commit(number, job, now))


class MortalApi(Api):
    """The verbs, in a process that can die right after each call."""

    fate: Fate

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name == "fate" or not callable(found):
            return found
        if name == "batches":
            return lambda since: iter(self.fate.around(name, lambda: list(found(since))))
        return lambda *args, **kwargs: self.fate.around(name, lambda: found(*args, **kwargs))


class World:
    """One emulator, one job, and as many engines as a test wants."""

    def __init__(self, emu: Emulator, root: UPath, http: DefaultHttpxClient) -> None:
        self.emu, self.root, self._http = emu, root, http
        self.clock = emu.clock
        self.began_at = self.clock.now()
        self.key = JobKey(dag_id="labels", run_id="manual__2026-11-22", task_id="ask")
        self.timing = Timing(post_timeout_s=0.4, grace_s=180.0)

    # -- acting ------------------------------------------------------------------------------------------------

    def client(self, api_key: str = "sk-test") -> OpenAI:
        return OpenAI(base_url=self.emu.base_url, api_key=api_key, http_client=self._http)

    def engine(self, *, api_key: str = "sk-test", api: Any = None, store: Any = None, **changes: Any) -> Engine:
        """A new process: nothing is shared with other engines but the store, the server and the time."""
        given = {"timing": self.timing, "parallel": 3, "clock": self.clock.now, "sleep": self.clock.advance, **changes}
        return Engine(store or JobStore(self.root, self.key), api or Api(self.client(api_key)), **given)

    def mortal(self, fate: Fate) -> Engine:
        """A process that dies when its fate says so."""
        store, api = MortalStore(self.root, self.key), MortalApi(self.client())
        store.fate = api.fate = fate
        return self.engine(store=store, api=api)

    def rows(self, n: int, text: str = "ticket {}") -> list[dict[str, Any]]:
        return [{"id": i, "text": text.format(i)} for i in range(n)]

    def request(self, rows: Any = 6, **args: Any) -> Request:
        rows = self.rows(rows) if isinstance(rows, int) else rows
        per_shard = args.pop("per_shard", None)
        if per_shard:
            args["limits"] = Limits(max_requests=per_shard)
        given = {"endpoint": "/v1/responses", "body": BODY, "custom_id": "t-{id}", **args}
        return Request(rows, **given)

    def submit(
        self,
        rows: Any = 6,
        *,
        policy: Policy | None = None,
        engine: Any = None,
        start_over: str | None = None,
        **a: Any,
    ) -> Job:
        engine = engine or self.engine()
        return submit(engine, self.request(rows, **a), policy or Policy(), start_over=start_over)

    def advance(self, engine: Engine | None = None) -> Wait | Done | Held:
        """Advance once, as a worker does, and check that no shard has two batches that run."""
        found = advance(engine or self.engine())
        self.assert_one_live_batch_per_shard()
        return found

    def finish(self, engine: Engine | None = None, *, step_s: float = 900.0, most: int = 400) -> Done | Held:
        """Advance, and let time pass, until the job is done or needs a person."""
        for _ in range(most):
            found = self.advance(engine)
            if not isinstance(found, Wait):
                return found
            self.clock.advance(min(max(found.wake_at - self.clock.now(), 1.0), step_s))
        raise AssertionError(f"the job does not end: {self.job}")

    def done(self, engine: Engine | None = None, **args: Any) -> Summary:
        found = self.finish(engine, **args)
        assert isinstance(found, Done), found
        return found.summary

    def held(self, engine: Engine | None = None, **args: Any) -> str:
        found = self.finish(engine, **args)
        assert isinstance(found, Held), found
        return found.reason

    def fault(self, on: str, do: Any, **args: Any) -> None:
        self.emu.faults.add(Rule(on, do, **args))

    def blip(self, on: str, *faults: Any) -> None:
        """Let the next calls go wrong, each in its own way."""
        for fault in faults:
            self.fault(on, fault, times=1)

    def done_accepting(self, command: str = "accept_missing", **args: Any) -> Summary:
        """Finish a job that a person has to decide about: rows that cannot be proven to have no answer."""
        found = self.finish(**args)
        if isinstance(found, Held):
            assert "not whole, or not all there" in found.reason
            self.store.command(command, at=self.clock.now())
            found = self.finish(**args)
        assert isinstance(found, Done), found
        return found.summary

    # -- reading -----------------------------------------------------------------------------------------------

    @property
    def job(self) -> Job:
        found = JobStore(self.root, self.key).load()
        assert found is not None
        return found[1]

    @property
    def store(self) -> JobStore:
        return JobStore(self.root, self.key)

    @property
    def hours(self) -> float:
        return (self.clock.now() - self.began_at) / 3600

    @property
    def batches(self) -> list[Any]:
        return self.emu.ledger.batches

    def n_calls(self, method: str, path: str) -> int:
        return self.emu.ledger.n_calls(method, path)

    def billed(self) -> Counter[str]:
        """How often each request was billed, by custom_id."""
        return Counter(row.custom_id for row in self.emu.ledger.rows())

    def shard_of(self, batch: Any) -> str:
        return batch.metadata[NONCE].rpartition("/")[0]

    def assert_one_live_batch_per_shard(self) -> None:
        live = [b for b in self.emu.ledger.live_batches() if b.status != "cancelling" and NONCE in (b.metadata or {})]
        counts = Counter(self.shard_of(batch) for batch in live)
        assert all(n == 1 for n in counts.values()), counts

    def assert_paid_once(self, n: int) -> None:
        """Every row was billed, and none twice."""
        billed = self.billed()
        assert set(billed) == {f"t-{i}" for i in range(n)}
        assert set(billed.values()) == {1}
        assert self.emu.ledger.rows_billed_twice() == []

    def lines(self, batch: Any) -> list[dict[str, Any]]:
        """The request lines that the emulator received for a batch."""
        return [json.loads(line) for line in self.emu.files[batch.input_file_id].read().splitlines()]

    def asked(self, batch: Any) -> list[str]:
        """The custom_ids of a batch."""
        return [line["custom_id"] for line in self.lines(batch)]

    def write(self, name: str = "out.jsonl") -> Written:
        return write_results(self.store, self.job, FileSink(self.root / "results" / name))

    def table(self, written: Written | None = None) -> list[dict[str, Any]]:
        """The results as a downstream task would read them."""
        written = written or self.write()
        assert written.output is not None
        return [json.loads(line) for line in Path(written.output).read_bytes().split(b"\n") if line]

    def dead_letter(self, written: Written) -> list[bytes]:
        assert written.dead_letter is not None
        return Path(written.dead_letter).read_bytes().rstrip(b"\n").split(b"\n")

    def statuses(self) -> dict[str, str]:
        return {row["custom_id"]: row["status"] for row in self.table()}

    def check_thresholds(self) -> str | None:
        return check_thresholds(self.write().summary, self.job.policy)

    def assert_accounted(self, n: int) -> None:
        """Rows in are rows out, in order and once each, and the counts say the same."""
        written = self.write()
        table = self.table(written)
        assert [row["custom_id"] for row in table] == [f"t-{i}" for i in range(n)]
        assert written.summary.n_rows == n == sum(written.summary.by_status.values())
        assert Counter(row["status"] for row in table) == Counter(
            {status.value: k for status, k in written.summary.by_status.items()}
        )


@pytest.fixture(scope="session")
def http() -> Iterator[DefaultHttpxClient]:
    """One HTTP client for all tests: to make one means to load the system's certificates."""
    with DefaultHttpxClient() as client:
        yield client


@pytest.fixture
def world(http: DefaultHttpxClient, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Start an emulator; by default a batch takes an hour of a clock that stands still."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def start(**settings: Any) -> World:
            given = {"clock": ManualClock(), "seed": 7, "duration": 3600, "patience": 20, **settings}
            emu = stack.enter_context(Emulator(**given))
            return World(emu, UPath(tmp_path / str(next(numbers))), http)

        yield start


@pytest.fixture
def fate() -> type[Fate]:
    """Makes processes die."""
    return Fate


@pytest.fixture
def killed() -> type[Killed]:
    return Killed


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the emulator's own messages out of failures."""
    logging.getLogger("airflow_openai_batch.emulator").setLevel(logging.WARNING)
