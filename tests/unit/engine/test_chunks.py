"""Documents cut into chunks: nothing lost, nothing too long, the same ids each night."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import splintr
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_openai_batch.chunking import Chunk, Chunks, chunk_text
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.sources import places_of, source_of

WORDS = st.text(st.sampled_from("ab é.!?\n\n 。\u0301😀\u200d\ufe0f\t\u00a0漢"), max_size=300)


TOKENIZER = splintr.Tokenizer.from_pretrained("cl100k_base")


def n_tokens(text: str) -> int:
    return len(TOKENIZER.encode_ordinary(text))


@settings(max_examples=300, deadline=None)
@given(WORDS, st.integers(1, 60), st.integers(0, 30), st.booleans())
def test_chunks_hold_the_whole_text_in_order_and_are_short_enough(
    text: str, most: int, overlap: int, by_tokens: bool
) -> None:
    overlap = min(overlap, most // 2)
    given = {"max_tokens": most} if by_tokens else {"max_characters": most}
    chunks = chunk_text(text, overlap=overlap, **given)
    assert chunks == chunk_text(text, overlap=overlap, **given)
    at = 0
    for chunk in chunks:
        assert chunk.start is not None and chunk.end is not None
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip() != ""
        assert not text[at : chunk.start].strip(), "between two chunks there is nothing but white space"
        size = n_tokens(chunk.text) if by_tokens else len(chunk.text)
        assert size <= most or len(chunk.text) <= 32
        at = max(at, chunk.end)
    assert not text[at:].strip()
    ends = [chunk.end for chunk in chunks]
    assert ends == sorted(set(ends)), "each chunk has something new"


def test_a_chunk_ends_at_the_best_place_in_its_second_half() -> None:
    paragraphs = "A first sentence. A second one.\n\nA new paragraph. It goes on and on without any end"
    assert [c.text for c in chunk_text(paragraphs, max_characters=50)] == [
        "A first sentence. A second one.",
        "A new paragraph. It goes on and on without any end",
    ]


@pytest.mark.parametrize(
    ("text", "most", "chunks"),
    [
        ("A sentence. A second one goes on", 20, ["A sentence.", "A second one goes on"]),
        ('He said "no." Then he went.', 20, ['He said "no."', "Then he went."]),
        ("one line\nanother line here", 12, ["one line", "another line", "here"]),
        ("一二三。四五六七八", 6, ["一二三。", "四五六七八"]),
        ("x" * 25, 10, ["x" * 10, "x" * 10, "x" * 5]),
        ("", 10, []),
        (" \n ", 10, []),
    ],
)
def test_else_it_ends_at_a_sentence_a_line_or_a_word(text: str, most: int, chunks: list[str]) -> None:
    assert [chunk.text for chunk in chunk_text(text, max_characters=most)] == chunks


def test_no_mark_is_cut_from_its_letter() -> None:
    text = "e\u0301" * 20 + "👩\u200d👩\u200d👧" * 3
    for chunk in chunk_text(text, max_characters=7):
        assert chunk.text[0] not in "\u0301\u200d\ufe0f" and not chunk.text.endswith("\u200d")


def test_the_next_chunk_repeats_whole_words_of_the_last() -> None:
    text = " ".join(f"word{i}" for i in range(100))
    chunks = chunk_text(text, max_characters=60, overlap=20)
    for one, after in itertools.pairwise(chunks):
        shared = text[after.start : one.end]
        assert 0 < len(shared) <= 20
        assert all(word.startswith("word") for word in shared.split())


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"max_tokens": 5, "max_characters": 5},
        {"max_tokens": 0},
        {"max_characters": 2.5},
        {"max_characters": True},
        {"max_tokens": 10, "overlap": 6},
        {"max_tokens": 10, "overlap": -1},
    ],
)
def test_sizes_that_make_no_sense(sizes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="chunks: "):
        chunk_text("a", **sizes)
    with pytest.raises(InputError, match="chunks: "):
        Chunks([], text="text", key="id", **sizes)


def rows(chunks: Chunks) -> list[dict[str, Any]]:
    batches = list(source_of(chunks, endpoint="/v1/embeddings").batches())
    return [row for batch in batches for row in batch.to_pylist()]


def test_a_document_becomes_several_rows_with_stable_ids() -> None:
    documents = [
        {"id": 17, "title": "First", "body": "one two three four"},
        {"id": 18, "title": "Empty", "body": "  "},
        {"id": 19, "title": "None", "body": None},
        {"id": 20, "title": "Last", "body": "five"},
    ]
    found = rows(Chunks(documents, text="body", key="id", max_characters=10))
    assert [(row["chunk_id"], row["body"], row["chunk"]) for row in found] == [
        ("17#1", "one two", 1),
        ("17#2", "three four", 2),
        ("20#1", "five", 1),
    ]
    assert [(row["id"], row["title"], row["chunk_start"], row["chunk_end"]) for row in found] == [
        (17, "First", 0, 7),
        (17, "First", 8, 18),
        (20, "Last", 0, 4),
    ]
    assert list(found[0]) == ["id", "title", "body", "chunk_id", "chunk", "chunk_start", "chunk_end"]


def test_a_function_of_the_user_cuts_instead() -> None:
    documents = [{"id": "a", "body": "one|two||three"}]
    found = rows(Chunks(documents, text="body", key="id", cut=lambda text: text.split("|")))
    assert [(row["chunk_id"], row["body"], row["chunk_start"]) for row in found] == [
        ("a#1", "one", None),
        ("a#2", "two", None),
        ("a#3", "three", None),
    ]
    found = rows(Chunks(documents, text="body", key="id", cut=lambda text: iter([Chunk(text[:3], 0, 3)])))
    assert [(row["body"], row["chunk_end"]) for row in found] == [("one", 3)]


@pytest.mark.parametrize(
    ("documents", "given", "problem"),
    [
        ([{"id": 1, "body": "x"}], {"text": "nope"}, "no column 'nope'. Columns: id, body"),
        ([{"id": 1, "body": 5}], {}, "column 'body' holds no texts"),
        ([{"id": 1, "body": "x"}, {"id": None, "body": "y"}], {}, "row 1, column 'id': a document without an id"),
        ([{"id": 1, "body": "x", "chunk": 2}], {}, "have the column chunk already"),
        (
            [{"id": 1, "body": "x"}],
            {"max_tokens": None, "cut": lambda text: [1]},
            "row 0: the function .* returned int",
        ),
    ],
)
def test_documents_that_cannot_be_cut(documents: list[Any], given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        rows(Chunks(documents, **{"text": "body", "key": "id", "max_tokens": 10, **given}))


@pytest.mark.parametrize(
    "given", [{"text": ""}, {"key": None}, {"key": "body"}, {"cut": len}, {"cut": 5, "max_tokens": None}]
)
def test_arguments_that_make_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="chunks: "):
        Chunks([], **{"text": "body", "key": "id", "max_tokens": 10, **given})


def test_no_chunks_have_columns_all_the_same() -> None:
    (batch,) = source_of(Chunks([{"id": 1, "body": ""}], text="body", key="id", max_tokens=5), endpoint="e").batches()
    assert batch.num_rows == 0 and "chunk_id" in batch.schema.names


def test_many_chunks_come_in_batches_of_moderate_size() -> None:
    documents = ({"id": i, "body": "a b " * 4000} for i in range(3))
    batches = list(source_of(Chunks(documents, text="body", key="id", max_characters=1), endpoint="e").batches())
    assert [batch.num_rows for batch in batches] == [4096, 3904] * 3


def test_the_version_is_that_of_the_documents_and_of_how_they_are_cut(tmp_path: Any) -> None:
    documents = [{"id": 1, "body": "x"}]

    def version(documents: Any, **given: Any) -> str | None:
        return source_of(Chunks(documents, text="body", key="id", **given), endpoint="e").version

    assert version(documents, max_tokens=5) == version(documents, max_tokens=5)
    different = [
        version(documents, max_tokens=5),
        version(documents, max_tokens=6),
        version(documents, max_characters=5),
        version(documents, max_tokens=5, overlap=1),
        version(documents, cut=str.split),
        version([{"id": 1, "body": "y"}], max_tokens=5),
    ]
    assert len(set(different)) == len(different)
    assert version(lambda: documents, max_tokens=5) is None
    assert places_of(Chunks("s3://lake/docs.parquet", text="body", key="id", max_tokens=5)) == (
        "s3://lake/docs.parquet",
    )


def test_chunks_are_no_request_lines() -> None:
    with pytest.raises(InputError, match="not rows of a query or chunks"):
        source_of(Chunks([], text="body", key="id", max_tokens=5), endpoint="e", ready=True)
