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


MONEY = "\n".join((ROOT / "docs" / name).read_text() for name in ("money.md", "on-time.md"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", MONEY))))
def test_each_line_about_money_names_a_test_that_exists(name: str) -> None:
    assert f"def {name}(" in TESTS


def test_every_folder_of_a_job_and_every_option_of_custody_is_told() -> None:
    from airflow_openai_batch import settings
    from airflow_openai_batch.engine.job import history
    from airflow_openai_batch.engine.ledger import segments
    from airflow_openai_batch.engine.store import job_store

    page = (ROOT / "docs" / "custody.md").read_text()
    for kind, suffix in job_store._SUFFIXES.items():
        assert f"`e0/{kind}/*{suffix}`" in page, kind
    for place in ("e0/plan/*.json", "state/*.json", "commands/", "told/", history.FOLDER, segments.FOLDER):
        assert f"`{place}`" in page, place
    for option in (settings.FILES_EXPIRE_AFTER, settings.DELETE_FILES, settings.STORAGE, settings.XCOM_MAX_BYTES):
        assert f"[openai_batch] {option.name}`" in page, option.name


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
