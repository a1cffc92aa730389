"""The commands, files and options that the documents show are understood by the programs that they are for."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
PREFIX = "python -m airflow_openai_batch"


def blocks(page: Path, language: str) -> list[str]:
    return [text for _, kind, text in _FENCE.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[str]:
    """Return the whole command lines of a page; not those with placeholders such as ``…`` and ``a|b``."""
    text = page.read_text()
    lines = [line.strip() for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    inline = _INLINE.findall(_FENCE.sub("", text))
    found = [line[line.index(PREFIX) :] for line in (*lines, *inline) if PREFIX in line]
    return [line for line in found if not re.search(r"…|\||COMMAND|\[", re.split(r" > | \|\| ", line)[0])]


ALL = sorted({(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands(page)})


@pytest.mark.parametrize(("page", "command"), ALL)
def test_a_command_is_one_that_its_program_takes(page: str, command: str) -> None:
    from airflow_openai_batch.cli.main import _parser as of_jobs
    from airflow_openai_batch.emulator.__main__ import _parser as of_emulator
    from airflow_openai_batch.evals.__main__ import _parser as of_evals

    command = re.split(r" > | \|\| | # ", command)[0].replace("--port N", "--port 0").replace("--map-index N", "")
    program, *arguments = shlex.split(command)[2:]
    if program == "airflow_openai_batch.demo" or not arguments:
        return
    if len(arguments) == 1:
        arguments.append("--help")  # a command that a sentence only names
    others = {"airflow_openai_batch.emulator": of_emulator, "airflow_openai_batch.evals": of_evals}
    parser = others.get(program, of_jobs)()
    status: object = 0
    try:
        parser.parse_args(arguments)
    except SystemExit as left:
        status = left.code
    assert not status, f"{page}: {command}"


def test_some_commands_are_shown() -> None:
    assert len(ALL) > 10


@pytest.mark.parametrize("text", blocks(ROOT / "docs" / "emulator.md", "json"))
def test_faults_as_the_page_writes_them_are_rules(text: str) -> None:
    from airflow_openai_batch.emulator import Emulator

    rules = json.loads(text)
    with Emulator(faults=rules if isinstance(rules, list) else [rules]) as emulator:
        assert emulator.base_url


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "ini")], ids=lambda page: page.stem)
def test_options_as_the_pages_write_them_are_options(page: Path) -> None:
    from airflow_openai_batch.settings import OPTIONS

    for text in blocks(page, "ini"):
        _, _, ours = text.partition("[openai_batch]")
        names = re.findall(r"^(\w+) =", ours.partition("\n[")[0], re.MULTILINE)
        assert names
        assert not set(names) - {option.name for option in OPTIONS}
