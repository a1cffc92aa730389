"""How many tokens a request has, and how many its answer may have at most. Offline.

OpenAI's current models count with the vocabulary o200k, its embedding models and those before gpt-4o with cl100k. Of
the tokenizers that have both offline, splintr-rs loads fastest and needs least memory, and has no dependencies;
`benchmarks/token_counts.py` compares them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from airflow_openai_batch.engine.encoding import canonical

_OLDER = re.compile(r"(ft:)?(gpt-4(?![.o\d])|gpt-3\.5|text-embedding-|davinci|babbage)")
"""Models that count with cl100k. From tiktoken's list of models, in `tiktoken/model.py`."""

_PROMPTS = ("instructions", "input", "messages", "prompt")
_FORMATS = ("tools", "text", "response_format")
"""Parameters that the model reads as JSON: tools, and the schema that the answer has to follow."""

_LABELS = frozenset({"role", "type", "id", "detail", "call_id"})

_MEDIA = frozenset({"image_url", "input_audio", "file_data", "file_id", "file_url", "encrypted_content"})
"""Keys of a part of the prompt under which there is a picture, a sound, a file or hidden reasoning, or where it is."""

_ELSEWHERE = ("previous_response_id", "conversation", "image", "images", "mask", "web_search_options")
"""Parameters that bring more into the prompt than the body holds."""

_OWN_TOOLS = frozenset({"function", "custom"})
"""Tools that the user runs. What the others find, at OpenAI, is input of the model too."""
_TOKENS_A_MESSAGE, _TOKENS_A_REPLY = 4, 3
"""OpenAI's cookbook, "How to count tokens with tiktoken": three tokens around each message and one for its role, and
three with which the reply begins."""

_ANSWERLESS = frozenset({"/v1/embeddings", "/v1/moderations"})
_COMPLETIONS = "/v1/completions"
_CHATLESS = _ANSWERLESS | {_COMPLETIONS}
_BOUNDS: Mapping[str, tuple[str, ...]] = {
    "/v1/responses": ("max_output_tokens",),
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    _COMPLETIONS: ("max_tokens",),
}
_ANY_BOUND = ("max_output_tokens", "max_completion_tokens", "max_tokens")
"""Of endpoints that OpenAI's Batch API does not have."""

_N_REMEMBERED, _LONGEST_REMEMBERED = 16, 100_000
"""Of how many texts the tokens are remembered, and how many characters these have at most: instructions, a schema."""

UNBOUNDED = -1
"""Stands for the bound of an answer that has none."""

_MOST = 2**40
"""No answer is longer, and sums of it stay exact."""


class TokenCounter:
    """Counts the input tokens of requests. A vocabulary takes some 30 MB of memory for as long as this is kept.

    Args:
        endpoint: The endpoint of the requests.

    Raises:
        ImportError: The tokenizer is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        import splintr  # noqa: F401 - its lack shows at once

        self._counters: dict[str, Callable[[str], int]] = {}
        self._is_chat = endpoint not in _CHATLESS

    def count(self, body: Any) -> int:
        """Return the input tokens of a request that its texts have; see ``has_uncounted_input``.

        Args:
            body: The request's body.
        """
        n_tokens = self._counter(body.get("model"))
        n = sum(map(n_tokens, _texts(body)))
        if self._is_chat:
            return n + _TOKENS_A_MESSAGE * _n_messages(body) + _TOKENS_A_REPLY
        return n + _n_numbers(body.get("input")) + _n_numbers(body.get("prompt"))

    def _counter(self, model: Any) -> Callable[[str], int]:
        """Return a function from a text to the number of its tokens. What all prompts begin with is counted once."""
        name = "cl100k_base" if isinstance(model, str) and _OLDER.match(model) else "o200k_base"
        if name not in self._counters:
            encode = load_encoder(name)
            remembered = lru_cache(_N_REMEMBERED)(lambda text: len(encode(text)))
            self._counters[name] = lambda text: (
                remembered(text) if len(text) <= _LONGEST_REMEMBERED else len(encode(text))
            )
        return self._counters[name]


def load_encoder(vocabulary: str) -> Callable[[str], list[int]]:
    """Return a function from a text to its tokens. Loading takes some tenths of a second.

    Args:
        vocabulary: Its name at OpenAI, for example ``o200k_base``.
    """
    import splintr

    encode: Callable[[str], list[int]] = splintr.Tokenizer.from_pretrained(vocabulary).encode_ordinary
    return encode


def _n_messages(body: Any) -> int:
    values = [body.get(name) for name in ("instructions", "input", "messages")]
    return sum(len(value) if isinstance(value, list) else 1 for value in values if value is not None)


def _n_numbers(value: Any) -> int:
    """Return the tokens of an input that is given as their numbers."""
    return sum(map(_n_numbers, value)) if isinstance(value, list) else isinstance(value, int)


def _texts(body: Any) -> Iterator[str]:
    for name in _PROMPTS:
        yield from _strings(body.get(name))
    for name in _FORMATS:
        if (value := body.get(name)) is not None:
            yield canonical(value).decode()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, dict):
        for name, entry in value.items():
            if name not in _LABELS and name not in _MEDIA:
                yield from _strings(entry)


def has_uncounted_input(body: Any) -> bool:
    """Return whether a request has input whose tokens nothing tells before it is sent.

    Pictures, sounds and files, stored prompts and conversations, and what tools of OpenAI's find.

    Args:
        body: The request's body.
    """
    prompt, tools = body.get("prompt"), body.get("tools")
    if isinstance(prompt, dict) or any(body.get(name) is not None for name in _ELSEWHERE):
        return True
    if isinstance(tools, list) and any(isinstance(t, dict) and t.get("type") not in _OWN_TOOLS for t in tools):
        return True
    return any(_has_media(body.get(name)) for name in _PROMPTS)


def _has_media(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_media, value))
    if not isinstance(value, dict):
        return False
    is_elsewhere = value.get("type") == "item_reference"
    return is_elsewhere or not _MEDIA.isdisjoint(value) or any(map(_has_media, value.values()))


def most_output_tokens(body: Any, endpoint: str) -> int | None:
    """Return how many tokens the answer to a request may have at most; None if the body sets no bound.

    Several choices (``n``), several prompts in one request of Completions, and its ``best_of``, which are all billed,
    count each as an answer.

    Args:
        body: The body of the request.
        endpoint: The endpoint of the job.
    """
    if endpoint in _ANSWERLESS:
        return 0
    bounds = [n for name in _BOUNDS.get(endpoint, _ANY_BOUND) if (n := _whole(body.get(name))) is not None]
    if not bounds or min(bounds) < 0:
        return None
    n_answers = max(1, _whole(body.get("n")) or 0)
    if endpoint == _COMPLETIONS:
        n_answers = max(n_answers, _whole(body.get("best_of")) or 0) * _n_prompts(body.get("prompt"))
    return min(max(bounds) * n_answers, _MOST)


def _whole(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():  # as a data frame has them
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _n_prompts(prompt: Any) -> int:
    is_one = not isinstance(prompt, list) or all(isinstance(entry, int) for entry in prompt)
    return 1 if is_one else len(prompt)


def bound_names(endpoint: str) -> tuple[str, ...]:
    """Return the parameters on which the bound of an answer depends.

    Args:
        endpoint: The endpoint of the job.
    """
    if endpoint in _ANSWERLESS:
        return ()
    more = ("n", "best_of", "prompt") if endpoint == _COMPLETIONS else ("n",)
    return _BOUNDS.get(endpoint, _ANY_BOUND) + more


def bound_of_json(body: bytes, endpoint: str) -> int:
    """Return what ``most_output_tokens`` says of a body in JSON, reading no more of it than that needs.

    Args:
        body: The body.
        endpoint: The endpoint of the job.
    """
    try:
        parameters = _decode_bounds(body)
    except (msgspec.DecodeError, UnicodeError):  # half a character, which OpenAI may accept
        return UNBOUNDED
    most = most_output_tokens(
        {name: getattr(parameters, name) for name in _BoundParameters.__struct_fields__}, endpoint
    )
    return UNBOUNDED if most is None else most


class _BoundParameters(msgspec.Struct):
    max_output_tokens: Any = None
    max_completion_tokens: Any = None
    max_tokens: Any = None
    n: Any = None
    best_of: Any = None
    prompt: Any = None


_decode_bounds = msgspec.json.Decoder(_BoundParameters).decode


def body_of(line: bytes) -> bytes:
    """Return the body of a request line, as JSON."""
    return bytes(msgspec.json.decode(line, type=_Line).body)


class _Line(msgspec.Struct):
    body: msgspec.Raw
