"""The inputs of the benchmarks: rows of a support desk, and what is asked of each.

Everything is drawn from seeds and the same on every machine. Files are made once and kept in the folder that `--data`
names. Rows are made in blocks, so the first million of two million rows are the rows of one million.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

VERSION = "v1"
"""Part of the name of each kept file: raise it when their content changes."""
BLOCK_ROWS = 50_000
RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
MODEL = "gpt-6-luna"
TOPICS = ("billing", "delivery", "returns", "account", "defect", "praise", "other")

INSTRUCTIONS = (
    "You label tickets of a support desk. Read the ticket and answer with one JSON object. Choose the topic that the "
    "customer would name first; a ticket about a late parcel and a wrong invoice is about the one that is written of "
    "at greater length. A ticket is urgent if somebody loses money, time or access today, and not because it is "
    "loud. Give your confidence between 0 and 1, and sum the ticket up in one sentence in English, whatever its own "
    "language, without names, numbers of orders or addresses."
)
SCHEMA: dict[str, Any] = {
    "title": "ticket_label",
    "type": "object",
    "properties": {
        "topic": {"type": "string", "enum": list(TOPICS), "description": "What the ticket is about"},
        "is_urgent": {"type": "boolean", "description": "Whether it cannot wait until tomorrow"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "summary": {"type": "string", "description": "One sentence in English"},
    },
    "required": ["topic", "is_urgent", "confidence", "summary"],
    "additionalProperties": False,
}
FORMAT: dict[str, Any] = {"type": "json_schema", "name": "ticket_label", "schema": SCHEMA, "strict": True}
BODY: dict[str, Any] = {
    "model": MODEL,
    "instructions": INSTRUCTIONS,
    "input": "Category: {category}\n\n{text}",
    "text": {"format": FORMAT},
}
"""The body of a request with `{column}` in it, for who fills templates."""
CHAT_MODEL = "gpt-4o-mini-2024-07-18"
"""A model that the other libraries know."""
CHAT_BODY: dict[str, Any] = {
    "model": CHAT_MODEL,
    "messages": [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": "Category: {category}\n\n{text}"},
    ],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "ticket_label", "schema": SCHEMA, "strict": True},
    },
}
"""The same for Chat Completions, which is what the other libraries write."""

_WORDS = Path(__file__).with_name("words.txt").read_text().split()
_FOREIGN = ("Größe", "café", "naïve", "déjà", "señor", "coração", "smørrebrød", "tickets…", "東京", "注文", "🙂", "€")


def body_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the body of one request, for who builds it in Python."""
    return {
        "model": MODEL,
        "instructions": INSTRUCTIONS,
        "input": f"Category: {row['category']}\n\n{row['text']}",
        "text": {"format": FORMAT},
    }


def chat_body_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the body of one Chat Completions request."""
    user = {"role": "user", "content": f"Category: {row['category']}\n\n{row['text']}"}
    return {**CHAT_BODY, "messages": [CHAT_BODY["messages"][0], user]}


def row_id(ordinal: int) -> str:
    """Return the id of a row, which is also its custom_id."""
    return f"ticket-{ordinal:08d}"


def rows_file(folder: Path, n: int) -> Path:
    """Return a Parquet file of n rows: id, text (about 1 KB), category, score and received_at."""
    return kept(folder / f"rows-{VERSION}-{n}.parquet", lambda path: _write_rows(path, n))


def kept(path: Path, write: Callable[[Path], None]) -> Path:
    """Return a file, made first if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.new")
        write(beside)
        beside.rename(path)
    return path


def _write_rows(path: Path, n: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("category", pa.string()),
            ("score", pa.float64()),
            ("received_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    texts = phrases()
    pieces = [" ".join(texts[i : i + 3]) for i in range(len(texts) - 2)]
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, n, BLOCK_ROWS):
            rng = random.Random(f"rows {first}")
            ordinals = range(first, min(first + BLOCK_ROWS, n))
            columns = [
                [row_id(i) for i in ordinals],
                [" ".join(rng.choices(pieces, k=rng.randint(4, 12))) for _ in ordinals],
                [rng.choice(TOPICS) for _ in ordinals],
                [round(rng.uniform(-5, 5), 3) for _ in ordinals],
                [1_767_225_600_000_000 + i * 1_234_567 for i in ordinals],
            ]
            arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def phrases() -> list[str]:
    """Return many short pieces of text; every tenth has a quote, a line break or letters beyond ASCII."""
    rng = random.Random("phrases")
    texts = []
    for i in range(40_000):
        words = rng.choices(_WORDS, k=rng.randint(4, 9))
        if i % 20 == 0:
            words[rng.randrange(len(words))] = rng.choice(_FOREIGN)
        text = " ".join(words)
        if i % 25 == 0:
            text = f'"{text}"'
        texts.append(text + (".\n" if i % 50 == 7 else "." if i % 3 == 0 else ","))
    return texts


# -- requests that were written ----------------------------------------------------------------------------------------


def fingerprint_of_requests(lines: Iterable[bytes], every: int = 97) -> dict[str, Any]:
    """Return how many request lines there are, and a hash of what some of them ask, however they are written."""
    return _fingerprint(lines, every, lambda v: {key: v[key] for key in ("custom_id", "method", "url", "body")})


def fingerprint_of_chats(lines: Iterable[bytes], every: int = 97) -> dict[str, Any]:
    """Return the same for Chat Completions requests, of what all libraries can ask alike."""
    return _fingerprint(lines, every, _chat)


def _chat(line: dict[str, Any]) -> Any:
    body = line["body"]
    schema = body["response_format"]["json_schema"]["schema"]
    fields = {name: field.get("type") for name, field in schema["properties"].items()}
    return [line["method"], line["url"], body["model"], body["messages"], fields, schema["additionalProperties"]]


def _fingerprint(lines: Iterable[bytes], every: int, read: Callable[[Any], Any]) -> dict[str, Any]:
    import hashlib

    n = 0
    found = hashlib.blake2b(digest_size=12)
    for line in lines:
        if n % every == 0:
            found.update(json.dumps(read(json.loads(line)), sort_keys=True).encode())
        n += 1
    return {"lines": n, "requests": found.hexdigest()}
