"""Each message that the troubleshooting page quotes is one that the code has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUOTED = re.findall(r"^> (.+)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)


@cache
def literals() -> tuple[str, ...]:
    """Return the texts of the code, with ``…`` where it puts in a value."""
    found = []
    for file in (ROOT / "airflow_openai_batch").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%(\.\d)?[sdrf]", "…", node.value))
    return tuple(found)


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if re.search(r"\w", piece)]
    assert any(re.search(".{0,40}?".join(pieces), text, re.DOTALL) for text in literals())


def test_the_page_quotes_many() -> None:
    assert len(QUOTED) >= 30
