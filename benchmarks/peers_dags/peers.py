"""The same job for three contenders: one Dag each, so that every one of them runs as its documentation shows.

Everything that the contenders could differ in for reasons of their own is the same: rows, model, retries, pause
between tries, pause between two looks at a batch, deferrable mode. All else is left at its default.
"""

import datetime
import os

from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator
from airflow.providers.openai.hooks.openai import OpenAIHook
from airflow.providers.openai.operators.openai import OpenAITriggerBatchOperator
from airflow.sdk import DAG, task

from airflow_openai_batch.operators import OpenAIBatchOperator

FOLDER = os.environ["PEERS_FOLDER"]
POLL_S = float(os.environ["PEERS_POLL_S"])
MODEL = "gpt-4o-mini"
PROMPTS = [f"ticket {number:06}" for number in range(int(os.environ["PEERS_ROWS"]))]
DAG_OPTIONS = {
    "schedule": None,
    "start_date": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "default_args": {"retries": 2, "retry_delay": datetime.timedelta(seconds=1)},
}

with DAG("openai_provider", **DAG_OPTIONS):

    @task
    def upload() -> str:
        """Upload the ready file of request lines: the operator wants its id."""
        return OpenAIHook("openai_provider").upload_file(f"{FOLDER}/requests.jsonl", "batch").id

    @task
    def download(batch_id: str, run_id: str | None = None) -> None:
        """Fetch the output file: the provider has no method for it, so with the hook's client."""
        client = OpenAIHook("openai_provider").conn
        batch = client.batches.retrieve(batch_id)
        if batch.output_file_id:
            client.files.content(batch.output_file_id).write_to_file(f"{FOLDER}/openai_provider-{run_id}.jsonl")

    download(
        OpenAITriggerBatchOperator(
            task_id="batch",
            file_id=upload(),
            endpoint="/v1/chat/completions",
            conn_id="openai_provider",
            deferrable=True,
            poll_interval=POLL_S,
        ).output
    )

with DAG("common_ai", **DAG_OPTIONS):
    batch = LLMBatchOperator(
        task_id="batch",
        requests=PROMPTS,
        result_path=f"file://{FOLDER}/common_ai-{{{{ run_id }}}}",
        llm_conn_id="common_ai",
        model_id=f"openai:{MODEL}",
        deferrable=True,
    )
    # Its constructor refuses less than 30 s, which would make this benchmark last for hours.
    batch.poll_interval = POLL_S

with DAG("this_package", **DAG_OPTIONS):
    OpenAIBatchOperator(
        task_id="batch",
        rows=f"{FOLDER}/rows.jsonl",
        endpoint="/v1/chat/completions",
        body={"model": MODEL, "messages": [{"role": "user", "content": "{text}"}]},
        conn_id="this_package",
        storage=f"{FOLDER}/store",
        output=f"{FOLDER}/this_package-{{{{ run_id }}}}.jsonl",
        poll_interval=POLL_S,
    )
