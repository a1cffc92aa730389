"""What answers the demo's requests: keyword rules. Not a model, and not meant to look like one.

The rules read the text of the request and count words that speak for a topic; words in its first line count more.
They never see the classifiers that the report compares them with. The same request has always the same answer.

    python -m airflow_openai_batch.emulator --answer airflow_openai_batch.demo.labeler:answer
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any
from zlib import crc32

from airflow_openai_batch.emulator.answers import Answered, body_seed, default_answer, schema_of
from airflow_openai_batch.emulator.schema import make_instance
from airflow_openai_batch.emulator.tokens import prompt_texts

# Beginnings of words, written by hand. What no rule knows is said to be software development, with low confidence.
KEYWORDS: dict[str, str] = {
    "Database": "database sql sqlite postgres mysql oracle redshift athena orm dbapi driver migration",
    "File Formats": "json yaml toml csv parquet jsonschema schema serializ validator",
    "Internet": "http https web asgi wsgi url uri dns websocket client server html browser rest api fastapi request",
    "Scientific/Engineering": "scientific science math numeric array matrix algebra statistic graph physics dataframe",
    "Security": "cryptograph security encrypt cipher jose jwt asn tls certificate password signature x509",
    "Software Development": "library typing type test pytest lint mypy decorator parser compiler framework packaging "
    "python asyncio extension plugin code developer import iterator",
    "System": "system process monitor airflow provider logging log workflow scheduler filesystem daemon kernel shell",
    "Text Processing": "text markup markdown xml html unicode string charset spelling template highlight tokeniz",
    "Utilities": "utility utilities utils helper convenien tool retry",
    "Other": "",  # for no keyword at all there is the default
}
DEFAULT_TOPIC = "Software Development"
_ADDRESS = re.compile(r"https?://\S+|<[^>]*>|\.\. \S+::.*")
_HEADLINE_WEIGHT = 5
_DIMENSIONS = 1536


def answer(endpoint: str, body: dict[str, Any]) -> Answered:
    """Answer a request of the example Dags by keyword rules.

    A JSON schema with a choice in it (`enum`) gets the choice whose keywords the text has most of; its properties
    `confidence` and `evidence` get the share of the points and the words found. What else a schema asks for is made
    up, as the emulator does without this function. Embeddings get the hashed words of the text as a unit vector.
    """
    if endpoint == "/v1/embeddings":
        return [_vector(text, body.get("dimensions") or _DIMENSIONS) for text in _texts(body)]
    schema = schema_of(endpoint, body)
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return default_answer(endpoint, body)
    made: dict[str, Any] = make_instance(schema, body_seed(body))
    text = (_texts(body) or [""])[-1]
    for name, asked in schema["properties"].items():
        if isinstance(asked, dict) and all(isinstance(choice, str) for choice in asked.get("enum") or [0]):
            made[name], confidence, words = label(text, asked["enum"])
            made |= _told(schema["properties"], confidence, words)
    return made


def label(text: str, topics: list[str]) -> tuple[str, float, list[str]]:
    """Return the topic that a text is about, how sure that is (0 to 1), and the words that decided."""
    headline, _, rest = text.partition("\n")
    words = Counter(_words(rest))
    for word in _words(headline):
        words[word] += _HEADLINE_WEIGHT
    found = {topic: _hits(words, topic) for topic in topics}
    points = {topic: sum(math.log1p(n) for n in hits.values()) for topic, hits in found.items()}
    best = max(topics, key=lambda topic: points[topic])
    if not points[best]:
        return (DEFAULT_TOPIC if DEFAULT_TOPIC in topics else topics[0]), 0.1, []
    share = points[best] / sum(points.values())
    return best, round(share, 2), [word for word, _ in found[best].most_common(3)]


def _hits(words: Counter[str], topic: str) -> Counter[str]:
    """Return the words of a text that speak for a topic; of an unknown topic, those in its name."""
    beginnings = tuple(KEYWORDS.get(topic, topic.lower()).split())
    return Counter({word: n for word, n in words.items() if word.startswith(beginnings)})


def _told(properties: dict[str, Any], confidence: float, words: list[str]) -> dict[str, Any]:
    told = {"confidence": ("number", confidence), "evidence": ("string", ", ".join(words) or "no keyword found")}
    return {
        name: value
        for name, (kind, value) in told.items()
        if isinstance(properties.get(name), dict) and properties[name].get("type") == kind
    }


def _texts(body: dict[str, Any]) -> list[str]:
    """Return the texts that a request is about: without its instructions, which name all topics."""
    return prompt_texts({key: value for key, value in body.items() if key != "instructions"})


def _words(text: str) -> list[str]:
    """Return the words of a text, without those in addresses: every README links to its badges."""
    return re.findall(r"[a-z][a-z0-9]+", _ADDRESS.sub(" ", text.lower()))


def _vector(text: str, n: int) -> list[float]:
    """Return the words of a text, hashed to n numbers: texts that share words are near each other."""
    vector = [0.0] * n
    for word, count in Counter(_words(text)).items():
        vector[crc32(word.encode()) % n] += math.log1p(count)
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [round(x / length, 6) for x in vector]
