"""Jobs of a night in all states, made by real Dag runs against the emulator."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field

from airflow_openai_batch.emulator import Emulator, Rule
from airflow_openai_batch.emulator.model import Batch
from airflow_openai_batch.emulator.settings import Settings
from airflow_openai_batch.local_airflow.stack import AirflowStack

DURATION_S = 6000
"""How long a batch takes, by the emulator's clock."""

WAITING_TASK = {"ticket_labels": "wait", "review_sentiment": "sentiment", "product_extraction": "extract"}
WAITING_TASK |= {"eval_answers": "answers", "private_notes": "summaries", "per_country": "label"}
WAITING_TASK |= {"archive_texts": "archive", "translate_faq": "translate", "invoice_fields": "fields"}
WAITING_TASK |= {"approved_labeling": "wait"}
HELD = "Your account is not active, please check your billing details on our website."


@dataclass
class Night:
    """Dag runs by Dag, and the Airflow and the OpenAI they run on."""

    stack: AirflowStack
    emulator: Emulator
    settings: Settings
    """OpenAI's, from before."""
    runs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, stack: AirflowStack, emulator: Emulator) -> Night:
        """Run a good job and a bad one to their ends, and leave one half done."""
        emulator.reset()
        night = cls(stack, emulator, settings=dataclasses.replace(emulator.settings))
        emulator.settings.duration, emulator.settings.finalizing = DURATION_S, 10
        emulator.faults.add(
            Rule(on="row", do="invalid", probability=0.03, match={"custom_id": "product"}, seed=3),
            Rule(on="row", do={"http_error": {"status": 400, "code": "context_length_exceeded", "message": "too long"}},
                 probability=0.02, match={"custom_id": "product"}, seed=4),
            Rule(on="row", do="refusal", probability=0.01, match={"custom_id": "product"}, seed=5),
            # A plain 401 would be believed only after a while.
            Rule(on="POST /v1/batches",
                 do={"status": {"code": 403, "error": {"message": HELD, "code": "billing_not_active"}}},
                 match={"body": "translate_faq"}),
        )  # fmt: skip
        for dag_id in ("review_sentiment", "product_extraction"):
            night.start(dag_id)
        night.finish("review_sentiment", "success")
        night.finish("product_extraction", "failed")
        night.start("ticket_labels")
        night.wait_until_parked("ticket_labels")
        emulator.clock.advance(DURATION_S * 0.5)
        return night

    def end(self) -> None:
        """Leave nothing that waits, and OpenAI as it was."""
        for dag_id in self.runs:
            self.stack.api.fail_unfinished_runs(dag_id)
        for setting in dataclasses.fields(self.settings):
            setattr(self.emulator.settings, setting.name, getattr(self.settings, setting.name))

    def start(self, dag_id: str) -> str:
        """Start a run of the Dag and return its id."""
        self.stack.api.unpause(dag_id)
        self.runs[dag_id] = self.stack.api.trigger(dag_id)
        return self.runs[dag_id]

    def wait_until_parked(self, dag_id: str, map_index: int = -1) -> None:
        """Wait until the job's task is deferred."""
        self.stack.wait_until_parked(dag_id, self.runs[dag_id], WAITING_TASK[dag_id], 90, map_index)

    def stop(self, dag_id: str) -> None:
        """Start the Dag if it was not, and mark its waiting task failed if it waits, as a person does."""
        if dag_id not in self.runs:
            self.start(dag_id)
            self.wait_until_parked(dag_id)
        where = (dag_id, self.runs[dag_id], WAITING_TASK[dag_id])
        if self.stack.api.task_instance(*where)["state"] == "deferred":
            self.stack.api.set_task_state(*where, "failed")

    def finish(self, dag_id: str, state: str) -> None:
        """Move OpenAI's clock until the run has ended, and check how."""
        deadline = time.monotonic() + 120
        while (ended := self.stack.api.run_state(dag_id, self.runs[dag_id])) in ("queued", "running"):
            assert time.monotonic() < deadline, self.stack.tails()
            if self.batches(dag_id):
                self.emulator.clock.advance(DURATION_S / 4)
            time.sleep(0.5)
        assert ended == state, self.stack.tails()

    def batches(self, dag_id: str) -> list[Batch]:
        """Return the batches of the Dag's run."""
        run_id = self.runs[dag_id]
        return [batch for batch in self.emulator.batches.values() if batch.metadata["run_id"] == run_id]

    def statuses(self, dag_id: str) -> list[str]:
        return sorted(batch.status for batch in self.batches(dag_id))

    def run_path(self, dag_id: str) -> str:
        """Return the address of the run in Airflow's UI."""
        return f"/dags/{dag_id}/runs/{self.runs[dag_id]}"
