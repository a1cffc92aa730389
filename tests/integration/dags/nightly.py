"""What a team has running in a night: Dags for the page to show."""

from __future__ import annotations

import datetime
import os

from airflow.sdk import DAG, task

from airflow_openai_batch.operators import OpenAIBatchOperator, OpenAIBatchResultsOperator, OpenAIBatchSubmitOperator
from airflow_openai_batch.sensors import OpenAIBatchSensor

OUT = os.environ.get("OPENAI_BATCH_TEST_OUTPUT", "/nowhere")
LABEL = {
    "title": "label",
    "type": "object",
    "properties": {"topic": {"type": "string", "enum": ["bug", "question", "praise"]}},
    "required": ["topic"],
    "additionalProperties": False,
}
ALWAYS = {"schedule": None, "start_date": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)}


def rows(n: int, kind: str) -> object:
    """Return a callable that makes rows."""
    return lambda: ({"id": i, "text": f"{kind} {i}"} for i in range(n))


def request(prefix: str, *, most: int | None = None, **more: object) -> dict[str, object]:
    """Return the arguments that say what is asked; answers may have so many tokens."""
    body: dict[str, object] = {"model": "gpt-6-luna", "input": "{text}"}
    if most is not None:
        body["max_output_tokens"] = most
    return {"endpoint": "/v1/responses", "body": body, "custom_id": f"{prefix}-{{id}}", **more}


with DAG("ticket_labels", **ALWAYS):

    @task
    def freeze_tickets() -> int:
        """Stand for whatever a Dag does before."""
        return 2400

    submit = OpenAIBatchSubmitOperator(
        task_id="submit",
        rows=rows(2400, "ticket"),
        max_requests_per_batch=600,
        max_cost=2,
        **request("ticket", most=500, response_model=LABEL),
    )
    wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
    results = OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=OUT + "/labels.parquet")
    freeze_tickets() >> submit
    wait >> results

with DAG("review_sentiment", **ALWAYS):
    OpenAIBatchOperator(
        task_id="sentiment",
        rows=rows(1200, "review"),
        output=OUT + "/reviews.parquet",
        **request("review"),
    )

with DAG("product_extraction", **ALWAYS):
    OpenAIBatchOperator(
        task_id="extract",
        rows=rows(900, "product"),
        output=OUT + "/products.parquet",
        max_rounds=1,
        max_bad_ratio=0.02,
        **request("product", response_model=LABEL),
    )

with DAG("eval_answers", **ALWAYS):
    OpenAIBatchOperator(task_id="answers", rows=rows(800, "case"), max_requests_per_batch=400, **request("case"))

with DAG("archive_texts", **ALWAYS):
    OpenAIBatchOperator(task_id="archive", rows=rows(40, "text"), cancel_on_kill=False, **request("text"))

with DAG("translate_faq", **ALWAYS):
    OpenAIBatchOperator(task_id="translate", rows=rows(30, "faq"), **request("faq"))

with DAG("private_notes", **ALWAYS):
    OpenAIBatchOperator(task_id="summaries", rows=rows(60, "note"), **request("note"))

with DAG("invoice_fields", **ALWAYS):
    OpenAIBatchOperator(task_id="fields", rows=rows(300, "invoice"), max_cost="0.01", **request("invoice", most=2000))

with DAG("per_country", **ALWAYS):
    OpenAIBatchOperator.partial(task_id="label", **request("row")).expand(
        rows=[[{"id": i, "text": f"text {i}"} for i in range(20)] for _ in range(2)]
    )
