"""Dags that prove the test harness itself: they use nothing but Airflow."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Context
from airflow.triggers.base import BaseTrigger, TriggerEvent


class GateTrigger(BaseTrigger):
    """Fires as soon as a file exists, so that the test decides when."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        self.gate = gate

    def serialize(self) -> tuple[str, dict[str, Any]]:
        # A Dag file is parsed under an artificial module name; the triggerer knows this one.
        return "stack_probe.GateTrigger", {"gate": self.gate}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        self.log.info("gate trigger watches in process %s", os.getpid())
        while not Path(self.gate).exists():
            await asyncio.sleep(0.1)
        yield TriggerEvent({"fired_by": os.getpid()})


class GateOperator(BaseOperator):
    """Defers until the gate opens."""

    template_fields = ("gate",)

    def __init__(self, *, gate: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = gate

    def execute(self, context: Context) -> None:
        context["ti"].xcom_push(key="deferred_in_try", value=context["ti"].try_number)
        self.log.info("closed gate, deferring")
        self.defer(trigger=GateTrigger(self.gate), method_name="resume")

    def resume(self, context: Context, event: dict[str, Any]) -> int:
        self.log.info("gate is open")
        return event["fired_by"]


class HangOnFirstTryOperator(BaseOperator):
    """Occupies its worker for ever in the first try, so that the test can kill it; the second try succeeds."""

    def execute(self, context: Context) -> int:
        if context["ti"].try_number == 1:
            self.log.info("hanging")
            time.sleep(600)
        return context["ti"].try_number


with DAG("stack_probe_gate", schedule=None):
    GateOperator(task_id="wait", gate="{{ dag_run.conf['gate'] }}")

with DAG("stack_probe_hang", schedule=None):
    HangOnFirstTryOperator(task_id="hang", retries=1, retry_delay=timedelta(seconds=0))
