"""Write docs/licences.md: what the package depends on, and under which licences, by the metadata of what is installed.

    python .ci/licences.py            # or `make licences`

Dependencies and extras are those of pyproject.toml, so the page changes with them and not with each release of theirs.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
_HEAD = """# Dependencies and licences

`airflow-openai-batch` is under the Apache License 2.0. What is installed with it, by the metadata of each package (`make licences` writes this page):

"""  # noqa: E501


def licence(package: Distribution) -> str:
    """Return the licence that a package names: its SPDX expression, or else its classifiers, or its text."""
    told = package.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier", []) if c.startswith("License ::")]
    return told["License-Expression"] or ", ".join(classifiers) or (told["License"] or "not told").splitlines()[0]


def packages(names: list[str]) -> dict[str, Distribution]:
    """Return packages by name; those that are not installed are fetched, and gone afterwards."""
    found = {_canonical(each.name): each for each in distributions()}
    missing = [name for name in names if name not in found]
    if missing:
        folder = tempfile.mkdtemp(prefix="licences-")
        command = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", folder, *missing]
        subprocess.run(command, check=True)
        found |= {_canonical(each.name): each for each in distributions(path=[folder])}
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def page() -> str:
    """Return the page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    wanted = [(name, extra) for extra, given in groups.items() for name in map(_name, given)]
    found = packages([name for name, _ in wanted])
    lines = ["| Package | Installed | Licence |", "| --- | --- | --- |"]
    for name, extra in wanted:
        where = f"with `[{extra}]`" if extra else "always"
        lines.append(f"| [{name}](https://pypi.org/project/{name}/) | {where} | {licence(found[name])} |")
    return _HEAD + "\n".join(lines) + "\n"


def _name(requirement: str) -> str:
    return _canonical(re.split(r"[^A-Za-z0-9._-]", requirement)[0])


if __name__ == "__main__":
    PAGE.write_text(page())
