"""How many tokens a request has, and how many its answer may have at most. Offline.

OpenAI's current models count with the vocabulary o200k. Of the tokenizers that have it offline, splintr-rs loads
fastest and needs least memory (0.04 s and 50 MB here; tiktoken with a vocabulary from PyPI 0.4 s and 90 MB), has no
dependencies and the most releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from airflow_openai_batch.engine.encoding import canonical

_PROMPTS = ("instructions", "input", "messages", "prompt")
_FORMATS = ("tools", "text", "response_format")
"""Parameters that the model reads as JSON: tools, and the schema that the answer has to follow."""

_LABELS = frozenset({"role", "type", "id", "detail", "call_id"})
_TOKENS_A_MESSAGE = 4
"""OpenAI's cookbook: three tokens around each message, and one for its role."""

_ANSWERLESS = frozenset({"/v1/embeddings", "/v1/moderations"})
_BOUNDS = ("max_output_tokens", "max_completion_tokens", "max_tokens")
"""Parameters of Responses, of Chat Completions, and its older one, which Completions has too."""


def token_counter() -> Callable[[Any], int]:
    """Return a function that counts the input tokens of a request's body.

    The vocabulary takes some 50 MB of memory for as long as the function is kept.
    """
    import splintr

    encode = splintr.Tokenizer.from_pretrained("o200k_base").encode_ordinary

    def count(body: Any) -> int:
        texts = list(_texts(body))
        n_messages = sum(len(value) for name in ("input", "messages") if isinstance(value := body.get(name), list))
        return sum(len(encode(text)) for text in texts) + _TOKENS_A_MESSAGE * n_messages

    return count


def _texts(body: Any) -> Iterator[str]:
    for name in _PROMPTS:
        yield from _strings(body.get(name))
    for name in _FORMATS:
        if (value := body.get(name)) is not None:
            yield canonical(value).decode()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if not value.startswith("data:"):  # a picture: its tokens have nothing to do with its bytes
            yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, dict):
        for name, entry in value.items():
            if name not in _LABELS:
                yield from _strings(entry)


def most_output_tokens(body: Any, endpoint: str) -> int | None:
    """Return how many tokens the answer to a request may have at most; None if the body sets no bound.

    Args:
        body: The body of the request.
        endpoint: The endpoint of the job.
    """
    if endpoint in _ANSWERLESS:
        return 0
    bound = next((value for name in _BOUNDS if isinstance(value := body.get(name), int)), None)
    if bound is None:
        return None
    n = body.get("n")
    return bound * (n if isinstance(n, int) and n > 0 else 1)


def body_of(line: bytes) -> Any:
    """Return the body of a request line."""
    return msgspec.json.decode(line, type=_Line).body


class _Line(msgspec.Struct):
    body: dict[str, Any]
