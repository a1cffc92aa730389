"""The example Dag that labels many files, as it stands: dag.test() against the emulator."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.dataset as ds
import pytest
import rest

EXAMPLE = Path(__file__).parents[2] / "dags_examples" / "partitioned_labeling.py"
DS = "2026-11-24"
N_ROWS = 120  # three files of 50, 50 and 20 rows


class Night:
    """A finished run of the Dag, and the folder with its files."""

    def __init__(self, dag_run: Any, folder: Path) -> None:
        self.state = str(dag_run.state)
        self.run_id = dag_run.run_id
        found = rest.task_instances(dag_run.dag_id, dag_run.run_id)
        self.tis = {(ti["task_id"], ti["map_index"]): ti for ti in found}
        self.labels = folder / "package_labels" / DS

    def states(self, task_id: str) -> list[str]:
        return [str(ti["state"]) for (name, _), ti in sorted(self.tis.items()) if name == task_id]

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.labels / "_manifest.json").read_text())


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The rows that the Dag writes as files; a test may change them."""
    given = [
        {"name": f"p{i:03}", "summary": f"a database driver {i}", "description": "sql", "topics": ["Database"]}
        for i in range(N_ROWS)
    ]
    monkeypatch.setattr("airflow_openai_batch.demo.packages.package_rows", lambda: iter(given))
    return given


@pytest.fixture
def night(
    _airflow_db: None, emulator: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Night]:
    """Return a function that runs the Dag; `change` may break something first."""
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY", "1")
    monkeypatch.setenv("LABELING_FOLDER", str(tmp_path / "lake"))

    def run(change: Callable[[ModuleType], None] = lambda module: None) -> Night:
        from airflow.sdk import timezone

        file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / EXAMPLE.name
        shutil.copyfile(EXAMPLE, file)
        spec = importlib.util.spec_from_file_location("partitioned_labeling", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        change(module)
        dag = module.partitioned_labeling()
        return Night(dag.test(logical_date=timezone.parse(DS)), tmp_path / "lake")

    return run


@pytest.mark.parametrize("value", [[], None], ids=["empty", "null"])
def test_a_file_whose_lists_are_all_empty_has_the_types_of_the_others(night, rows, value) -> None:
    for row in rows[100:]:  # those of the last file
        row["topics"] = value
    run = night()
    assert run.state == "success"
    assert run.manifest()["rows"] == N_ROWS


def test_every_file_is_a_job_and_the_results_are_one_data_set(night, emulator) -> None:
    run = night()
    assert run.state == "success"
    assert len(emulator.batches) == 3
    frame = ds.dataset(run.labels, format="parquet").to_table().to_pandas()
    assert list(frame["name"]) == [f"p{i:03}" for i in range(N_ROWS)]
    assert set(frame["status"]) == {"succeeded"}
    assert frame["topic"].notna().all()
    told = run.manifest()
    assert (told["rows"], told["by_status"]) == (N_ROWS, {"succeeded": N_ROWS})
    assert told["files"] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert told["tokens"]["input_tokens"] == frame["input_tokens"].sum() > 0
    assert emulator.ledger.n_rows() == N_ROWS


def test_a_partition_shows_by_the_name_of_its_file(night) -> None:
    run = night()
    for task_id in ("partition.submit", "partition.wait", "partition.results"):
        shown = [ti["rendered_map_index"] for (name, _), ti in sorted(run.tis.items()) if name == task_id]
        assert shown == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"], task_id


def test_more_files_than_airflow_maps_over_share_partitions(night, emulator, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
    run = night(lambda module: setattr(module, "MAX_PARTITIONS", 2))
    assert run.state == "success"
    assert len(emulator.batches) == 2
    assert run.manifest()["files"] == ["part-00000.parquet", "part-00001.parquet"]
    counts = [fragment.count_rows() for fragment in ds.dataset(run.labels, format="parquet").get_fragments()]
    assert counts == [100, 20]


def test_an_empty_folder_is_skipped_and_says_so(night, emulator, rows, capsys) -> None:
    rows.clear()
    run = night()
    assert run.states("partitions") == ["skipped"]
    assert run.states("collect") == ["skipped"]
    assert run.state == "success"
    assert "nothing to label" in capsys.readouterr().out
    assert emulator.ledger.calls == []


def test_an_empty_file_among_many_is_left_out(night, emulator) -> None:
    def with_an_empty_file(module: ModuleType) -> None:
        written = module.write_files

        def write(folder: str) -> int:
            import pyarrow.parquet as pq

            n_files = written(folder)
            table = pq.read_table(Path(folder) / "packages-00000.parquet")
            pq.write_table(table.slice(0, 0), Path(folder) / "packages-00001x.parquet")
            return n_files + 1

        module.write_files = write

    run = night(with_an_empty_file)
    assert run.state == "success"
    assert len(run.manifest()["files"]) == 3
    assert run.manifest()["rows"] == N_ROWS


def test_one_bad_partition_spoils_no_other_and_there_is_no_manifest(night, emulator) -> None:
    emulator.settings.answer = lambda endpoint, body: (
        "no JSON" if "driver 6" in str(body["input"]) else {"topic": "Database", "confidence": 1.0}
    )
    run = night()
    assert run.state == "failed"
    assert run.states("partition.results") == ["success", "failed", "success"]
    assert run.states("collect") == ["upstream_failed"]
    assert not (run.labels / "_manifest.json").exists()
    assert (run.labels / "part-00002.parquet").exists()


def test_files_of_an_earlier_run_are_found_before_anyone_counts_them(night, emulator, capsys) -> None:
    def with_an_old_file(module: ModuleType) -> None:
        check = module.write_manifest

        def write(folder: str, *rest: Any) -> Any:
            shutil.copyfile(Path(folder) / "part-00000.parquet", Path(folder) / "part-00007.parquet")
            return check(folder, *rest)

        module.write_manifest = write

    run = night(with_an_old_file)
    assert run.states("collect") == ["failed"]
    assert "part-00007.parquet" in capsys.readouterr().out
    assert not (run.labels / "_manifest.json").exists()


@pytest.mark.parametrize(
    "rows",
    ['OUT + "/day=*/in-{{ 1 }}.parquet"', '[OUT + "/day=1/in-{{ 1 }}.parquet", OUT + "/day=2/in-1.parquet"]', "OUT"],
    ids=["pattern", "list", "directory"],
)
def test_rows_may_name_many_files_which_are_rendered_and_shown(run_dag, emulator, rows: str) -> None:
    run = run_dag(f"""
        @task
        def write():
            import pandas as pd
            for day in (1, 2):
                os.makedirs(f"{{OUT}}/day={{day}}")
                pd.DataFrame({{"text": [f"{{day}}a", f"{{day}}b"]}}).to_parquet(f"{{OUT}}/day={{day}}/in-1.parquet")
        write() >> OpenAIBatchOperator(task_id="one", rows={rows}, **CHAT)
    """)
    assert run.state == "success"
    assert [row["text"] for row in run.xcom("one")] == ["1a", "1b", "2a", "2b"]
    assert len(emulator.batches) == 1
    rows = str(run.rendered_fields("one")["rows"])
    assert "/out" in rows and "{{" not in rows
