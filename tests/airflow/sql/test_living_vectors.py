"""The example Dag that keeps a table of vectors, as it stands, over several nights."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_openai_batch.chunking import chunk_text
from airflow_openai_batch.emulator import Rule

EXAMPLE = Path(__file__).parents[3] / "dags_examples" / "living_vectors.py"
N = 200


def body(i: int, n_paragraphs: int = 1) -> str:
    """A document of so many chunks: a paragraph has almost as many tokens as a chunk may have."""
    return "\n\n".join(f"Document {i}, part {n}." + " and more of it" * 90 for n in range(n_paragraphs))


class Nights:
    """The documents, the table, and what a night of the Dag does."""

    def __init__(self, database: Any, emulator: Any, run: Callable[[], str]) -> None:
        self.database, self.emulator, self._run = database, emulator, run
        self.documents = {i: body(i, 3 if i % 50 == 0 else 1) for i in range(1, N + 1)}
        database.run("CREATE TABLE documents (id int PRIMARY KEY, title text, body text)")

    def night(self) -> tuple[str, int]:
        """Let a night pass. Returns how it ended and how many chunks were paid for."""
        self.database.run("TRUNCATE documents")
        quoted = (f"({i}, 'Title', '{text}')" for i, text in self.documents.items())
        self.database.run(*(f"INSERT INTO documents VALUES {row}" for row in quoted))
        before = self.emulator.ledger.n_rows()
        state = self._run()
        return state, self.emulator.ledger.n_rows() - before

    def table(self) -> dict[str, tuple[str, str]]:
        rows = self.database.rows("SELECT chunk_id, text, embedding::text FROM document_chunks")
        return {chunk_id: (text, vector) for chunk_id, text, vector in rows}

    def texts(self) -> dict[str, str]:
        return {chunk_id: text for chunk_id, (text, _) in self.table().items()}

    def expected(self) -> dict[str, str]:
        return {
            f"{i}#{number}": chunk.text
            for i, text in self.documents.items()
            for number, chunk in enumerate(chunk_text(text, max_tokens=400, overlap=40), 1)
        }


@pytest.fixture
def nights(_airflow_db: None, emulator: Any, postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("VECTORS_CONN_ID", "pg")
    file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / EXAMPLE.name
    shutil.copyfile(EXAMPLE, file)
    spec = importlib.util.spec_from_file_location("living_vectors", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Nights(postgres, emulator, lambda: str(module.living_vectors().test().state))


@pytest.mark.parametrize("postgres", ["psycopg"], indirect=True)
def test_each_night_embeds_what_changed_and_deletes_what_vanished(nights: Nights) -> None:
    state, n_paid = nights.night()
    first = nights.table()
    assert (state, n_paid) == ("success", len(set(nights.expected().values()))), "equal chunks are asked once"
    assert nights.texts() == nights.expected()
    assert set(nights.expected()) >= {"50#1", "50#2", "50#3", "1#1"}
    sizes = nights.database.rows("SELECT DISTINCT vector_dims(embedding) FROM document_chunks")
    assert sizes == [(1536,)]

    # Nothing changed: nothing is paid, and no row of the table is written.
    marks = nights.database.rows("SELECT xmin::text, chunk_id FROM document_chunks ORDER BY chunk_id")
    assert nights.night() == ("success", 0)
    assert nights.database.rows("SELECT xmin::text, chunk_id FROM document_chunks ORDER BY chunk_id") == marks

    # Two documents change, one is new, one shrinks, two vanish, and one has the text of another, which is known.
    nights.documents |= {7: body(1007), 8: body(1008), N + 1: body(N + 1), 50: body(50, 1), 9: body(10)}
    del nights.documents[3], nights.documents[100]
    assert nights.night() == ("success", 3)
    second = nights.table()
    assert nights.texts() == nights.expected()
    assert {"50#2", "50#3", "3#1", "100#1", "100#2", "100#3"}.isdisjoint(second)
    changed = {chunk_id for chunk_id, row in second.items() if first.get(chunk_id) != row}
    assert changed == {"7#1", "8#1", "9#1", f"{N + 1}#1"}
    assert second["9#1"][1] == first["10#1"][1]
    assert not nights.emulator.ledger.rows_billed_twice()


@pytest.mark.parametrize("postgres", ["psycopg"], indirect=True)
def test_what_failed_keeps_its_vector_and_is_asked_again_the_next_night(nights: Nights) -> None:
    nights.night()
    first = nights.table()
    nights.documents |= {7: body(1007), 8: body(1008)}
    del nights.documents[3]
    nights.emulator.faults.add(
        Rule(on="row", match={"custom_id": "7#1"}, do={"http_error": {"status": 400, "code": "no", "message": "no"}})
    )
    state, _ = nights.night()
    second = nights.table()
    assert state == "success", "one bad row in two hundred is within the thresholds"
    assert second["7#1"] == first["7#1"], "neither the text nor the vector"
    assert second["8#1"] != first["8#1"]
    assert "3#1" not in second

    nights.emulator.faults.clear()
    assert nights.night() == ("success", 1)
    assert nights.texts() == nights.expected()

    # All documents gone is a mistake upstream, and no reason to delete all vectors.
    third = nights.table()
    nights.documents.clear()
    assert nights.night() == ("failed", 0)
    assert nights.table() == third
