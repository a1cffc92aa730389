"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


def test_the_drawn_state_machine_is_the_table() -> None:
    from airflow_openai_batch.engine.job.state_machine import NEXT, Fact

    text = (ROOT / "docs" / "architecture.md").read_text()
    drawn = set(re.findall(r"^    (\w+) --> (\w+): (\w+)$", text, re.MULTILINE))
    assert drawn == {(s.value, t.value, f.value) for (s, f), t in NEXT.items() if f is not Fact.POSTPONED}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "money.md").read_text()))))
def test_each_line_about_money_names_a_test_that_exists(name: str) -> None:
    assert f"def {name}(" in TESTS


def test_every_outcome_and_result_column_is_in_the_readme() -> None:
    from airflow_openai_batch.engine.model import RESULT_COLUMNS, Status, Usage

    readme = (ROOT / "README.md").read_text()
    counts = set(Usage.__struct_fields__)
    for name in [*Status, *(column for column in RESULT_COLUMNS if column not in counts)]:
        assert f"`{name}`" in readme, name


def test_the_readme_example_is_a_dag(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "example.py"
    file.write_text(block)
    space: dict[str, object] = {"__name__": "readme_example"}
    exec(compile(block, str(file), "exec"), space)
    assert space["wait"].upstream_task_ids == {"submit"}
    assert space["results"].upstream_task_ids == {"submit", "wait"}


def test_make_help_lists_what_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_every_file_in_which_a_change_begins_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("## Where a change begins") : text.index("## Layers")]
    files = re.findall(r"`([a-z_/]+\.py)`", table)
    assert len(files) >= 15
    for file in files:
        assert (ROOT / "airflow_openai_batch" / file).is_file(), file


def test_defaults_of_options_are_those_of_the_engine() -> None:
    from airflow_openai_batch import settings
    from airflow_openai_batch.engine.model import Timing
    from airflow_openai_batch.engine.results.sinks import DEFAULT_XCOM_BYTES

    assert Timing().grace_s == settings.CREATE_GRACE.default
    assert settings.XCOM_MAX_BYTES.default == DEFAULT_XCOM_BYTES
