"""The end of a demo: are all rows accounted for, and what is there to see?"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from airflow_openai_batch.demo.scenes import FAILING_ROWS
from airflow_openai_batch.demo.screen import rows_table, summary_table
from airflow_openai_batch.demo.stack import DemoError, DemoStack

_SHOWN_ROWS = 5


def show_outcome(console: Console, stack: DemoStack, dag_id: str, run_id: str, waiting: str) -> None:
    """Print what came of the run.

    Raises:
        DemoError: The rows in the label file are not the rows that were asked.
    """
    manifest = stack.api.xcom(dag_id, run_id, "results")
    n_rows = stack.api.xcom(dag_id, run_id, "rows")
    report = stack.api.xcom(dag_id, run_id, "report")
    rows = _read(manifest["output"])
    problems = _problems(rows, n_rows, manifest, stack.ledger())
    if problems:
        raise DemoError("The results are wrong:\n" + "\n".join(problems))
    console.print(Text("\nAll rows are accounted for.\n", style="bold green"))
    n_again = sum(row["round"] > 0 for row in rows)
    facts = _facts(manifest, report, n_again, len(stack.batches()))
    console.print(summary_table([*facts, ("while waiting", waiting), ("label file", _local(manifest["output"]))]))
    console.print(Text(f"\nThe first {_SHOWN_ROWS} rows of the label file:\n", style="bold"))
    console.print(rows_table(rows[:_SHOWN_ROWS]))
    console.print(_next_steps(dag_id))


def _read(uri: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(_local(uri)).to_pylist()
    return rows


def _local(uri: str) -> str:
    return urlsplit(uri).path if "://" in uri else uri


def _problems(rows: list[dict[str, Any]], n_rows: int, manifest: dict[str, Any], ledger: dict[str, Any]) -> list[str]:
    found = []
    if len(rows) != n_rows or manifest["rows"] != n_rows:
        found.append(f"{n_rows} rows went in, the manifest has {manifest['rows']}, the file {len(rows)}.")
    if len({row["name"] for row in rows}) != len(rows):
        found.append("Some rows are in the file twice.")
    if sum(manifest["by_status"].values()) != n_rows:
        found.append(f"The outcomes {manifest['by_status']} are not those of {n_rows} rows.")
    if (n_again := sum(row["round"] > 0 for row in rows)) != len(FAILING_ROWS):
        found.append(f"{n_again} rows were asked again; the emulator failed {len(FAILING_ROWS)}.")
    if manifest["by_status"].get("succeeded") != n_rows:
        found.append(f"Not every row has an answer: {manifest['by_status']}.")
    if ledger["rows_billed_twice"]:
        found.append(f"The emulator billed {len(ledger['rows_billed_twice'])} rows twice.")
    return found


def _facts(manifest: dict[str, Any], report: dict[str, Any], n_again: int, n_batches: int) -> list[tuple[str, str]]:
    tokens = manifest["tokens"]
    outcomes = ", ".join(f"{n:,} {status}" for status, n in manifest["by_status"].items())
    return [
        ("rows", f"{report['rows']:,} in, {manifest['rows']:,} out: {outcomes}"),
        ("batches", f"{n_batches}, in {manifest['rounds'] + 1} rounds"),
        ("asked again", f"{n_again} rows; the emulator failed them once (error 500), on purpose"),
        ("paid twice", "0 rows, as the emulator's ledger says"),
        (
            "tokens",
            f"{tokens['input_tokens']:,} in, {tokens['output_tokens']:,} out (estimated, 4 bytes each)",
        ),
        ("answered by", "keyword rules; not a model. Nothing was sent to OpenAI"),
        ("accuracy", _accuracy(report)),
    ]


def _accuracy(report: dict[str, Any]) -> str:
    if not report["rows_with_truth"]:
        return "none of the packages has a topic to compare with"
    return (
        f"{report['accuracy']:.0%} of the {report['rows_with_truth']} packages whose authors chose a topic "
        f"(always '{report['most_frequent_topic']}': {report['accuracy_of_most_frequent']:.0%})"
    )


def _next_steps(dag_id: str) -> Text:
    return Text.assemble(
        ("\nTo ask OpenAI, in your own Airflow:\n\n", "bold"),
        f"  copy dags_examples/{dag_id}.py into its Dags folder, and give it a key:\n",
        "  airflow connections add openai_default --conn-type openai --conn-password $OPENAI_API_KEY\n",
    )


def failed_task_log(home: Path, dag_id: str, run_id: str, task_id: str, lines: int = 25) -> str:
    """Return the end of a task's newest log."""
    folder = home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
    logs = sorted(folder.glob("attempt=*.log"))
    if not logs:
        return f"No log of task {task_id} in {folder}."
    return "\n".join([f"End of {logs[-1]}:", *logs[-1].read_text(errors="replace").splitlines()[-lines:]])
