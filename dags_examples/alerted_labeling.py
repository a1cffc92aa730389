"""Label a table of texts every night, and tell people by mail when they must act, or when it takes too long.

Airflow's own means: a callback on the task for what fails, and a deadline alert on the Dag for a night that is late
while its task still waits. Any notifier of Airflow's providers can stand in the place of the mail.
"""

import html
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import dag
from airflow.sdk.definitions.deadline import AsyncCallback, DeadlineAlert, DeadlineReference

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.notifications import Reason, job_message, late_text, reason_of
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START alerted_labeling]
MAIL = {"from_email": "airflow@example.com", "to": os.environ.get("LABELING_ALERTS_TO", "data-team@example.com")}


def tell(context: Any) -> None:
    """Mail why a task failed, with figures, what to do, and links."""
    reason = reason_of(context)
    must_act = reason in (Reason.HELD, Reason.MAX_COST, Reason.PILOT, Reason.PROBE, Reason.LATE)
    subject = f"{'Act: ' if must_act else ''}{context['ti'].dag_id}: {reason}"
    text = f"<pre>{html.escape(job_message(context))}</pre>"
    SmtpNotifier(subject=subject, html_content=text, **MAIL)(context)


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"on_failure_callback": tell},
    # The triggerer sends it, also while the task waits; a notifier of a provider is importable there.
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=6),
        callback=AsyncCallback(SmtpNotifier, {"subject": "A night is late", "html_content": late_text(), **MAIL}),
    ),
    tags=["openai_batch"],
)
def alerted_labeling() -> None:
    """Label the night's packages by topic; be told what goes wrong."""
    OpenAIBatchOperator(
        task_id="labels",
        rows=package_rows,
        endpoint="/v1/responses",
        body={
            "model": "gpt-6-luna",
            "input": "Name the topic of this Python package in two words.\n{name}: {summary}",
            "max_output_tokens": 200,
        },
        custom_id="{name}",
        max_cost=5,
        max_bad_ratio=0.02,
    )


alerted_labeling()
# [END alerted_labeling]
