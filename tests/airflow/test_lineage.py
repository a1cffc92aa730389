"""Names of datasets, what assets are told, and a package that does not need OpenLineage."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.parametrize(
    ("place", "namespace", "name"),
    [
        ("s3://lake/tickets/a b.parquet", "s3://lake", "tickets/a b.parquet"),
        ("s3://aws_default@lake/tickets/day.parquet", "s3://lake", "tickets/day.parquet"),
        ("s3a://lake/x.csv", "s3://lake", "x.csv"),
        ("s3://conn@lake/day=*/part-*.parquet", "s3://lake", "day=*/part-*.parquet"),
        ("gs://google@bucket/x/y.jsonl", "gs://bucket", "x/y.jsonl"),
        ("abfss://box@acc.dfs.core.windows.net/x/y.csv", "abfss://box@acc.dfs.core.windows.net", "x/y.csv"),
        ("abfs://azure@box/x/y.csv", "abfs://box", "x/y.csv"),
        ("file:///data/in.parquet", "file", "/data/in.parquet"),
        ("/data/in.parquet", "file", "/data/in.parquet"),
    ],
)
def test_datasets_are_named_as_openlineage_names_them(place: str, namespace: str, name: str) -> None:
    from airflow_openai_batch.reporting.openlineage import dataset_name

    assert dataset_name(place) == (namespace, name)


@pytest.mark.parametrize("rows", ["OUT + '/in-*.csv'", "[OUT + '/in-1.csv', OUT + '/in-2.csv']"])
def test_rows_of_many_files_are_inputs_as_they_are_named(run_dag, emulator, tmp_path, rows: str) -> None:
    (tmp_path / "out").mkdir()
    for number in (1, 2):
        (tmp_path / "out" / f"in-{number}.csv").write_text(f"text\nx{number}\n")
    run = run_dag(f"OpenAIBatchOperator(task_id='one', rows={rows}, **CHAT)")
    assert run.state == "success"
    operator = run.dag.get_task("one")
    names = [one.name for one in operator.get_openlineage_facets_on_start().inputs]
    read = ["in-*.csv"] if "*" in rows else ["in-1.csv", "in-2.csv"]
    assert names == [str(tmp_path / "out" / name) for name in read]


def test_rows_themselves_are_no_dataset(run_dag, emulator) -> None:
    run = run_dag("OpenAIBatchOperator(task_id='one', rows=ROWS[:2], **CHAT)")
    told = run.dag.get_task("one").get_openlineage_facets_on_start()
    assert told.inputs == told.outputs == []


def test_rows_through_xcom_describe_an_asset_and_name_no_alias(run_dag, emulator) -> None:
    run = run_dag("""
        from airflow.sdk import Asset, AssetAlias
        labels = Asset("labels through xcom")
        one = OpenAIBatchOperator(
            task_id="one", rows=ROWS[:2], outlets=[labels, AssetAlias("alias of nothing")], **CHAT
        )
        @task(inlets=[labels])
        def look(inlet_events=None):
            return inlet_events[labels][-1].extra
        one >> look()
    """)
    assert run.state == "success"
    extra = run.xcom("look")
    assert (extra["uri"], extra["rows"], extra["by_status"]) == (None, 2, {"succeeded": 2})


def test_an_output_that_cannot_be_an_asset_loses_no_results(run_dag, emulator, monkeypatch, tmp_path, capfd) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 200)))
    run = run_dag("""
        from airflow.sdk import AssetAlias
        path = OUT + "/" + "/".join("d" * 200 for _ in range(6)) + "/labels.csv"  # longer than a name of an asset
        OpenAIBatchOperator(task_id="one", rows=ROWS[:2], output=path, outlets=[AssetAlias("alias")], **CHAT)
    """)
    assert run.state == "success"
    assert "tells nothing of the results: Asset name cannot exceed" in capfd.readouterr().out


def test_nothing_of_this_needs_openlineage() -> None:
    program = """
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "openlineage" or name.startswith("airflow.providers.openlineage"):
                    raise ModuleNotFoundError(name)
        import airflow.providers.common.compat.sdk  # Airflow itself looks for what is installed
        for name in [n for n in sys.modules if n.startswith(("openlineage", "airflow.providers.openlineage"))]:
            del sys.modules[name]
        sys.meta_path.insert(0, Absent())
        from airflow_openai_batch.operators import OpenAIBatchOperator
        import airflow_openai_batch.task.job
        import airflow_openai_batch.reporting.openlineage, airflow_openai_batch.reporting.tracing
        body = {"model": "m", "input": "x"}
        one = OpenAIBatchOperator(task_id="one", rows="/in.csv", endpoint="/v1/responses", body=body)
        assert one.get_openlineage_facets_on_start() is None
        assert one.get_openlineage_facets_on_complete(None) is None
        assert one.get_openlineage_facets_on_failure(None) is None
        print("fine")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.endswith("fine\n"), done.stderr
