"""Every Python block of the README and the docs runs, and its Dags run against the emulator.

A block may have a hidden part of its own before it, in a comment: ``<!-- setup`` …code… ``-->``. ``s3://lake`` is a
folder with a day's tickets, and the connection ``warehouse`` a database with the same. The files of the page "Get
started" are there for all blocks, so that later pages may go on with them.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import re
import runpy
import sqlite3
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
START = ROOT / "docs" / "get-started.md"
DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_BLOCK = re.compile(r'(?:<!-- setup\n(.*?)-->\n+)?^```(\w+)(?: title="([^"]*)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
TICKETS = pd.DataFrame(
    {
        "id": range(3),
        "ticket_id": [f"t{i}" for i in range(3)],
        "subject": ["Charged twice", "Login", "Thanks"],
        "text": ["The invoice of May!", "An error 500.", "The new editor is great."],
        "image_url": [f"https://example.com/{i}.png" for i in range(3)],
        "day": "2026-01-01",
    }
)


class Block(NamedTuple):
    page: str
    line: int
    title: str
    code: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        setup, language, title, code = match.groups()
        if language == "python":
            line = text.count("\n", 0, match.start(4)) + 1
            yield Block(page.relative_to(ROOT).as_posix(), line, title or "", (setup or "") + code)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES if page != START for block in blocks(page)]


def started() -> dict[str, str]:
    """Return the files that the page "Get started" has the reader make, by their names."""
    found = {title: code for _, _, title, code in _BLOCK.findall(START.read_text()) if title}
    return {title: code for title, code in found.items() if " " not in title}


@pytest.fixture
def project(_airflow_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The reader's folder, with that of Airflow's Dags in it, and the lake and the warehouse of the examples."""
    home = Path(os.environ["AIRFLOW_HOME"])
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    files = [home / name for name in started()]
    for file, code in zip(files, started().values(), strict=True):
        file.write_text(code)
    lake = tmp_path / "lake"
    (lake / "tickets").mkdir(parents=True)
    TICKETS.to_parquet(lake / "tickets" / "2026-01-01.parquet")
    with contextlib.closing(sqlite3.connect(tmp_path / "warehouse.db")) as database:
        TICKETS.to_sql("tickets", database, index=False)
    warehouse = {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(warehouse))
    before = dict(os.environ)
    yield lake
    os.environ.clear()
    os.environ.update(before)
    for file in (*files, home / "labels.parquet"):
        file.unlink(missing_ok=True)


def run(code: str, name: str) -> dict[str, Any]:
    """Run a block as a Dag file, with a Dag around it for tasks that have none, and return what it defines."""
    from airflow.sdk import DAG

    if not re.search(r"\b(DAG|dag)\(|@dag\b", code):
        head = f"import datetime\nfrom airflow.sdk import DAG\nwith DAG({name!r}, start_date={DAY!r}) as dag:\n"
        code = head + textwrap.indent(code, "    ")
    file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / f"{name}.py"
    file.write_text(code)  # Airflow reads it too
    space: dict[str, Any] = {"__name__": name, "__file__": str(file)}
    try:
        exec(compile(code, str(file), "exec"), space)
        found = [value if isinstance(value, DAG) else getattr(value, "dag", None) for value in space.values()]
        for dag in {dag.dag_id: dag for dag in found if isinstance(dag, DAG) and dag.tasks}.values():
            assert str(dag.test(logical_date=DAY).state) == "success", dag.dag_id
    finally:
        file.unlink()
    return space


def name_of(block: Block) -> str:
    return f"block_{re.sub(r'[^a-z0-9]', '_', block.page.lower())}_{block.line}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_a_block_runs(project: Path, emulator: Any, block: Block) -> None:
    run(block.code.replace("s3://lake", f"file://{project}"), name_of(block))


@pytest.mark.parametrize(
    ("block", "test"),
    [(block, test) for block in BLOCKS for test in re.findall(r"^def (test_\w+)", block.code, re.MULTILINE)],
    ids=lambda value: value if isinstance(value, str) else f"{value.page}:{value.line}",
)
def test_a_test_of_a_block_passes(project: Path, request: pytest.FixtureRequest, block: Block, test: str) -> None:
    function = run(block.code, name_of(block))[test]
    for mark in getattr(function, "pytestmark", []):
        request.node.add_marker(getattr(pytest.mark, mark.name)(**mark.kwargs))
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    function(**{fixture: request.getfixturevalue(fixture) for fixture in wanted})


def test_the_page_get_started_does_what_it_shows(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_openai_batch.emulator import __main__ as emulator

    text = START.read_text()
    (command,) = re.findall(r"^python -m airflow_openai_batch\.emulator (.*)$", text, re.MULTILINE)
    (connection,) = re.findall(r"^export AIRFLOW_CONN_OPENAI_DEFAULT='(.*)'$", text, re.MULTILINE)
    options = emulator._parser().parse_args(command.split())
    assert f"http://{options.host}:{options.port}/v1" == json.loads(connection)["host"]
    options.port, options.duration = 0, 0.3
    with emulator._emulator(options) as running:
        monkeypatch.setenv(
            "AIRFLOW_CONN_OPENAI_DEFAULT", connection.replace("http://127.0.0.1:8080/v1", running.base_url)
        )
        dag = runpy.run_path(os.path.abspath("dags/label_tickets.py"))["dag"]
        assert str(dag.test().state) == "success"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(started()["look.py"], {})
    (shown,) = re.findall(r'```text title="python look.py"\n(.*?)```', text, re.DOTALL)
    assert printed.getvalue() == shown


def test_every_page_with_python_is_among_those_that_run() -> None:
    shown = {page.relative_to(ROOT).as_posix() for page in PAGES if "```python" in page.read_text()}
    assert shown == {block.page for block in BLOCKS} | {"docs/get-started.md"}
