"""The example Dags import fast and lazily, and the demo's keyword labeler answers what was asked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema_rs
import pytest

from airflow_openai_batch.cli.main import main
from airflow_openai_batch.demo.labeler import KEYWORDS, answer, label
from airflow_openai_batch.demo.packages import DESCRIPTION_CHARS, package_rows

EXAMPLES = Path(__file__).parents[2] / "dags_examples"
FILES = sorted(EXAMPLES.glob("[a-z]*.py"))

IMPORT_ONE = """
import airflow.sdk, importlib.util, json, sys, time
before, started = set(sys.modules), time.process_time()
spec = importlib.util.spec_from_file_location("example", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps({
    "seconds": time.process_time() - started,
    "heavy": sorted({"openai", "pandas", "pyarrow", "httpx2"} & (set(sys.modules) - before)),
}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_imports_without_anything_heavy(file: Path, home: Path) -> None:
    env = {**os.environ, "AIRFLOW_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ONE, str(file)], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["heavy"] == []
    # Of the processor, as a machine that is shared makes everything else slow; a fifth of this is usual.
    assert found["seconds"] < 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_has_a_dag_and_a_block_for_the_docs_named_like_the_file(file: Path) -> None:
    text = file.read_text()
    assert text.count(f"# [START {file.stem}]") == text.count(f"# [END {file.stem}]") == 1
    assert f"\n{file.stem}()\n" in text


def test_the_command_lists_every_example_and_copies_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["examples"]
    assert [example["name"] for example in listed] == [file.stem for file in FILES]
    assert all(example["about"].endswith(".") for example in listed)
    assert main(["examples", "moderation", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "moderation.py").read_text() == (EXAMPLES / "moderation.py").read_text()


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [("moderation", ".", "is there already"), ("moderation", "absent", "is no folder"), ("mod", ".", "There are: ")],
)
def test_the_command_overwrites_nothing_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, folder: str, message: str
) -> None:
    (tmp_path / "moderation.py").write_text("changed")
    assert main(["examples", name, "--to", str(tmp_path / folder)]) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "moderation.py").read_text() == "changed"


def test_rows_are_the_installed_packages_with_unique_names_and_short_descriptions() -> None:
    rows = list(package_rows())
    names = [row["name"] for row in rows]
    assert "apache-airflow" in names
    assert names == sorted(set(names))
    assert max(len(row["description"]) for row in rows) <= DESCRIPTION_CHARS
    assert any(row["topics"] for row in rows)


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/chat/completions"])
def test_keyword_labeler_gives_schema_valid_answers_for_every_package(endpoint: str) -> None:
    schema = strict(example("nightly_labeling").PackageLabel.model_json_schema())
    validator = jsonschema_rs.validator_for(schema)
    for row in package_rows():
        text = f"{row['name']}: {row['summary']}\n\n{row['description']}"
        validator.validate(answer(endpoint, request(endpoint, text, schema)))


def test_keyword_labeler_reads_the_text_and_not_the_instructions() -> None:
    schema = strict(example("nightly_labeling").PackageLabel.model_json_schema())
    body = request("/v1/responses", "sqlite: a driver for the sqlite database\n\nSQL.", schema)
    said = answer("/v1/responses", {**body, "instructions": "http websocket client server"})
    assert isinstance(said, dict)
    assert said["topic"] == "Database"
    assert "sqlite" in said["evidence"]
    assert said == answer("/v1/responses", {**body, "instructions": "something else"})


def test_keyword_labeler_ignores_addresses_and_says_when_it_knows_nothing() -> None:
    topic, confidence, words = label("https://example.com/database/sql", list(KEYWORDS))
    assert (topic, words) == ("Software Development", [])
    assert confidence < 0.2


def test_keyword_labeler_embeds_texts_that_share_words_near_each_other() -> None:
    texts = ["a sql database driver", "a driver for sql", "markdown to html"]
    vectors: Any = answer("/v1/embeddings", {"input": texts, "dimensions": 64})
    near, far = (sum(a * b for a, b in zip(vectors[0], vectors[i], strict=True)) for i in (1, 2))
    assert [len(vector) for vector in vectors] == [64, 64, 64]
    assert near > far


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "additionalProperties": False, "required": list(schema["properties"])}


def request(endpoint: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    wanted = {"name": "label", "strict": True, "schema": schema}
    if endpoint == "/v1/responses":
        return {"model": "m", "input": text, "text": {"format": {"type": "json_schema", **wanted}}}
    messages = [{"role": "system", "content": "Choose."}, {"role": "user", "content": text}]
    return {
        "model": "m",
        "messages": messages,
        "response_format": {"type": "json_schema", "json_schema": wanted},
    }
