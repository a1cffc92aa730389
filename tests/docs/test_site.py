"""The parts of the site that are made from the code, without MkDocs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "docs" / "_build"
REPOSITORY = "https://example.com/repository"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    sys.path.insert(0, str(BUILD))
    try:
        spec = importlib.util.spec_from_file_location("generate", BUILD / "generate.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BUILD))


def test_every_example_has_a_page_with_its_code_and_a_line_in_the_list(generate: ModuleType) -> None:
    pages = generate.pages(REPOSITORY)
    for file in (ROOT / "dags_examples").glob("[a-z]*.py"):
        path = f"how-to/{file.stem}.md"
        page = pages.get(path) or (ROOT / "docs" / path).read_text()
        assert f"# [START {file.stem}]" not in page
        assert f"\n{file.stem}()\n" in page or f"<!-- generated: example {file.stem} -->" in page
        assert f"]({path})" in pages["examples.md"]


def test_an_example_that_the_navigation_does_not_name_is_found(generate: ModuleType) -> None:
    listed = [f"how-to/{file.stem}.md" for file in (ROOT / "dags_examples").glob("[a-z]*.py")]
    assert generate.unlisted([{"How to": listed[1:]}]) == listed[:1]
    assert generate.unlisted([{"How to": listed}]) == []


def test_the_code_of_an_example_is_its_whole_file_and_can_be_copied(generate: ModuleType) -> None:
    for example in generate.examples():
        compile(example.code, example.name, "exec")
        assert "import" in example.code
        assert "[START" not in example.code
        assert example.summary


def test_every_option_is_in_the_reference_with_its_default(generate: ModuleType) -> None:
    from airflow_openai_batch.settings import OPTIONS

    page = generate.filled("<!-- generated: options -->")
    for option in OPTIONS:
        assert f"## `{option.name}`" in page
        assert f"AIRFLOW__OPENAI_BATCH__{option.name.upper()}" in page
    assert "float, default `60`" in page


def test_every_column_and_outcome_is_in_the_reference(generate: ModuleType) -> None:
    from airflow_openai_batch.engine.model import RESULT_COLUMNS, Status

    page = generate.filled("<!-- generated: columns -->")
    for name in (*RESULT_COLUMNS, *Status):
        assert re.search(rf"^\| `{name}` \| [\w`]", page, re.MULTILINE), name
    assert "| `invalid` | an answer that does not match the schema | no | yes |" in page


def test_every_command_and_its_arguments_are_in_the_reference(generate: ModuleType) -> None:
    from airflow_openai_batch.cli.main import _parser

    page = generate.filled("<!-- generated: cli airflow_openai_batch.cli.main:_parser -->")
    (commands,) = (action.choices for action in _parser()._actions if action.dest == "command")
    for name in commands:
        assert f"## `{name}`" in page
    assert "--older-than AGE" in page


def test_every_metric_is_in_the_reference(generate: ModuleType) -> None:
    from airflow_openai_batch.reporting.metrics import METRICS

    page = generate.filled("<!-- generated: metrics -->")
    for name in METRICS:
        assert f"`openai_batch.{name}`" in page


def test_every_reason_of_a_failure_is_in_the_reference(generate: ModuleType) -> None:
    from airflow_openai_batch.exceptions import Reason

    page = generate.filled("<!-- generated: reasons -->")
    for reason in Reason:
        assert f"| `{reason.name}` | `{reason.value}` |" in page


def test_what_only_tests_read_is_not_shown(generate: ModuleType) -> None:
    assert generate.filled("a\n<!-- setup\nimport os\n-->\nb") == "a\nb"


@pytest.mark.parametrize(
    ("link", "page", "leads_to"),
    [
        ("money.md#airflow", "sql.md", "money.md#airflow"),
        ("../sql.md", "how-to/testing.md", "../sql.md"),
        ("../dags_examples/embeddings.py", "sql.md", "how-to/embeddings.md"),
        ("../CHANGELOG.md", "upgrades.md", f"{REPOSITORY}/blob/main/CHANGELOG.md"),
        ("../benchmarks", "performance.md", f"{REPOSITORY}/tree/main/benchmarks"),
        ("../nowhere.md", "sql.md", "../nowhere.md"),
        ("https://example.com/x", "sql.md", "https://example.com/x"),
        ("#here", "sql.md", "#here"),
    ],
)
def test_links_lead_to_where_the_site_has_what_they_name(
    generate: ModuleType, link: str, page: str, leads_to: str
) -> None:
    assert generate.repository_links(f"[x]({link})", page, REPOSITORY) == f"[x]({leads_to})"


def test_the_readme_is_the_first_page_and_its_links_lead_into_the_site(generate: ModuleType) -> None:
    page = generate.pages(REPOSITORY)["index.md"]
    assert "](get-started.md)" in page
    assert "](images/ui-tour.gif)" in page
    assert "](docs/" not in page
