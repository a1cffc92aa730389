"""One sample of waiting.py, in a process of its own: triggers on one event loop, started as a triggerer does.

The triggers are the real classes; `run()` is driven as Airflow's triggerer drives it. What Airflow provides besides is
only the connection, from the environment. A heartbeat of 50 ms measures for how long the event loop is held up: its
lag is how much later than that it comes, and how much of that Python's garbage collector took: a full collection
passes over every object of the process, those of Airflow too, and any wait can be the one that sets it off.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

HEARTBEAT_S = 0.05
CONN_ID = "waiting"


class Clock:
    """What is measured; read by a thread of its own, as the event loop may never come back."""

    def __init__(self) -> None:
        self.beats: list[tuple[float, float, float]] = []
        self.detected: dict[str, float] = {}
        self.began_at = self.started_at = 0.0
        self.ends_at: dict[str, float] = {}
        self.errors: list[str] = []
        self.cpu: list[tuple[float, float]] = []
        self._collecting_s = self._collects_from = 0.0

    async def beat(self) -> None:
        """Note how late each heartbeat comes, and how much of that was garbage collection."""
        gc.callbacks.append(self._collects)
        while True:
            before, collecting_s = time.monotonic(), self._collecting_s
            await asyncio.sleep(HEARTBEAT_S)
            lag_s = time.monotonic() - before - HEARTBEAT_S
            self.beats.append((time.time(), lag_s, min(lag_s, self._collecting_s - collecting_s)))

    def _collects(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collects_from = time.monotonic()
        else:
            self._collecting_s += time.monotonic() - self._collects_from


def make(contender: str, ids: list[str], interval_s: float, seconds: float) -> list[Any]:
    """Return one trigger for each batch."""
    if contender == "openai":
        from airflow.providers.openai.triggers.openai import OpenAIBatchTrigger as Official

        return [Official(conn_id=CONN_ID, batch_id=i, poll_interval=interval_s, timeout=seconds + 3600) for i in ids]
    if contender == "common_ai":
        from airflow.providers.common.ai.triggers.llm_batch import LLMBatchTrigger

        common: dict[str, Any] = {"end_time": time.time() + 3600, "cancel_on_kill": False, "cancel_on_timeout": False}
        return [
            LLMBatchTrigger(llm_conn_id=CONN_ID, adapter="openai", batch_id=i, poll_interval=int(interval_s), **common)
            for i in ids
        ]
    from airflow_openai_batch.triggers import OpenAIBatchTrigger

    later = time.time() + seconds + 3600
    return [OpenAIBatchTrigger(conn_id=CONN_ID, batch_ids=[i], wake_at=later, poll_interval_s=interval_s) for i in ids]


async def run(contender: str, url: str, n: int, interval_s: float, seconds: float, clock: Clock) -> None:
    """Start the waits, and note when each of them ends."""
    begun = json.loads(await asyncio.to_thread(_get, f"{url}/begin"))
    clock.began_at, clock.ends_at = begun["began_at"], begun["ends_at"]
    waits = set()

    async def wait(batch_id: str, trigger: Any) -> None:
        try:
            async for _ in trigger.run():
                clock.detected[batch_id] = time.time()
        except Exception as error:  # told in the result
            clock.errors.append(repr(error))

    heart = asyncio.create_task(clock.beat())
    for batch_id, trigger in zip(clock.ends_at, make(contender, list(clock.ends_at), interval_s, seconds), strict=True):
        waits.add(asyncio.create_task(wait(batch_id, trigger)))
        await asyncio.sleep(0)  # as the triggerer does between two triggers
    clock.started_at = time.time()
    await asyncio.sleep(clock.began_at + seconds - time.time())
    for task in [heart, *waits]:
        task.cancel()
    await asyncio.gather(heart, *waits, return_exceptions=True)


def result(options: argparse.Namespace, clock: Clock, base_mb: float, *, is_stuck: bool) -> dict[str, Any]:
    """Return what was measured."""
    until = clock.began_at + options.seconds
    steady = (clock.began_at + 2 * options.interval, clock.began_at + options.burst)
    all_wait = (clock.began_at + options.interval, min(clock.ends_at.values()))
    calls = json.loads(_get(f"{options.url}/calls"))
    n_calls = {kind: sum(all_wait[0] <= at < all_wait[1] for at in found) for kind, found in calls.items()}
    intervals = (all_wait[1] - all_wait[0]) / options.interval
    last_beat = clock.beats[-1][0] if clock.beats else clock.began_at
    silence = max(0.0, time.time() - last_beat - HEARTBEAT_S) if is_stuck else 0.0
    start_until = clock.started_at + 1 if clock.started_at else until
    later = [beat for beat in clock.beats if beat[0] > start_until or not clock.started_at]
    lags = sorted(lag for _, lag, _ in later) or [silence]
    first_lags = [lag for at, lag, _ in clock.beats if at <= start_until] or [silence]
    due = {i: at for i, at in clock.ends_at.items() if at <= until - options.interval - 1}
    delays = sorted(clock.detected[i] - at for i, at in due.items() if i in clock.detected)
    cpu = [used for at, used in clock.cpu if steady[0] <= at < steady[1]]
    return {
        "contender": options.contender,
        "n": options.n,
        "start_s": clock.started_at - clock.began_at if clock.started_at else None,
        "start_lag_max_s": max(first_lags + ([silence] if is_stuck and not clock.started_at else [])),
        "lag_p99_s": lags[min(int(len(lags) * 0.99), len(lags) - 1)],
        "lag_max_s": max(lags[-1], silence),
        "lag_max_without_gc_s": max([lag - collecting for _, lag, collecting in later] + [silence]),
        "is_stuck": is_stuck,
        "cpu_share": (cpu[-1] - cpu[0]) / (len(cpu) - 1) if len(cpu) > 1 else None,
        "base_mb": base_mb,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "n_list": n_calls["list"],
        "n_retrieve": n_calls["retrieve"],
        "calls_per_100_and_interval": sum(n_calls.values()) / intervals / options.n * 100,
        "n_due": len(due),
        "n_detected": len(delays),
        "delay_p50_s": delays[len(delays) // 2] if delays else None,
        "delay_max_s": delays[-1] if delays else None,
        "n_errors": len(clock.errors),
        "error": clock.errors[0][:300] if clock.errors else None,
    }


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
        return body


def _rss_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    """Measure, and write the result even if the event loop does not come back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender")
    parser.add_argument("--url", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--interval", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--burst", type=float, required=True)
    parser.add_argument("--give-up", type=float, required=True, help="seconds until a stuck loop is given up")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    make(options.contender, ["batch_0"], options.interval, options.seconds)
    import openai

    openai.AsyncOpenAI(api_key="x", base_url=options.url)  # what the first client of a process loads
    gc.collect()
    base_mb, clock = _rss_mb(), Clock()

    def write(*, is_stuck: bool) -> None:
        options.out.write_text(json.dumps(result(options, clock, base_mb, is_stuck=is_stuck)))

    def guard() -> None:
        while not clock.began_at or time.time() < clock.began_at + options.seconds + options.give_up:
            clock.cpu.append((time.time(), time.process_time()))
            time.sleep(1)
        write(is_stuck=True)
        os._exit(0)

    threading.Thread(target=guard, daemon=True).start()
    asyncio.run(run(options.contender, options.url, options.n, options.interval, options.seconds, clock))
    write(is_stuck=False)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
