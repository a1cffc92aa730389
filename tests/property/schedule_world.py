"""A world in which a schedule runs: one emulator, one job store, one clock, and processes that freeze and die.

A process is a thread, but only one runs at a time. Whenever it is about to touch the store or the API, and whenever it
has just done so, the schedule's dice decide whether it goes on, is frozen, or dies. Who runs next is decided by the
same dice, so a seed replays exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import threading
from collections.abc import Callable, Iterator
from functools import cache
from math import inf
from pathlib import Path
from typing import IO, Any

import httpx2
from openai import DefaultHttpxClient, OpenAI
from schedule_plan import PATIENCE_S, TIMING, Plan
from schedule_wire import Lazily, Wire, make_loop
from schedule_witness import Violation, Witness
from upath import UPath

from airflow_openai_batch.emulator.answers import Answered, HttpError, default_answer
from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.clock import ManualClock
from airflow_openai_batch.emulator.server import make_app
from airflow_openai_batch.emulator.settings import Settings
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.concurrency import WRITE_BEHIND
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.model import Job, JobKey
from airflow_openai_batch.engine.store.job_store import JobStore

KEY = JobKey(dag_id="labels", run_id="manual__2026-11-22", task_id="ask")
NONCE = "airflow_openai_batch"
_CREATE = "POST /v1/batches"
_ASK = "POST /v1/responses"
_MOST_MOMENTS = 50_000

_log = logging.getLogger("fault_schedules")


class Killed(BaseException):
    """The process died here."""


class Process:
    """Some work of the engine that can be frozen and killed.

    Attributes:
        at: The moment at which it is frozen, or None.
        posting_since: When it looked at the clock for the last time before a create that has had no effect yet.
        epoch: That of the last snapshot that it made.
        error: What ended it, if it was neither its own end nor its death.
    """

    def __init__(self, world: World, work: Callable[[Engine], object]) -> None:
        self._world = world
        self._work = work
        self._turn = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self.at: str | None = None
        self.posting_since: float | None = None
        self.epoch = 0
        self.is_doomed = False
        self.is_over = False
        self.found: object = None
        self.error: BaseException | None = None

    def go(self) -> None:
        """Let it run until it is frozen or over."""
        if self.is_over:
            raise RuntimeError("The process is over.")
        self._world.running, self.at = self, None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._turn.release()
        self._world.back.acquire()
        self._world.running = None

    def kill(self) -> None:
        """End it where it is frozen."""
        self.is_doomed = True
        self.go()

    def freeze(self, what: str) -> None:
        """Stand still; called by the process itself."""
        self.at = what
        self._world.back.release()
        self._turn.acquire()
        if self.is_doomed:
            raise Killed(what)

    def _run(self) -> None:
        try:
            self.found = self._work(self._world.engine())
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            self.posting_since = None
            self._world.back.release()


class DangerousStore(JobStore):
    """A job store at whose every write a process may freeze or die, and whose client may repeat a request."""

    world: World
    _pending: Job | None = None

    def commit(self, number: int, job: Job, now: float) -> tuple[int, Job]:
        self._pending = job
        return super().commit(number, job, now)

    def create(self, name: str, data: bytes) -> bool:
        self.world.moment(f"before writing {name}")
        is_new = super().create(name, data)
        if name.startswith("state/") and is_new and self._pending is not None:
            self.world.witness.note_snapshot(self, self._pending)
            if self.world.running is not None:
                self.world.running.epoch = self._pending.epoch
            if self.world.is_wild and self.world.rng.random() < self.world.plan.repeat_rate:
                is_new = super().create(name, data)  # the answer was lost and the storage client asks again
        self.world.moment(f"after writing {name}")
        return is_new

    @contextlib.contextmanager
    def writing(self, name: str, *, is_checked: bool = False) -> Iterator[IO[bytes]]:
        self.world.moment(f"before writing {name}")
        with super().writing(name, is_checked=is_checked) as file:
            yield file
        self.world.moment(f"after writing {name}")


class DangerousWire(httpx2.BaseTransport):
    """A wire at whose every call a process may freeze or die, and the call be slow, lost or never made."""

    def __init__(self) -> None:
        self.world: World | None = None

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        assert self.world is not None
        return self.world.call(request)


@cache
def _shared() -> tuple[asyncio.AbstractEventLoop, DangerousWire, OpenAI]:
    """What is expensive to make and holds no state of a schedule."""
    wire = DangerousWire()
    http = DefaultHttpxClient(transport=wire, trust_env=False)
    return make_loop(), wire, OpenAI(base_url="http://emulator/v1", api_key="sk-test", http_client=http)


class World:
    """Everything of one schedule."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.rng = random.Random(f"run:{plan.seed}:{plan.is_frozen}")
        self.clock = ManualClock()
        self.back = threading.Semaphore(0)
        self.running: Process | None = None
        self.processes: list[Process] = []
        self.is_wild = True
        self.freeze_at: Callable[[str], bool] = lambda what: False
        """Says where a process is to be frozen, for stories that are told and not drawn."""
        self.trace: list[str] = []
        self.n_calls = 0
        self.store_folder = folder / "store"
        files = folder / "emulator"
        files.mkdir(parents=True)
        self._settings = Settings(answer=self._answer, duration=plan.duration_s, seed=plan.seed)
        self.backend = Backend(self._settings, self.clock, files)
        # No threads: work that is due is done by whoever looks first.
        self.backend.progress._validators = Lazily()
        self.backend.progress._workers = Lazily()
        self.backend.faults.add(*plan.all_rules)
        self.witness = Witness(plan, self.backend, self.clock, self.store_folder)
        loop, wire, self._client = _shared()
        wire.world = self
        self._wire = Wire(make_app(self.backend), loop)

    def _answer(self, endpoint: str, body: dict[str, Any]) -> Answered:
        if "poison" in json.dumps(body["input"]):
            self.witness.note_poison(body)
            return HttpError(400, "invalid_prompt", "This will never be answered.", "invalid_request_error")
        return default_answer(endpoint, body)

    def limit_queue(self, tokens: int) -> None:
        """Let OpenAI's queue hold so many tokens."""
        self._settings.queue_limit = tokens

    # -- processes ---------------------------------------------------------------------------------------------

    def engine(self) -> Engine:
        """Return the engine of a new process."""
        return Engine(
            store=self.store(),
            api=Api(self._client),
            timing=TIMING,
            clock=self.clock.now,
            sleep=self.pass_time,
            unique=lambda: f"{self.rng.getrandbits(48):012x}",
            log=_log,
        )

    def store(self) -> DangerousStore:
        """Return the job's store, as a new process sees it."""
        store = DangerousStore(UPath(self.store_folder), KEY)
        store.world = self
        return store

    def start(self, work: Callable[[Engine], object]) -> Process:
        """Start a process, and let it run until it is frozen or over."""
        process = Process(self, work)
        self.processes.append(process)
        process.go()
        return process

    def frozen(self) -> list[Process]:
        """Return the processes that stand still."""
        return [process for process in self.processes if not process.is_over]

    def moment(self, what: str) -> None:
        """Decide the fate of the running process, at a moment when it may matter."""
        if threading.current_thread().name.startswith(WRITE_BEHIND):
            return  # beside the main thread, so the order would not be the same at each replay
        process = self.running
        if len(self.trace) > _MOST_MOMENTS:
            raise Violation("It goes on for ever")
        self.trace.append(f"{self.clock.now() - 1.795e9:.0f} P{self._number(process)} {what}")
        if process is None:
            return
        if self.freeze_at(what):
            process.freeze(what)
        if not self.is_wild:
            return
        dice = self.rng.random()
        pause_rate = self.plan.pause_rate * (self.plan.focus if self._is_creating(what) else 1.0)
        if dice < self.plan.kill_rate:
            self.trace.append(f"  P{self._number(process)} dies {what}")
            raise Killed(what)
        if dice < self.plan.kill_rate + pause_rate:
            self.trace.append(f"  P{self._number(process)} freezes {what}")
            process.freeze(what)

    def _is_creating(self, what: str) -> bool:
        return what.endswith(_CREATE) or (what.startswith("after writing state") and self.witness.has_new_intent)

    def _number(self, process: Process | None) -> str:
        return str(self.processes.index(process)) if process in self.processes else "-"

    # -- time --------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Move the clock, unless that froze a process for longer than this class of schedules allows."""
        if not self.plan.is_frozen:
            now = self.clock.now()
            since = [p.posting_since for p in self.processes if p.posting_since is not None]
            seconds = min([seconds, *(PATIENCE_S - (now - at) for at in since)])
        self.clock.advance(max(0.0, seconds))

    def calm_down(self) -> list[dict[str, Any]]:
        """Let no more go wrong but what the server always does wrong. Returns the rules that were, with their use."""
        self.is_wild = False
        rules = self.backend.faults.to_json()
        self.backend.faults.clear()
        self.backend.faults.add(*self.plan.traits)
        return rules

    def next_change_s(self) -> float:
        """Return the seconds until something changes at OpenAI by itself."""
        now = self.clock.now()
        times = [at for b in self.backend.ledger.live_batches() for at in (b.times.validated_at, b.times.ended_at)]
        return min([at - now for at in times if at > now], default=inf)

    # -- calls -------------------------------------------------------------------------------------------------

    def call(self, request: httpx2.Request) -> httpx2.Response:
        """Make one call, or lose it."""
        what = f"{request.method} {request.url.path}"
        process, is_create = self.running, what == _CREATE
        if is_create and process is not None:
            process.posting_since = self.clock.now()
        self.n_calls += 1
        self.moment(f"before {what}")
        dice = self.rng.random() if self.is_wild else 0.5
        if dice < self.plan.wire_rate:
            self._lose_before(request, process)
        response = self._deliver(request, process, what)
        self.moment(f"after {what}")
        if 1.0 - dice < self.plan.wire_rate:
            self.pass_time(TIMING.post_timeout_s)
            raise httpx2.ReadTimeout("The read operation timed out", request=request)
        return response

    def _lose_before(self, request: httpx2.Request, process: Process | None) -> None:
        """Let the call be slow, or end before it has reached the server."""
        how = self.rng.choice(("slow", "slow", "refused", "timeout", "reset"))
        if how == "slow":
            self.pass_time(self.rng.uniform(0.0, TIMING.post_timeout_s))
            return
        if process is not None:
            process.posting_since = None
        if how == "refused":
            raise httpx2.ConnectError("[Errno 111] Connection refused", request=request)
        if how == "timeout":
            self.pass_time(TIMING.post_timeout_s)
            raise httpx2.ReadTimeout("The read operation timed out", request=request)
        raise httpx2.ReadError("[Errno 104] Connection reset by peer", request=request)

    def _deliver(self, request: httpx2.Request, process: Process | None, what: str) -> httpx2.Response:
        frozen_s = 0.0
        if what == _CREATE:
            self.witness.check_intent(json.loads(request.read()))
            if process is not None and process.posting_since is not None:
                frozen_s = self.clock.now() - process.posting_since
        try:
            response = self._wire.handle_request(request)
        finally:
            if process is not None:
                process.posting_since = None
            made = self.witness.note_batches(is_late=frozen_s > PATIENCE_S)
            self.trace += [f"  made {b.id[:12]} {(b.metadata or {}).get(NONCE, '')}" for b in made]
            self.witness.check_live()
            if what == _ASK and process is not None:
                self.witness.note_asked(process.epoch)
        return response
