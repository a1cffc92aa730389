"""Operators, sensor, trigger and decorator in real Dags, run by dag.test() against the emulator."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from airflow_openai_batch.emulator import HttpError, Refusal, Text, Truncated

THREE_TASKS = """
submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, custom_id="t-{id}", response_model=Label, **CHAT)
wait = OpenAIBatchSensor(task_id="wait", job=submit.output, **SENSOR)
results = OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=f"{OUT}/labels.parquet")
wait >> results
"""
ONE_TASK = "OpenAIBatchOperator(task_id='one', rows=ROWS, max_rounds=0, output=OUT + '/{}', **CHAT)"


@pytest.mark.parametrize(
    "sensor",
    ["{}", "{'deferrable': False, 'mode': 'poke', 'poke_interval': 0.2}"],
    ids=["deferrable", "poke"],
)
def test_three_tasks_deliver_every_row_in_order(run_dag, emulator, tmp_path: Path, sensor: str) -> None:
    run = run_dag(f"SENSOR = {sensor}\n{THREE_TASKS}")
    assert run.state == "success"
    frame = pd.read_parquet(tmp_path / "out" / "labels.parquet")
    assert list(frame["id"]) == list(range(20))
    assert set(frame["status"]) == {"succeeded"}
    assert frame["topic"].map(type).eq(str).all()
    assert run.xcom("results")["by_status"] == {"succeeded": 20}
    assert run.xcom("wait")["n_rows"] == 20
    assert len(emulator.batches) == 1


def test_the_single_operator_does_all_three_and_leaves_its_batch_ids(run_dag, emulator, tmp_path: Path) -> None:
    run = run_dag(ONE_TASK.format("labels.csv"))
    assert run.state == "success"
    assert len(pd.read_csv(tmp_path / "out" / "labels.csv")) == 20
    batch_id = next(iter(emulator.batches))
    assert run.xcom("one", key="openai_batch_ids") == [batch_id]
    assert run.xcom("one", key="openai_batch_link") == ""  # the emulator has no dashboard


def test_without_output_the_rows_come_through_xcom(run_dag, emulator) -> None:
    run = run_dag("OpenAIBatchOperator(task_id='one', rows=ROWS[:2], **CHAT)")
    rows = run.xcom("one")
    assert [row["id"] for row in rows] == [0, 1]
    assert all(row["status"] == "succeeded" and row["output"] for row in rows)


def test_the_decorator_takes_rows_from_its_function(run_dag, emulator) -> None:
    run = run_dag("""
        @task.openai_batch(**CHAT)
        def label(n):
            return ({"text": f"generated {i}"} for i in range(n))
        label(3)
    """)
    assert run.state == "success"
    assert [row["text"] for row in run.xcom("label")] == ["generated 0", "generated 1", "generated 2"]


def test_the_decorator_heeds_keyword_arguments_and_can_be_mapped(run_dag, emulator) -> None:
    run = run_dag("""
        @task.openai_batch(**CHAT)
        def label(limit=5, start=0):
            return [{"text": f"{start + i}"} for i in range(limit)]
        label(limit=2)
        label.override(task_id="mapped").partial(limit=1).expand(start=[10, 20])
    """)
    assert run.state == "success"
    assert [row["text"] for row in run.xcom("label")] == ["0", "1"]
    assert [run.xcom("mapped", map_index=i)[0]["text"] for i in (0, 1)] == ["10", "20"]


def test_another_tasks_output_in_the_body_is_upstream_and_resolved(run_dag, emulator) -> None:
    run = run_dag("""
        @task
        def prompt():
            return "classify"
        system, user = {"role": "system", "content": prompt()}, {"role": "user", "content": "{text}"}
        body = {"model": "m", "messages": [system, user]}
        OpenAIBatchOperator(task_id="one", rows=ROWS[:1], **{**CHAT, "body": body})
    """)
    assert run.state == "success"
    assert run.dag.get_task("one").upstream_task_ids == {"prompt"}
    assert "classify" in next(iter(emulator.files.values())).read().decode()


def test_a_settings_wrong_type_leaves_nothing_behind_that_outlives_its_correction(run_dag, emulator, tmp_path) -> None:
    run = run_dag("OpenAIBatchSubmitOperator.partial(task_id='t', max_rounds=1.5, **CHAT).expand(rows=[ROWS])")
    assert set(run.states.values()) == {"failed"}
    assert list((tmp_path / "store").rglob("*.json")) == []


def test_rows_may_be_the_output_of_a_task_and_do_not_show_in_the_rendered_fields(run_dag, emulator) -> None:
    run = run_dag("""
        @task
        def rows():
            return [{"text": "a secret text"}]
        OpenAIBatchOperator(task_id="one", rows=rows(), **CHAT)
    """)
    assert run.state == "success"
    fields = run.rendered_fields("one")
    assert fields["rows"] == "(1 rows, not shown)"
    assert "secret text" not in str(fields)


def test_rows_as_a_templated_path_and_jinja_in_the_body(run_dag, emulator, tmp_path: Path) -> None:
    run = run_dag("""
        @task
        def write(run_id=None):
            import pandas as pd
            os.makedirs(OUT, exist_ok=True)
            pd.DataFrame({"text": ["x", "y"]}).to_parquet(f"{OUT}/in.parquet")
        body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "{{ dag.dag_id }}: {text}"}]}
        one = OpenAIBatchOperator(task_id="one", rows=OUT + "/{{ 'in' }}.parquet", **{**CHAT, "body": body})
        write() >> one
    """)
    assert run.state == "success"
    assert all(row["output"].count(run.dag.dag_id) for row in run.xcom("one"))


def test_csv_files_of_another_dialect_are_named_by_a_value(run_dag, emulator, tmp_path: Path) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        folder = tmp_path / "out" / f"day={day}"
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text('id;text\n1;"a ""quoted"" word"\n2;plain\n')
    run = run_dag(
        """
        from airflow_openai_batch.options import CsvFile

        path = OUT + "/day={{ dag_run.conf['day'] }}/*.csv"
        OpenAIBatchOperator(task_id="one", rows=CsvFile(path, delimiter=";", types={"id": "int"}), **CHAT)
        """,
        conf={"day": "2026-01-02"},
    )
    assert run.state == "success"
    assert [(row["id"], row["text"], row["day"]) for row in run.xcom("one")] == [
        (1, 'a "quoted" word', "2026-01-02"),
        (2, "plain", "2026-01-02"),
    ]


def test_a_task_that_names_a_csv_file_is_upstream(run_dag, emulator, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text|n\nfrom a task|1\n")
    run = run_dag(f"""
        from airflow_openai_batch.options import CsvFile

        @task
        def place():
            return "{tmp_path}/rows.csv"

        OpenAIBatchOperator(task_id="one", rows=CsvFile(place(), delimiter="|"), **CHAT)
    """)
    assert run.state == "success"
    assert [(row["text"], row["n"]) for row in run.xcom("one")] == [("from a task", "1")]
    assert run.dag.get_task("one").upstream_task_ids == {"place"}


def test_mapped_tasks_have_a_job_each(run_dag, emulator) -> None:
    run = run_dag("""
        submit = OpenAIBatchSubmitOperator.partial(task_id="submit", **CHAT).expand(rows=[ROWS[:2], ROWS[2:5]])
        wait = OpenAIBatchSensor.partial(task_id="wait").expand(job=submit.output)
        results = OpenAIBatchResultsOperator.partial(task_id="results").expand(job=submit.output)
        wait >> results
    """)
    assert run.state == "success"
    assert len(emulator.batches) == 2
    assert [row["id"] for row in run.xcom("results", map_index=1)] == [2, 3, 4]


def test_too_many_bad_rows_are_red_and_every_row_is_still_delivered(run_dag, emulator, tmp_path: Path) -> None:
    replies = [HttpError(400, "bad_request", "no"), Refusal("I will not"), Truncated("cut")]

    def answer(endpoint: str, body: dict) -> object:
        number = int(body["messages"][0]["content"].split()[-1])
        return replies[number] if number < len(replies) else Text("fine")

    emulator.settings.answer = answer
    run = run_dag(ONE_TASK.format("labels.jsonl"))
    assert run.states == {"one": "failed"}
    frame = pd.read_json(tmp_path / "out" / "labels.jsonl", lines=True)
    assert list(frame["status"][:5]) == ["failed", "refused", "truncated", "succeeded", "succeeded"]
    dead = (tmp_path / "out" / "labels.jsonl.dead_letter.jsonl").read_text().splitlines()
    assert len(dead) == 3


def test_results_too_large_for_xcom_are_refused_with_advice(run_dag, emulator, monkeypatch, caplog) -> None:
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__XCOM_MAX_BYTES", "1000")
    run = run_dag("OpenAIBatchOperator(task_id='one', rows=ROWS, **CHAT)")
    assert run.states == {"one": "failed"}
    assert len(emulator.ledger.rows_billed_twice()) == 0


@pytest.mark.parametrize(
    "task",
    [
        "OpenAIBatchSubmitOperator(task_id='t', rows=[], **CHAT)",
        "OpenAIBatchSubmitOperator(task_id='t', rows=['no dict'], **CHAT)",
        "OpenAIBatchSubmitOperator(task_id='t', rows=OUT + '/absent.parquet', **CHAT)",
        "OpenAIBatchSubmitOperator(task_id='t', rows=[{'x': 1}], **CHAT)",
        "OpenAIBatchSubmitOperator(task_id='t', rows=ROWS, custom_id='same', **CHAT)",
        "OpenAIBatchSubmitOperator(task_id='t', rows=ROWS, conn_id='not_there', **CHAT)",
        "OpenAIBatchSubmitOperator(task_id='t', rows=ROWS, **{**CHAT, 'storage': '/proc/nowhere'})",
        "OpenAIBatchSubmitOperator(task_id='t', rows=ROWS, **{**CHAT, 'endpoint': '/v1/{{ dag.dag_id }}'})",
        "OpenAIBatchOperator(task_id='t', rows=ROWS, output=OUT + '/labels.{{ dag.dag_id }}', **CHAT)",
        "OpenAIBatchSubmitOperator.partial(task_id='t', retry_on=['sometimes'], **CHAT).expand(rows=[ROWS])",
        "OpenAIBatchSensor(task_id='t', job={'not': 'a job'})",
    ],
)
def test_bad_input_fails_before_openai_hears_of_it(run_dag, emulator, task: str) -> None:
    run = run_dag(task)
    assert run.states == {"t": "failed"}
    assert emulator.ledger.calls == []


@pytest.mark.parametrize(
    ("host", "link"),
    [
        ("api.openai.com", "https://platform.openai.com/batches/batch_1"),
        ("eu.api.openai.com", "https://platform.openai.com/batches/batch_1"),
        ("gateway.example.com", ""),
        ("notopenai.com", ""),
    ],
)
def test_only_batches_at_openai_have_a_link_to_its_dashboard(host: str, link: str) -> None:
    from airflow_openai_batch.links import batch_link

    assert batch_link("batch_1", host) == link
