"""The example Dags as they stand, each in a run of its own: dag.test() against the emulator."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import rest

from airflow_openai_batch.demo import labeler
from airflow_openai_batch.emulator import Raw, Text

EXAMPLES = Path(__file__).parents[2] / "dags_examples"
DS = "2026-11-24"
PACKAGES = [
    {"name": f"p{i:03}", "summary": f"{word} {i}", "description": "long " * 300, "topics": [topic], "frameworks": []}
    for i, (word, topic) in enumerate([("sql database", "Database"), ("http server", "Internet")] * 30)
]


class Example(NamedTuple):
    """A finished run of an example, and its folder."""

    state: str
    states: dict[str, str]
    folder: Path
    xcom: Callable[[str], Any]

    def table(self, pattern: str) -> list[dict[str, Any]]:
        (file,) = self.folder.rglob(pattern)
        return pq.read_table(file).to_pylist()


@pytest.fixture
def example(
    _airflow_db: None, emulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Example]:
    """Return a function that runs an example; the emulator answers by the demo's keyword rules."""
    emulator.settings.answer = labeler.answer
    monkeypatch.setattr("airflow_openai_batch.demo.packages.package_rows", lambda: iter(PACKAGES))
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("LABELING_FOLDER", str(tmp_path / "lake"))
    database = {"conn_type": "sqlite", "host": str(tmp_path / "packages.db")}
    monkeypatch.setenv("AIRFLOW_CONN_PACKAGES_DB", json.dumps(database))
    monkeypatch.setenv("LABELING_DATABASE", "packages_db")

    def run(name: str) -> Example:
        from airflow.sdk import timezone

        file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / f"{name}.py"
        shutil.copyfile(EXAMPLES / file.name, file)
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = getattr(module, name)().test(logical_date=timezone.parse(DS))

        def xcom(task_id: str) -> Any:
            return rest.xcom(name, made.run_id, task_id)

        states = rest.states(name, made.run_id)
        return Example(str(made.state), states, tmp_path / "lake", xcom)

    return run


def test_classification(example) -> None:
    run = example("classification")
    assert run.state == "success"
    (file,) = run.folder.rglob(f"{DS}.csv")
    header, *lines = file.read_text().splitlines()
    assert header.endswith(",topic,is_for_developers,keywords")
    assert len(lines) == len(PACKAGES)


def test_extraction_merges_the_pieces_of_a_document(example, emulator) -> None:
    links = {"links": [{"what": "chat", "url": "a"}, {"what": "other", "url": "b"}]}
    emulator.settings.answer = lambda endpoint, body: links
    run = example("extraction")
    assert run.state == "success"
    assert emulator.ledger.n_rows() == 2 * len(PACKAGES), "1,500 characters are two pieces of 800"
    assert run.xcom("merge") == dict.fromkeys((row["name"] for row in PACKAGES), 2)


def test_moderation_hands_on_what_is_flagged(example, emulator) -> None:
    emulator.settings.answer = lambda endpoint, body: Text("flagged" if body["input"].endswith(" 7") else "fine")
    run = example("moderation")
    assert run.state == "success"
    flagged = run.xcom("flagged")
    assert list(flagged) == ["p007"] and flagged["p007"]


def test_only_good_labels_are_judged(example, emulator) -> None:
    run = example("chained_labeling")
    assert run.state == "success"
    judged = run.table("*-judged.parquet")
    assert [row["name"] for row in judged] == [row["name"] for row in PACKAGES]
    assert {row["verdict"] for row in judged} <= {"holds", "does not hold"}
    assert {row["topic"] for row in judged} == {"Database", "Internet"}
    assert len(emulator.batches) == 2


def test_calls_of_a_tool_become_rows(example, emulator) -> None:
    asked = []

    def call(endpoint: str, body: dict[str, Any]) -> Raw:
        asked.append(body["input"][0]["content"][1]["image_url"])
        arguments = json.dumps({"title": "Falls", "colors": ["green"]})
        item = {"type": "function_call", "id": "fc", "call_id": "c", "name": "add_to_catalogue", "arguments": arguments}
        return Raw(
            {"id": "resp", "object": "response", "model": body["model"], "status": "completed", "output": [item]}
        )

    emulator.settings.answer = call
    run = example("pictures_and_tools")
    assert run.state == "success"
    assert all(url.startswith("https://") for url in asked)
    assert run.xcom("catalogue") == [{"sku": sku, "title": "Falls", "colors": ["green"]} for sku in ("A-1", "A-2")]


def test_sql_labels_what_has_no_label_yet(example, emulator, tmp_path) -> None:
    run = example("sql_in_and_out")
    assert run.state == "success"
    connection = sqlite3.connect(tmp_path / "packages.db")
    assert connection.execute("SELECT count(*), min(topic) FROM package_labels").fetchall() == [(60, "Database")]
    connection.close()
    assert emulator.ledger.n_rows() == 60


def test_doubtful_rows_go_to_people_and_sure_ones_to_training(example, emulator) -> None:
    emulator.settings.answer = lambda endpoint, body: {
        "topic": "Database",
        "confidence": 0.3 if body["input"].endswith(" 7") else 0.9,
    }
    run = example("annotated_labeling")
    assert run.state == "success"
    assert run.xcom("route") == {"to_people": 1, "to_training": 59}
    folder = run.folder / "annotation" / DS
    (task,) = json.loads((folder / "label_studio.json").read_text())
    assert task["data"]["name"] == "p007"
    assert task["predictions"][0]["score"] == 0.3
    (record,) = json.loads((folder / "argilla.json").read_text())
    assert record["suggestions"]["topic"]["value"] == "Database"
    assert len((folder / "fine_tuning.jsonl").read_text().splitlines()) == 59


@pytest.mark.parametrize("is_worse", [False, True])
def test_a_worse_prompt_fails_the_gate_and_the_report_is_kept(example, emulator, is_worse) -> None:
    def answer(endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        if "instructions" not in body:
            return {"reason": "so", "score": 1 if "Is Internet" in body["input"] and "sql" in body["input"] else 5}
        is_candidate = "authors" in body["instructions"]
        is_sql = "sql" in body["input"] and not (is_worse and is_candidate)
        return {"topic": "Database" if is_sql else "Internet"}

    emulator.settings.answer = answer
    run = example("prompt_evals")
    assert run.states["gate"] == ("failed" if is_worse else "success")
    (report,) = run.folder.rglob("report.md")
    assert report.read_text().startswith("# ❌" if is_worse else "# ✅")
    assert (report.parent / "scores.svg").exists()
