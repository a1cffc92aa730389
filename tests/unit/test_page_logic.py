"""The page's pure modules, run by Node: the same files that browsers get."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "page"


def test_the_logic_of_the_page() -> None:
    node = shutil.which("node")
    if node is None:
        # The browser tests use the same code; only the finer cases are missing without Node.
        pytest.skip("no Node.js on this machine")
    command = [node, "--test", *map(str, sorted(TESTS.glob("*.test.mjs")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
