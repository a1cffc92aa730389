"""Markdown of the pages, and of the parts of pages, that are made from the code. Knows nothing of MkDocs."""

from __future__ import annotations

import ast
import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import parts

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "dags_examples"

_PART = re.compile(r"<!-- generated: ([a-z_]+) ?(.*?) -->")
_HIDDEN = re.compile(r"<!-- (setup|run)\b.*?-->\n?", re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


class Example(NamedTuple):
    """An example Dag, as its file tells it."""

    name: str
    summary: str
    text: str
    code: str


def examples() -> list[Example]:
    """Return the example Dags, by name."""
    return [_example(file) for file in sorted(EXAMPLES.glob("[a-z]*.py"))]


def _example(file: Path) -> Example:
    source = file.read_text()
    tree = ast.parse(source)
    summary, _, text = (ast.get_docstring(tree) or "").partition("\n\n")
    first = tree.body[1] if ast.get_docstring(tree) else tree.body[0]
    code = "\n".join(source.splitlines()[first.lineno - 1 :])
    return Example(file.stem, " ".join(summary.split()), text, re.sub(r"# \[(START|END) \w+\]\n*", "", f"{code}\n").strip())


def unlisted(navigation: object) -> list[str]:
    """Return the paths of the examples' pages that a site's navigation does not name."""
    paths = [f"how-to/{example.name}.md" for example in examples()]
    return [path for path in paths if path not in str(navigation)]


def pages(repository: str) -> dict[str, str]:
    """Return the pages that have no file in docs/, by their paths there.

    Args:
        repository: The address of the repository, for links to its files.
    """
    made = {"index.md": links((ROOT / "README.md").read_text(), ".", "", repository), "examples.md": _examples_page()}
    for example in examples():
        path = f"how-to/{example.name}.md"
        if not (DOCS / path).exists():
            title = example.name.replace("_", " ").capitalize()
            made[path] = f"# {title}\n\n{example.summary}\n\n{example.text}\n\n{_code(example)}"
    return made


def _examples_page() -> str:
    rows = [f"| [`{each.name}`](how-to/{each.name}.md) | {each.summary} |" for each in examples()]
    return "\n".join(
        [
            "# All examples",
            "",
            "Each is a Dag file of its own, and in the wheel: `python -m airflow_openai_batch examples NAME --to FOLDER` "
            "copies it into your Dags folder. Change the rows and the body. "
            "Most run against the [emulator](emulator.md) as they are.",
            "",
            "| Example | What it does |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )  # fmt: skip


def _code(example: Example) -> str:
    path = f"dags_examples/{example.name}.py"
    return f'```python title="{path}"\n{example.code}\n```\n'


def filled(markdown: str) -> str:
    """Return a page with its generated parts, and without what only its tests read."""
    return _PART.sub(lambda match: _PARTS[match[1]](match[2]), _HIDDEN.sub("", markdown))


_PARTS: dict[str, Callable[[str], str]] = {
    "example": lambda name: _code(_example(EXAMPLES / f"{name}.py")),
    "options": lambda _: parts.options(),
    "metrics": lambda _: parts.metrics(),
    "columns": lambda _: parts.columns(),
    "cli": parts.command_line,
    "reasons": lambda _: parts.reasons(),
}


def links(markdown: str, source: str, target: str, repository: str) -> str:
    """Return a page whose relative links lead to where the site has what they name, or else to the repository.

    Args:
        markdown: The page.
        source: The folder of the file that the page comes from, from the repository's root.
        target: The folder of the page in the site.
        repository: The repository's address.
    """

    def led(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(source, match[1]))
        if path.startswith("docs/"):
            return posixpath.relpath(path.removeprefix("docs/"), target or ".")
        if PurePosixPath(path).match("dags_examples/*.py"):
            return posixpath.relpath(f"how-to/{PurePosixPath(path).stem}.md", target or ".")
        if not (ROOT / path).exists():
            return match[1]  # for MkDocs to complain of
        return f"{repository}/{'tree' if os.path.isdir(ROOT / path) else 'blob'}/main/{path}"

    return _LINK.sub(led, markdown)


def repository_links(markdown: str, page: str, repository: str) -> str:
    """Return a page of docs/ whose links out of docs/ lead into the repository.

    Args:
        markdown: The page.
        page: Its path in docs/.
        repository: The repository's address.
    """
    folder = posixpath.dirname(page)
    return links(markdown, posixpath.join("docs", folder), folder, repository)
