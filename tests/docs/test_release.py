"""What is said of the package and its versions: to Airflow, to PyPI, and in the changelog."""

from __future__ import annotations

import datetime
import importlib.util
import itertools
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import jsonschema_rs
import pytest

from airflow_openai_batch import __version__
from airflow_openai_batch.provider_info import get_provider_info

ROOT = Path(__file__).resolve().parents[2]
DAY = datetime.date(2027, 1, 31)


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_airflow_is_told_of_the_provider_follows_airflows_schema() -> None:
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    schema = Path(str(spec.origin)).with_name("provider_info.schema.json")
    jsonschema_rs.validator_for(json.loads(schema.read_text())).validate(get_provider_info())


def test_the_schema_would_find_a_mistake() -> None:
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    schema = json.loads(Path(str(spec.origin)).with_name("provider_info.schema.json").read_text())
    told = get_provider_info()
    told["config"]["openai_batch"]["options"]["storage"]["type"] = 1
    assert not jsonschema_rs.validator_for(schema).is_valid(told)


def test_modules_that_airflow_is_told_of_exist() -> None:
    info = get_provider_info()
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for path in [*info["extra-links"], *(each["class-name"] for each in info["task-decorators"])]:
        module, _, name = path.rpartition(".")
        assert f"{name}" in (ROOT / f"{module.replace('.', '/')}.py").read_text(), path
    assert info["versions"] == [__version__]


def test_entry_points_lead_to_something() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group, points in project["entry-points"].items():
        for target in points.values():
            module, _, name = target.partition(":")
            file = ROOT / f"{module.replace('.', '/')}.py"
            assert re.search(rf"^(def|class) {name}\b" if name else "", file.read_text(), re.MULTILINE), group


def test_a_release_gives_what_was_unreleased_a_version() -> None:
    released = program("release").released
    text = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n"
    now = released(text, "1.2.0", DAY)
    assert now == "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2027-01-31\n\n### Added\n\n- A thing.\n"
    later = now.replace("## [Unreleased]\n", "## [Unreleased]\n\n### Fixed\n\n- It.\n")
    assert released(later, "1.2.1rc1", DAY).index("[1.2.1rc1]") < later.index("[1.2.0]")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [1.2.0] - 2027-01-01\n", "1.2.0"),
        ("## [Unreleased]\n\n## [1.2.0] - 2027-01-01\n", "1.3.0"),
        ("## [Unreleased]\n\n### Added\n", "v1.3"),
        ("# Changelog\n", "1.3.0"),
    ],
    ids=["released before", "nothing new", "no version", "no heading"],
)
def test_a_release_that_cannot_be_is_refused(text: str, version: str) -> None:
    with pytest.raises(ValueError, match=r"CHANGELOG|no version"):
        program("release").released(text, version, DAY)


def test_the_changelog_can_be_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [9999.0.0] - 2027-01-31" in program("release").released(text, "9999.0.0", DAY)


def test_every_dependency_is_on_the_page_of_licences() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "licences.md").read_text()
    extras = project["optional-dependencies"].values()
    for requirement in itertools.chain(project["dependencies"], *extras):
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        assert f"| [{name}](" in page, f"{name} is not in docs/licences.md: run `make licences`"
