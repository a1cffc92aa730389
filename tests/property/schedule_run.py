"""One schedule from its seed to its verdict: wild times, then an end in which everything must come right."""

from __future__ import annotations

import gc
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from schedule_direct import PARALLEL, one_at_a_time
from schedule_misbehaviours import MISBEHAVIOURS
from schedule_plan import MAX_OUTPUT_TOKENS, NEW, OTHER_MODEL, PRICE, SCHEMA, Plan, cap, draw, policy
from schedule_witness import NOT_WHOLE, STUCK, Violation, Witness
from schedule_world import Process, World

from airflow_openai_batch.emulator.model import Status
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.commands import resume
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.state_machine import is_quiet
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.model import Job, Policy
from airflow_openai_batch.engine.results.sinks import ListSink
from airflow_openai_batch.engine.results.writer import write_results

_MOST_ADVANCES = 350
_PATIENT_ADVANCES = 150
"""After so many, whoever waits looks once a day only."""
_MOST_HELD = 12
_MOST_RAISES = 10
_MOST_EXPECTED = 2
_STEPS_S = (1.0, 10.0, 35.0, 65.0, 130.0, 200.0, 600.0, 3700.0, 30_000.0)


@dataclass
class Report:
    """What became of a schedule."""

    seed: int
    is_frozen: bool
    violation: str | None = None
    where: str = ""
    trace: list[str] = field(default_factory=list)
    n: Counter[str] = field(default_factory=Counter)
    faults: tuple[str, ...] = ()
    fired: dict[str, int] = field(default_factory=dict)
    """How often each fault struck."""
    misbehaviours: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()


def run(seed: int, *, is_frozen: bool = False, folder: Path | None = None, new: Sequence[str] = NEW) -> Report:
    """Run a schedule. The same seed, class and misbehaviours give the same schedule."""
    plan = draw(seed, is_frozen=is_frozen, new=new)
    home = Path(tempfile.mkdtemp(prefix="schedule-", dir=folder))
    before, tempfile.tempdir = tempfile.tempdir, str(home)  # one file system: the store links what was spooled
    # A process that dies leaves a Parquet writer behind, which complains when it is collected.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    schedule = Schedule(plan, home)
    report = Report(seed, is_frozen, faults=plan.faults, misbehaviours=plan.misbehaviours, drawn=plan.drawn)
    try:
        with one_at_a_time():
            schedule.run()
    except Violation as broken:
        report.violation = str(broken)
    except Exception as error:
        report.violation = f"{type(error).__name__}: {error}"
        report.where = traceback.format_exc()
    finally:
        schedule.end()
        gc.collect(0)
        sys.unraisablehook = hook
        tempfile.tempdir = before
        shutil.rmtree(home, ignore_errors=True)
    report.trace, report.n = schedule.world.trace, schedule.n
    report.fired = {f"{r['on']} {_named(r['do'])}": r["fired"] for r in schedule.fired}
    return report


def _named(do: Any) -> str:
    if isinstance(do, str):
        return do
    name, value = next(iter(do.items()))
    if name == "status":
        return f"{value['code']}{' after acting' if value.get('after') else ''}"
    if isinstance(value, dict):
        value = value.get("code") or value.get("state") or value.get("status") or value.get("fraction")
    return f"{name} {value}"


class Schedule:
    """One seed's story."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.rng = random.Random(f"schedule:{plan.seed}:{plan.is_frozen}")
        self.n: Counter[str] = Counter()
        self.world = World(plan, folder)
        self._policy = self._with_money(plan.policy, plan.money.max_cost if plan.money is not None else None)
        self._n_raises = 0
        self._prompt = 0
        self._rows = [{"id": i, "text": self._text(i, 0)} for i in range(plan.n_rows)]
        self._start_over: str | None = None
        self._n_known = 0
        self.held: str | None = None
        """Why the job is held for good, if it is."""
        self.fired: list[dict[str, Any]] = []
        """The rules, with how often each struck."""

    @property
    def _witness(self) -> Witness:
        return self.world.witness

    def _text(self, i: int, version: int) -> str:
        i %= self.plan.n_texts
        kind = "poison" if i < self.plan.n_poison else "ticket"
        return f"{kind} {i} version {version}"

    # -- the story ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let everything happen, then let everything end, and judge."""
        self._begin()
        for _ in range(self.plan.n_steps):
            self._step()
        self._calm_down()
        self._finish()
        for sleeper in self.world.frozen():
            sleeper.go()
            self._judge_end(sleeper)
        self._finish()
        self._judge()

    def end(self) -> None:
        """Let no thread stay behind."""
        self.world.is_wild = False
        for process in self.world.frozen():
            process.kill()

    def _begin(self) -> None:
        """The first submission; the limit of the queue follows from its shards."""
        self._start(self._submit_and_advance)
        found = self.world.store().load()
        if self.plan.queue_limit is not None and found is not None:
            self.world.limit_queue(self.plan.queue_limit * max(s.n_tokens for s in found[1].shards) + 60)

    def _step(self) -> None:
        frozen = self.world.frozen()
        dice = self.rng.random()
        if frozen and (dice < 0.4 or (len(frozen) >= self.plan.n_workers and dice < 0.6)):
            process = self.rng.choice(frozen)
            if self.rng.random() < 0.15:
                process.kill()
            else:
                process.go()
            self._judge_end(process)
        elif dice < 0.65 and len(frozen) < self.plan.n_workers:
            self._start(self._submit_and_advance if self.rng.random() < 0.4 else advance)
        elif dice < 0.92 or not self.plan.disturbances:
            steps_s = _STEPS_S if self.plan.focus == 1.0 else _STEPS_S[:7]
            self.world.pass_time(self.rng.choice(steps_s) * self.rng.uniform(0.5, 1.0))
        else:
            self._disturb(self.rng.choice(self.plan.disturbances))

    def _start(self, work: Any) -> None:
        self.n["processes"] += 1
        self._judge_end(self.world.start(work))

    def _judge_end(self, process: Process) -> None:
        """A process may end by its own will, by death, or because there is no job yet."""
        if isinstance(process.found, Held):
            self._witness.check_hold(process.found.reason)
        error, process.error = process.error, None
        if error is None or (isinstance(error, StoreError) and "There is no job" in str(error)):
            return
        if isinstance(error, InputError) and "max_cost needs to know what" in str(error) and self._lacks_price:
            self._policy = replace(self._policy, prices=PRICE)  # as it says
            self.n["cap without a price"] += 1
            return
        raise error

    def _request(self) -> Request:
        return Request(
            [dict(row) for row in self._rows],
            endpoint="/v1/responses",
            body=self._body(),
            response_model=SCHEMA if self.plan.has_schema else None,
            limits=Limits(max_requests=self.plan.per_shard),
        )

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": "gpt-6-luna", "input": f"Label in way {self._prompt}: " + "{text}"}
        if self.plan.money is not None:
            body |= {"model": self.plan.money.model, "max_output_tokens": MAX_OUTPUT_TOKENS}
        return body

    @property
    def _lacks_price(self) -> bool:
        """Whether whoever submits first has given no price of a model that needs one."""
        money = self.plan.money
        return money is not None and money.model == OTHER_MODEL and not money.prices

    def _with_money(self, what: Policy, max_cost: int | None) -> Policy:
        if self.plan.has_ledger:
            what = replace(what, reuse="labels")
        if self.plan.finish_after_s is not None:
            what = replace(what, finish_by="soon", finish_parallel=PARALLEL)
        if self.plan.money is None:
            return what
        return replace(what, max_cost=max_cost, prices=self.plan.money.prices)

    def _submit_and_advance(self, engine: Engine) -> Wait | Done | Held:
        resume(engine.store, engine.clock)  # who clears a cancelled job here wants it to go on
        after_s = self.plan.finish_after_s
        finish_at = None if after_s is None else lambda now: now + after_s
        submit(engine, self._request(), self._policy, start_over=self._start_over, finish_at=finish_at)
        return advance(engine)

    def _disturb(self, what: str) -> None:
        self.world.trace.append(f"  {what}")
        self.n[what] += 1
        match what:
            case "dashboard_cancel" | "input_file_deleted":
                self._touch_openai(what)
            case "new_prompt":
                self._prompt += 1
            case "old_prompt":
                self._prompt = 0
            case "new_rows":
                self._change_rows()
            case "start_over_marker":
                self.world.store().command("start_over")
            case "start_over_parameter":
                self._start_over = f"wish {self.rng.randint(1, 3)}"
            case "cancel_command":
                self.world.store().command("cancel")
            case "other_policy":
                other, money = policy(self.rng, self.plan.has_schema), self.plan.money
                max_cost = cap(self.rng, self.plan.n_rows) if money is not None else None
                self._policy = replace(self._with_money(other, max_cost), prices=self._policy.prices)

    def _touch_openai(self, what: str) -> None:
        """A person clicks in the dashboard."""
        backend = self.world.backend
        if what == "dashboard_cancel" and (live := backend.ledger.live_batches()):
            backend.cancel(self.rng.choice(live).id)
        files = [stored for stored in backend.file_store.all() if stored.purpose == "batch"]
        if what == "input_file_deleted" and files:
            backend.delete_file(self.rng.choice(files).id)

    def _change_rows(self) -> None:
        """Some rows get another text, and perhaps a row is added."""
        version = self.rng.randint(1, 100)
        for i in self.rng.sample(range(len(self._rows)), self.rng.randint(1, 3)):
            self._rows[i] = {"id": i, "text": self._text(i, version)}
        if self.rng.random() < 0.5:
            i = len(self._rows)
            self._rows.append({"id": i, "text": self._text(i, version)})

    # -- the end -----------------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """No more faults. Of the frozen processes some die, some go on, some wake when all is over."""
        self.fired = self.world.calm_down()
        for process in self.world.frozen():
            is_posting = process.posting_since is not None and not self.plan.is_frozen
            fate = self.rng.choice(("dies", "goes on") if is_posting else ("dies", "goes on", "sleeps", "sleeps"))
            if fate == "dies":
                process.kill()
            elif fate == "goes on":
                process.go()
                self._judge_end(process)

    def _finish(self) -> None:
        """A fresh process brings the job to its end, with time passing, or finds that only a person can."""
        work: Any = self._submit_and_advance
        self.held = None
        n_held = 0
        for n_advances in range(_MOST_ADVANCES):
            process = self.world.start(work)
            self._judge_end(process)
            found, work = process.found, advance
            self.n["final advances"] += 1
            if isinstance(found, Done):
                return
            if isinstance(found, Wait):
                self._wait(found)
                if n_advances > _PATIENT_ADVANCES:
                    self.world.pass_time(86_400.0)
                continue
            work = self._submit_and_advance
            if not isinstance(found, Held) or self._is_helped(found.reason):
                continue
            n_held += 1
            is_expected = re.search(f"{self.plan.held}|{STUCK}", found.reason) is not None
            if n_held > (_MOST_EXPECTED if is_expected else _MOST_HELD):
                if not is_expected:
                    raise Violation(f"The job is held again and again: {found.reason}")
                self.held = found.reason
                self.n["held for good"] += 1
                return
        raise Violation(f"The job does not end: {self._job()}")

    def _is_helped(self, reason: str) -> bool:
        """Return whether a person has done what a held job asks for."""
        self.world.trace.append(f"  held: {reason}")
        if NOT_WHOLE in reason and self._accept_missing(reason):
            return True
        if "max_cost is " in reason:
            self._raise_cap(reason)
            return True
        return False

    def _raise_cap(self, reason: str) -> None:
        """A person lets the job cost more, or anything if that does not help."""
        self.n["held by its cap"] += 1
        self._n_raises += 1
        before = self._policy.max_cost
        is_vain = before is None or self._n_raises > _MOST_RAISES or "is not known" in reason
        self._policy = replace(self._policy, max_cost=None if is_vain or before is None else 2 * before)
        if self._n_raises > 2 * _MOST_RAISES:
            raise Violation(f"The job is held by a cap that it does not have: {reason}")

    def _accept_missing(self, reason: str) -> bool:
        """A person gives up the rows whose result files prove nothing, after looking whether the store has them."""
        self._witness.check_raw(reason)
        self.n["accepted as missing"] += 1
        try:
            self.world.store().command("accept_missing", at=self.world.clock.now())  # type: ignore[arg-type,call-arg]
        except (TypeError, ValueError):  # an engine without that command
            return False
        return True

    def _wait(self, wait: Wait) -> None:
        """Wake when asked to or when OpenAI moves; after a wake in vain only when OpenAI moves."""
        due_s, change_s = wait.wake_at - self.world.clock.now(), self.world.next_change_s() + 1.0
        is_vain, self._n_known = self._n_known == self._witness.n_snapshots, self._witness.n_snapshots
        self.world.pass_time(max(1.0, change_s if is_vain and change_s < inf else min(due_s, change_s)))

    def _job(self) -> Job:
        found = self.world.store().load()
        assert found is not None
        return found[1]

    def _judge(self) -> None:
        job = self._job()
        self._witness.check_paid(job)
        self._witness.check_direct_cap(may_be_lowered="other_policy" in self.plan.disturbances, policy=self._policy)
        self._witness.check_creates()
        self.n["creates under a cap"] += self._witness.check_cap(job)
        if self.held is None:
            self._judge_results(job)
            self._judge_quiet()
        self._count()

    def _judge_results(self, job: Job) -> None:
        sink = ListSink(10_000_000)
        summary = write_results(self.world.store(), job, sink).summary
        rows = sink.rows
        if [row["id"] for row in rows] != [row["id"] for row in self._rows]:
            raise Violation("The results are not in the order of the rows")
        if [row["text"] for row in rows] != [row["text"] for row in self._rows]:
            raise Violation("The results are of other rows")
        counts = Counter(row["status"] for row in rows)
        if counts != Counter({status.value: n for status, n in summary.by_status.items()}) or len(rows) != job.n_rows:
            raise Violation(f"Rows in are not the sum of outcomes: {summary.by_status}, {counts}, {job.n_rows}")
        for row in rows:
            if row["status"] == "succeeded" and not self.plan.has_schema and row["text"] not in row["output"]:
                raise Violation(f"Row {row['id']} has the answer to another: {row['output']}")
        self._witness.check_results(job, rows)
        self._witness.check_ended(job)
        self.n["rows"] += len(rows)
        self.n.update(f"row {row['status']}" for row in rows)

    def _judge_quiet(self) -> None:
        """A job that is done is left alone, whoever looks at it and however late."""
        if not all(is_quiet(shard) for shard in self._job().earlier):
            return  # what an earlier epoch owes is looked at for as long as somebody looks at the job
        before = self.world.store().load()
        for seconds in (0.0, 10 * 86400.0):
            self.world.pass_time(seconds)
            process = self.world.start(advance)
            self._judge_end(process)
            if not isinstance(process.found, Done) or self.world.store().load() != before:
                raise Violation(f"A quiet job was moved: {process.found}")
        if any(b.status is Status.CANCELLING or b.is_live for b in self.world.backend.ledger.live_batches()):
            raise Violation("A batch runs for ever")

    def _count(self) -> None:
        ledger = self.world.backend.ledger
        self.n["batches"] += len(ledger.batches)
        self.n["billed rows"] += ledger.n_rows()
        self.n["asked synchronously"] += sum(self._witness.direct.n_paid.values())
        self.n["maybe paid twice"] += self._job().n_maybe_paid_twice
        self.n["calls"] += self.world.n_calls
        self.n["snapshots"] += self._witness.n_snapshots
        self.n["epochs"] += len(self._witness.epochs)
        self.n["late batches"] += len(self._witness.late)
        self.n["late rows paid"] += self._witness.n_late_paid()
        self.n["deaths"] += sum(" dies " in line for line in self.world.trace)
        self.n["freezes"] += sum(" freezes " in line for line in self.world.trace)


if __name__ == "__main__":
    words = sys.argv[2:]
    whole = () if "old" in words else tuple(MISBEHAVIOURS) if "all" in words else NEW
    chosen = [word for word in words if word in MISBEHAVIOURS] or whole
    told = run(int(sys.argv[1]), is_frozen="frozen" in words, new=chosen)
    print("\n".join(told.trace))
    print(told.where)
    print(told.n, told.misbehaviours, told.faults, told.violation, sep="\n")
