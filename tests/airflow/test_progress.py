"""What a job's tasks leave for the UI: progress, shards, links and lines in the log. Real Dags, run by dag.test()."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import rest

from airflow_openai_batch.emulator import HttpError, Rule, Text

THREE_TASKS = """
submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, custom_id="t-{id}", max_requests_per_batch=8, **CHAT)
wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
results = OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=f"{OUT}/labels.parquet")
wait >> results
"""
PROGRESS, SHARDS = "openai_batch_progress.submit", "openai_batch_shards.submit"


def one(**arguments: Any) -> str:
    return f"OpenAIBatchOperator(task_id='one', rows=ROWS, output=OUT + '/labels.csv', **{{**CHAT, **{arguments!r}}})"


def test_each_task_of_a_job_leaves_its_progress_under_the_same_key(run_dag, emulator, tmp_path: Path) -> None:
    from airflow.providers.common.compat.sdk import XCom

    run = run_dag(THREE_TASKS)
    assert run.state == "success"
    submitted, waited, written = (run.xcom(task_id, PROGRESS) for task_id in ("submit", "wait", "results"))
    for value in (submitted, waited, written):
        assert value["job"] == {
            "dag_id": run.dag.dag_id,
            "run_id": run.run_id,
            "task_id": "submit",
            "map_index": -1,
        }
        assert (value["version"], value["n_rows"], value["n_shards"], value["model"]) == (1, 20, 3, "gpt-6-luna")
        assert (value["endpoint"], value["host"]) == ("/v1/chat/completions", "127.0.0.1")
    assert (submitted["phase"], submitted["n_done"], submitted["n_running"], submitted["live"]) == (
        "waiting",
        0,
        3,
        False,
    )
    assert {batch["id"] for batch in submitted["batches"]} == set(emulator.batches)
    assert (waited["phase"], waited["n_done"], waited["live"]) == ("done", 20, hasattr(XCom, "aset"))
    assert waited["by_status"] == {"succeeded": 20} and waited["usage"]["output_tokens"] > 0
    assert (written["phase"], written["output"]) == ("written", (tmp_path / "out" / "labels.parquet").as_uri())
    assert set(written["phases_s"]) == {"build", "upload", "create", "wait", "harvest", "results"}
    assert written["eta_at"] is None and written["batches"] == []


def test_the_shards_are_there_one_by_one(run_dag, emulator) -> None:
    run = run_dag(THREE_TASKS)
    shown = run.xcom("wait", SHARDS)
    assert [shard["state"] for shard in shown["shards"]] == ["settled"] * 3
    assert [(shard["first_row"], shard["n_rows"]) for shard in shown["shards"]] == [(0, 8), (8, 8), (16, 4)]
    assert {shard["batch"]["id"] for shard in shown["shards"]} == set(emulator.batches)
    assert all(shard["batch"]["output_file_id"] for shard in shown["shards"])


def test_mapped_tasks_have_a_key_each(run_dag, emulator) -> None:
    run = run_dag("""
        submit = OpenAIBatchSubmitOperator.partial(task_id="submit", **CHAT).expand(rows=[ROWS[:2], ROWS[2:5]])
        wait = OpenAIBatchSensor.partial(task_id="wait").expand(job=submit.output)
    """)
    assert run.state == "success"
    for index, n_rows in enumerate((2, 3)):
        value = run.xcom("wait", f"{PROGRESS}.{index}", map_index=index)
        assert (value["n_rows"], value["n_done"], value["job"]["map_index"]) == (n_rows, n_rows, index)
        assert run.xcom("wait", f"{SHARDS}.{index}", map_index=index)["n_shards"] == 1


def test_a_held_job_says_what_a_person_must_do(run_dag, emulator) -> None:
    emulator.faults.add(Rule(on="POST /v1/files", do={"status": 401}))
    run = run_dag(one())
    assert run.states == {"one": "failed"}
    value = run.xcom("one", "openai_batch_progress.one")
    assert value["phase"] == "held"
    assert value["problem"].startswith("OpenAI refused the credentials")


BOUNDED = {"body": {"model": "gpt-6-luna", "max_tokens": 1000, "messages": [{"role": "user", "content": "{text}"}]}}


def test_a_job_that_its_cap_holds_says_so_with_the_figures(run_dag, emulator) -> None:
    run = run_dag(one(max_requests_per_batch=8, max_cost=0.001, **BOUNDED))
    assert run.states == {"one": "failed"} and not emulator.batches
    value = run.xcom("one", "openai_batch_progress.one")
    assert (value["phase"], value["limit"], value["max_cost"], value["cost"]) == ("held", "cap", 0.001, None)
    assert "max_cost is $0.001" in value["problem"] and "Raise max_cost" in value["problem"]
    assert value["upper_cost"] == value["expected_cost"] > 0.001 and value["estimate_basis"] == "bound"


def test_while_batches_run_it_is_told_that_the_rest_exceeds_the_cap(run_dag, emulator, capfd) -> None:
    emulator.settings.duration = 2
    run = run_dag(THREE_TASKS.replace("**CHAT", f"max_cost=0.0025, **{{**CHAT, **{BOUNDED!r}}}"))
    assert run.states["submit"] == "success"
    value = run.xcom("submit", PROGRESS)
    assert (value["phase"], value["limit"], value["n_running"], value["n_unsent"]) == ("waiting", "cap", 1, 2)
    assert "and the next batch" in value["problem"]
    assert "2 shards wait for a higher max_cost" in capfd.readouterr().out


@pytest.mark.parametrize("is_good", [True, False])
def test_a_pilot_is_told_while_it_runs_and_when_it_holds_the_job(run_dag, emulator, is_good: bool) -> None:
    emulator.settings.duration = 2
    emulator.settings.answer = lambda *_: Text("fine") if is_good else HttpError(400, "bad_request", "no")
    run = run_dag(THREE_TASKS.replace("**CHAT", f"pilot_rows=4, **{{**CHAT, **{BOUNDED!r}}}"))
    submitted = run.xcom("submit", PROGRESS)
    assert (submitted["phase"], submitted["limit"], submitted["problem"]) == ("waiting", "pilot", None)
    waited = run.xcom("wait", PROGRESS)
    if is_good:
        assert run.state == "success"
        assert (waited["phase"], waited["limit"]) == ("done", None)
        assert (waited["expected_cost"], waited["upper_cost"]) == (None, None), "what it cost is known"
    else:
        assert run.states["wait"] == "failed"
        assert (waited["phase"], waited["limit"]) == ("held", "pilot")
        assert "The pilot of 4 rows is not good enough" in waited["problem"]


def test_reused_rows_and_what_they_saved_are_told_everywhere(run_dag, emulator, capfd) -> None:
    dag = f"""
rows = [{{"id": i, "text": f"ticket {{i % 10}}"}} for i in range(20)]
request = {{**CHAT, **{BOUNDED!r}}}
one = OpenAIBatchOperator(task_id="one", rows=rows, reuse="nights", output=OUT + "/labels.csv", **request)
"""
    first, second = run_dag(dag), run_dag(dag)
    assert emulator.ledger.n_rows() == 10, "each text is asked once"
    told = first.xcom("one", "openai_batch_progress.one")
    assert (told["reused_rows"], told["by_status"], told["n_shards"]) == (10, {"succeeded": 20}, 1)
    assert told["saved_by_reuse"] == pytest.approx(told["cost"])
    told, manifest = second.xcom("one", "openai_batch_progress.one"), second.xcom("one")
    assert (told["reused_rows"], told["cost"]) == (20, 0.0)
    assert told["saved_by_reuse"] == pytest.approx(2 * first.xcom("one")["cost"])
    assert (manifest["reused_rows"], manifest["saved_by_reuse"]) == (20, told["saved_by_reuse"])
    assert "; 20 answers reused, which saved $0.0" in capfd.readouterr().out


def test_results_worse_than_allowed_are_bad_and_say_why(run_dag, emulator) -> None:
    emulator.settings.answer = lambda *_: HttpError(400, "bad_request", "no")
    run = run_dag(one(custom_id="t-{id}"))
    assert run.states == {"one": "failed"}
    value = run.xcom("one", "openai_batch_progress.one")
    assert value["phase"] == "bad" and "No row has a good answer" in value["problem"]
    error = {"status": "failed", "code": "bad_request", "n": 20, "custom_ids": ["t-0", "t-1", "t-2"], "message": "no"}
    assert value["errors"] == [error]


def test_the_log_ends_with_a_table(run_dag, emulator, capfd: pytest.CaptureFixture[str]) -> None:
    emulator.settings.duration = 3
    replies = {"1": HttpError(400, "bad_request", "no")}
    emulator.settings.answer = lambda _, body: replies.get(body["messages"][0]["content"].split()[-1], Text("fine"))
    run = run_dag(one(custom_id="t-{id}", max_rounds=0))
    assert run.state == "success"
    said = capfd.readouterr().out
    begun = re.search(r"\d+ of 20 rows \(\d.*%\); 0 of 1 batch ended, 1 \w+; round 0", said)
    ended = said.index("20 of 20 rows (100%); 1 of 1 batch ended; round 0; 1 failed, 19 succeeded")
    table = said.index("20 rows, written to file://")
    assert begun is not None and begun.start() < ended < table
    assert "\nsucceeded               19    95.0%\n" in said[table:]
    assert "\nfailed bad_request           1  t-1\n" in said[table:]


def test_a_task_that_polls_tells_its_log_only_of_changes(run_dag, emulator, capfd: pytest.CaptureFixture[str]) -> None:
    emulator.settings.duration = 3
    run = run_dag(one(deferrable=False, poll_interval=0.05))
    assert run.state == "success"
    said = re.findall(r"\d+ of 20 rows \(.*round.*", capfd.readouterr().out)
    assert 2 <= len(said) <= 6 and len(set(said)) == len(said)
    assert run.xcom("one", "openai_batch_progress.one")["live"] is False


def test_nothing_of_rows_prompts_or_keys_is_in_any_of_it(run_dag, emulator, capfd: pytest.CaptureFixture[str]) -> None:
    emulator.settings.answer = lambda _, body: HttpError(400, "bad_request", "I cannot say 'Jane Roe'")
    run = run_dag("""
        rows = [{"id": i, "text": f"patient Jane Roe {i}"} for i in range(3)]
        body = {"model": "m", "messages": [{"role": "user", "content": "top secret prompt {text}"}]}
        OpenAIBatchOperator(task_id="one", rows=rows, output=OUT + "/x.csv", **{**CHAT, "body": body})
    """)
    keys = ("openai_batch_progress.one", "openai_batch_shards.one", "openai_batch_ids", "openai_batch_link")
    left = json.dumps([run.xcom("one", key) for key in keys])
    said = "".join(capfd.readouterr())
    assert "bad_request" in left and "bad_request" in said
    left += said
    assert not any(secret in left for secret in ("Jane", "secret prompt", "sk-emulator"))


def test_links_lead_to_the_newest_batch_and_to_the_newest_file_of_a_kind() -> None:
    from airflow_openai_batch.engine.model import Batch
    from airflow_openai_batch.links import addresses

    batches = [
        Batch(id="batch_1", status="completed", input_file_id="in_1", output_file_id="out_1"),
        Batch(id="batch_2", status="in_progress", input_file_id="in_2"),
    ]
    assert addresses(batches, "eu.api.openai.com") == {
        "OpenAI batch": "https://platform.openai.com/batches/batch_2",
        "OpenAI input file": "https://platform.openai.com/storage/files/in_2",
        "OpenAI output file": "https://platform.openai.com/storage/files/out_1",
    }
    assert addresses(batches, "gateway.example.com") == {}
    assert addresses([], "api.openai.com") == {}


def test_every_link_is_announced_and_is_on_every_task() -> None:
    from airflow_openai_batch import operators, sensors
    from airflow_openai_batch.links import LINKS
    from airflow_openai_batch.provider_info import get_provider_info

    paths = [f"{type(link).__module__}.{type(link).__name__}" for link in LINKS]
    assert get_provider_info()["extra-links"] == paths
    assert len({link.name for link in LINKS}) == len({link.xcom_key for link in LINKS}) == len(LINKS)
    for task in (
        operators.OpenAIBatchSubmitOperator,
        operators.OpenAIBatchResultsOperator,
        operators.OpenAIBatchOperator,
        sensors.OpenAIBatchSensor,
    ):
        assert task.operator_extra_links == LINKS


def test_links_are_there_as_soon_as_what_they_lead_to_and_for_mapped_tasks_too(run_dag, emulator, monkeypatch) -> None:
    monkeypatch.setattr("airflow_openai_batch.engine.api.client.Api.host", "api.openai.com")
    emulator.settings.answer = lambda _, body: (
        HttpError(400, "bad_request", "no") if "ticket 1" in str(body) else Text("a")
    )
    run = run_dag("""
        submit = OpenAIBatchSubmitOperator.partial(task_id="submit", max_rounds=0, max_bad_ratio=0.9, **CHAT).expand(
            rows=[ROWS[:3], ROWS[3:6]]
        )
        OpenAIBatchSensor.partial(task_id="wait").expand(job=submit.output)
    """)
    assert run.state == "success"
    for index in (0, 1):
        batch = emulator.batches[run.xcom("wait", "openai_batch_ids", map_index=index)[0]]
        files = "https://platform.openai.com/storage/files/"
        sent = {"OpenAI input file": files + batch.input_file_id}
        assert run.xcom("submit", "openai_file_links", map_index=index) == sent
        answered = {**sent, "OpenAI output file": files + batch.result.output_file_id}
        if index == 0:
            answered["OpenAI error file"] = files + batch.result.error_file_id
        assert run.xcom("wait", "openai_file_links", map_index=index) == answered
        names = {"OpenAIInputFileLink": "input", "OpenAIOutputFileLink": "output", "OpenAIErrorFileLink": "error"}
        for link, kind in names.items():
            assert run.xcom("wait", f"_link_{link}", index) == answered.get(f"OpenAI {kind} file", "")
        assert run.xcom("wait", "_link_OpenAIBatchLink", index).endswith(f"/batches/{batch.id}")


def test_a_job_is_shown_while_a_worker_still_sends_it(run_dag, emulator, monkeypatch, capfd) -> None:
    monkeypatch.setattr("airflow_openai_batch.reporting.worker_progress.REFRESH_S", 0.0)
    run = run_dag(THREE_TASKS)
    assert run.state == "success"
    said = capfd.readouterr().out
    sent = [said.index(f"; {n} shard{'s wait' if n > 1 else ' waits'} to be sent; round 0") for n in (3, 2, 1)]
    assert sent == sorted(sent)


def test_why_rows_are_bad_is_told_in_log_exception_and_xcom_without_what_is_quoted_of_them(
    run_dag, emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow_openai_batch.exceptions import OpenAIBatchFailure

    quoting = "Invalid value: 'ticket 7' is no 'max_tokens'; got ticket 7, sent with sk-emulator"
    error = {"http_error": {"status": 400, "code": "invalid_value", "message": quoting}}
    emulator.faults.add(Rule("row", error, match={"custom_id": "t-[78]$"}))
    run = run_dag(THREE_TASKS)
    assert run.states == {"submit": "success", "wait": "success", "results": "failed"}
    written = run.xcom("results", PROGRESS)
    (error,) = written["errors"]
    assert (error["code"], error["n"], error["custom_ids"]) == ("invalid_value", 2, ["t-7", "t-8"])
    assert error["message"] == "Invalid value: '…' is no 'max_tokens'; got …, sent with ***"
    assert written["dead_letter"].endswith("labels.parquet.dead_letter.jsonl") and written["n_dead_letter"] == 2
    assert any("replay" in way for way in written["advice"])
    task = run.dag.get_task("results")
    task.job = run.xcom("submit")
    with pytest.raises(OpenAIBatchFailure) as caught:
        run.execute(task)
    told = str(caught.value)
    assert "2 failed invalid_value: Invalid value: '…'" in told and "t-7, t-8" in told
    assert all(part in told for part in ("dead_letter.jsonl", "replay", "max_bad_ratio"))
    xcoms = [json.dumps(value) for value in rest.xcoms(run.dag.dag_id, run.run_id)]
    assert len(xcoms) > 10
    assert not [text for text in xcoms if "ticket 7" in text or "sk-emulator" in text]
    assert max(map(len, xcoms)) < 8000
    lines = [record.getMessage() for record in caplog.records if "http_faults" not in record.name]
    assert not [line for line in lines if "ticket 7" in line or "sk-emulator" in line]
