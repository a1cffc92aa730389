"""Every line of the files reaches the row that it names, whatever ids look like and however the files are read."""

from __future__ import annotations

import io
import json
import tempfile
from contextlib import ExitStack
from typing import Any

import pytest
from builders import answer, line_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_openai_batch.engine.answers import line_files as module
from airflow_openai_batch.engine.answers.line_files import Lines, lines_in_order, locate
from airflow_openai_batch.engine.answers.parser import custom_id_of

IDS = ["t0", "a", "é x", "back\\\\slash", "back\\\\", "tab\\t", "tab\t", 'quo"te', '","', "\u2028", "a" * 64]
NAMES = st.sampled_from([*IDS, "unknown", ""])


def spelt(custom_id: str, make: Any, is_ascii: bool, separators: tuple[str, str]) -> bytes:
    value = json.loads(make(custom_id))
    return json.dumps(value, ensure_ascii=is_ascii, separators=separators).encode()


good = st.builds(
    spelt, NAMES, st.sampled_from([answer, line_error]), st.booleans(), st.sampled_from([(", ", ": "), (",", ":")])
)
bad = st.builds(lambda line, at: line[: at % len(line)], good, st.integers(0, 10_000)) | st.binary(max_size=30).map(
    lambda data: data.replace(b"\n", b"")
)
files = st.lists(st.lists(good | good | bad, max_size=12), max_size=2)


def cut(lines: list[bytes], has_end: bool) -> list[bytes]:
    data = b"\n".join(lines) + (b"\n" if has_end else b"")
    return data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n") if data else []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files,
    st.booleans(),
    st.permutations(IDS),
    st.sampled_from([16, 700, 1 << 18]),
    st.integers(1, 12),
    st.integers(1, 4000),
)
def test_lines_reach_the_rows_that_they_name(
    monkeypatch: pytest.MonkeyPatch,
    texts: list[list[bytes]],
    has_end: bool,
    ids: list[str],
    read: int,
    rows: int,
    size: int,
) -> None:
    for name, value in (("_READ_BYTES", read), ("BLOCK_ROWS", rows), ("_BLOCK_BYTES", size)):
        monkeypatch.setattr(module, name, value)
    unmatched = io.BytesIO()
    found: list[list[bytes]] = []
    with ExitStack() as stack:
        opened = [stack.enter_context(tempfile.TemporaryFile()) for _ in texts]
        for file, lines in zip(opened, texts, strict=True):
            file.write(b"\n".join(lines) + (b"\n" if has_end else b""))
        files = [Lines(file) for file in opened]
        for file, lines in zip(files, texts, strict=True):
            assert [bytes(line) for block in file.blocks() for line in block] == cut(lines, has_end)
        for block in lines_in_order(files, locate(files, ids, unmatched)):
            assert block.start == len(found)
            for row, line in enumerate(block.lines):
                assert not (line and row in block.several)
                found.append([bytes(text) for text in block.several.get(row) or ([line] if line else [])])
    everything = [line for lines in texts for line in lines]
    assert len(found) == len(ids)
    for custom_id, lines in zip(ids, found, strict=True):
        # In the order of the files; what is not whole may be there too, and shows when it is read.
        assert [line for line in lines if custom_id_of(line)] == [
            line for line in everything if custom_id_of(line) == custom_id
        ]
    kept = [line.rstrip(b"\r\n") + b"\n" for lines in found for line in lines]
    lost = [line.rstrip(b"\r\n") + b"\n" for line in everything if line.strip()]
    assert sorted(b"".join([*kept, unmatched.getvalue()]).split(b"\n")[:-1]) == sorted(b"".join(lost).split(b"\n")[:-1])
