"""Constant mistakes are errors of the Dag file; what only the run knows is left alone."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, ObjectStoragePath, task
from pydantic import BaseModel

from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.operators import OpenAIBatchOperator, OpenAIBatchResultsOperator, OpenAIBatchSubmitOperator
from airflow_openai_batch.options import CsvFile
from airflow_openai_batch.sensors import OpenAIBatchSensor

ASKED: dict[str, Any] = {
    "task_id": "t",
    "rows": [{"id": 1, "text": "x"}],
    "endpoint": "/v1/responses",
    "body": {"model": "m", "input": "{text}"},
}


class Label(BaseModel):
    topic: str


@pytest.mark.parametrize("operator", [OpenAIBatchSubmitOperator, OpenAIBatchOperator])
def test_a_mistake_names_its_task_as_many_may_be_made_in_one_loop(operator: Any) -> None:
    with pytest.raises(OpenAIBatchFailure, match=r"^Task 'label_de': Unknown endpoint 'responses'"):
        operator(**{**ASKED, "task_id": "label_de", "endpoint": "responses"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "responses"}, "Unknown endpoint 'responses'.*Write endpoint='/v1/responses'"),
        ({"endpoint": "/v1/chat.completions"}, "Write endpoint='/v1/chat/completions'"),
        ({"endpoint": "v1/embedding"}, "Write endpoint='/v1/embeddings'"),
        ({"endpoint": "/v1/response"}, "Write endpoint='/v1/responses'"),
        ({"endpoint": "/chat/completions"}, "Write endpoint='/v1/chat/completions'"),
        ({"endpoint": "nothing"}, "The Batch API has: /v1/responses"),
        ({"endpoint": None}, "endpoint must be a text such as '/v1/responses', not NoneType"),
        ({"rows": "s3://lake/tickets.xlsx"}, r"rows='s3://lake/tickets.xlsx': the name must end in \.parquet, \.csv"),
        ({"rows": ["s3://lake/a.parquet", "s3://lake/b.parqet"]}, r"rows='s3://lake/b.parqet'"),
        ({"rows": None}, "rows is None"),
        ({"body": {"input": "{text}"}}, "body: the body lacks 'model'"),
        ({"body": {"model": "m", "input": ""}}, "body: the body lacks 'input'"),
        ({"body": {"model": "m", "input": "x", "stream": True}}, "stream"),
        ({"body": "Label: {text}"}, r"body must be a dict, .*not str. Write body=\{'model': …, 'input': …\}"),
        ({"response_model": Label(topic="x")}, "response_model must be a Pydantic class or a JSON Schema"),
        ({"response_model": {"type": "object", "properties": {}}}, "additionalProperties"),
        ({"response_model": Label, "endpoint": "/v1/embeddings"}, "response_model works with /v1/responses and"),
        ({"response_model": Label, "body": lambda row: row}, "response_model needs body to be a template"),
        (
            {"response_model": Label, "body": {"model": "m", "input": "x", "text": {"format": {}}}},
            "Give either response_model or body",
        ),
        ({"custom_id": "t-{id!json}"}, "custom_id='t-{id!json}': .*must stand alone"),
        ({"custom_id": 7}, r"custom_id must be a text such as '\{ticket_id\}', not int"),
        ({"retry_on": ["sometimes"]}, "retry_on: unknown outcome sometimes; there are succeeded, invalid"),
        ({"retry_on": "succeeded"}, "retry_on takes invalid, refused, truncated, not succeeded"),
        ({"max_requests_per_batch": 0}, "max_requests_per_batch must be between 1 and 50,000, is 0"),
        ({"max_requests_per_batch": 60_000}, "is 60,000"),
        ({"max_requests_per_batch": "9"}, "is '9'"),
        ({"max_bad_ratio": 5}, "max_bad_ratio must be between 0 and 1, is 5"),
        ({"max_bad_ratio": "0.1"}, "wrong type"),
        ({"max_bad_rows": -1}, "max_bad_rows must not be negative"),
        ({"max_rounds": 1.5}, "wrong type"),
        ({"deadline": datetime.timedelta(hours=-1)}, "deadline_s must not be negative"),
        ({"files_expire_after": "soon"}, "files_expire_after must be a duration above 0: .*not 'soon'"),
        ({"files_expire_after": True}, "files_expire_after must be a duration above 0"),
        ({"files_expire_after": "1d"}, "files_expire_after=24h is too short: answers that were paid for"),
        ({"files_expire_after": "60d"}, "files_expire_after must be between 1 hour and 30 days"),
        ({"delete_files": "yes"}, "A setting has the wrong type"),
        ({"metadata": {"team": 5}}, "metadata\\['team'\\]: OpenAI takes texts only"),
        ({"output": "s3://lake/labels.xlsx"}, r"output='s3://lake/labels.xlsx': the name must end in \.parquet"),
        ({"output": "s3://lake/v1.parquet/labels"}, "the name must end in"),
        ({"output": 5}, "output must be a path or URI"),
        (
            {"output": "labels/latest.csv"},
            "output='labels/latest.csv' is a relative path: .* no answer is lost. Give an",
        ),
        ({"output": "labels/{{ ds }}.csv"}, "output='labels/{{ ds }}.csv' is a relative path"),
        ({"rows": "../tickets.parquet"}, "rows='../tickets.parquet' is a relative path: .* Nothing was sent. Give an"),
        ({"rows": Path("tickets.csv")}, "rows='tickets.csv' is a relative path"),
        ({"rows": CsvFile("tickets.csv", delimiter=";")}, "rows='tickets.csv' is a relative path"),
        ({"rows": "file://tickets.csv"}, "rows='file://tickets.csv' is a relative path"),
        ({"output": Path("labels.csv")}, "output='labels.csv' is a relative path"),
        ({"rows": ["/data/a.parquet", "data/*.parquet"]}, "rows='data/.*' is a relative path"),
        ({"poll_interval": 0}, "poll_interval must be a number of seconds above 0, is 0"),
    ],
)
def test_a_constant_mistake_is_an_error_of_the_dag_file(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OpenAIBatchFailure, match=message):
        OpenAIBatchOperator(**{**ASKED, **change})


def test_a_path_object_is_an_output() -> None:
    for output in (Path("/labels.csv"), ObjectStoragePath("file:///labels.csv")):
        assert OpenAIBatchOperator(**{**ASKED, "output": output}).output_uri == str(output)


def test_texts_in_place_of_rows_are_not_quoted() -> None:
    OpenAIBatchOperator(**{**ASKED, "rows": ["My card is 4111", "and my name is Ann"]})  # refused when it runs


def test_a_task_is_not_what_it_returns() -> None:
    with DAG("d"):
        submit = OpenAIBatchSubmitOperator(**ASKED)
        for kind in (OpenAIBatchSensor, OpenAIBatchResultsOperator):
            with pytest.raises(OpenAIBatchFailure, match=r"write job=t\.output"):
                kind(task_id=kind.__name__, job=submit)
            for i, job in enumerate((None, "t", ["t"])):
                with pytest.raises(OpenAIBatchFailure, match=r"job=submit\.output"):
                    kind(task_id=f"{kind.__name__}-{i}", job=job)
        with pytest.raises(OpenAIBatchFailure, match=r"write rows=t\.output"):
            OpenAIBatchOperator(**{**ASKED, "task_id": "next", "rows": submit})
        with pytest.raises(OpenAIBatchFailure, match="poll_interval"):
            OpenAIBatchSensor(task_id="wait", job=submit.output, poll_interval=-1)


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "{{ params.endpoint }}", "body": {}},
        {"endpoint": "/v1/rerank", "body": {"query": "{text}"}},  # the connection may allow it
        {"endpoint": "/v1/responses/compact", "body": {"query": "{text}"}},
        {"rows": "s3://lake/{{ ds }}.{{ params.ending }}"},
        {"rows": "s3://lake/tickets/"},
        {"rows": "s3://lake/tickets.v2"},
        {"rows": "s3://lake/day=*/part.*"},
        {"body": "{{ params.body }}", "response_model": Label},
        {"body": {"model": "{{ params.model }}", "input": "{unknown_column}"}},
        {"body": lambda row: row},
        {"body": None},
        {"custom_id": "{{ ds }}-{id}"},
        {"output": "{{ params.output }}"},
        {"output": "s3://lake/{{ ds }}.csv"},
        {"output": "{{ var.value.folder }}/labels.csv"},
        {"output": "~/labels.csv", "rows": "file:///data/tickets.csv"},
        {"max_bad_ratio": "{{ params.ratio }}"},
        {"retry_on": "invalid", "max_requests_per_batch": 50_000, "max_bad_ratio": 1},
        {"response_model": Label, "column_prefix": "answer_"},
        {"files_expire_after": "7d", "delete_files": True},
        {"files_expire_after": datetime.timedelta(hours=26), "deadline": datetime.timedelta(hours=24)},
        {"files_expire_after": 30 * 86_400},
    ],
)
def test_what_may_work_is_left_to_the_run(change: dict[str, Any]) -> None:
    OpenAIBatchOperator(**{**ASKED, **change})


def test_outputs_of_tasks_are_left_to_the_run() -> None:
    @task
    def made() -> Any: ...

    with DAG("d"):
        value: Any = made()
        body = {"model": value, "input": value, "stream": value}
        for change in ({"rows": value}, {"endpoint": value}, {"body": value}, {"body": body}, {"output": value}):
            OpenAIBatchOperator(**{**ASKED, **change, "task_id": f"t-{next(iter(change))}-{len(change)}{id(change)}"})
        OpenAIBatchSensor(task_id="wait", job=value)
        OpenAIBatchResultsOperator(task_id="results", job="{{ ti.xcom_pull('t') }}")


def test_the_checks_import_nothing_heavy() -> None:
    code = (
        "import sys; from airflow_openai_batch.operators import OpenAIBatchOperator\n"
        "OpenAIBatchOperator(task_id='t', rows='/a.csv', endpoint='/v1/responses', custom_id='{id}', output='/b.csv',\n"
        " body={'model': 'm', 'input': '{text}'}, response_model={'type': 'object', 'properties': {}, 'required': [],\n"
        " 'additionalProperties': False})\n"
        "print([m for m in ('openai', 'pandas', 'pyarrow', 'jsonschema_rs', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().splitlines()[-1] == "[]"
