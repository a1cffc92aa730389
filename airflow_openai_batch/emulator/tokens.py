"""Estimated token counts: four bytes of text are one token. Deterministic, not what a model would count."""

from __future__ import annotations

from typing import Any

from airflow_openai_batch.emulator.model import JsonObject

_PROMPT_KEYS = ("instructions", "messages", "input", "prompt")
_LABELS = frozenset({"role", "type", "id", "detail"})


def estimate(text: str) -> int:
    """Return the estimated tokens of a text, at least one."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4 or 1


def prompt_texts(body: JsonObject) -> list[str]:
    """Return the texts of a request in order, for any endpoint."""
    texts: list[str] = []
    for key in _PROMPT_KEYS:
        value = body.get(key)
        if isinstance(value, str):
            texts.append(value)
        elif value is not None:
            _collect(value, texts)
    return texts


def prompt_tokens(body: JsonObject) -> int:
    """Return the estimated input tokens of a request."""
    return estimate("".join(prompt_texts(body)))


def input_items(value: Any) -> list[Any]:
    """Return the separate inputs in `input` or `prompt`.

    OpenAI: a list of texts or of token lists holds several inputs, a text or a list of token numbers is one.
    """
    is_single = not isinstance(value, list) or (bool(value) and isinstance(value[0], int))
    return [value] if is_single else value


def _collect(value: object, texts: list[str]) -> None:
    if isinstance(value, str):
        if not value.startswith("data:"):  # an image is not text; its size in base64 says nothing about tokens
            texts.append(value)
    elif isinstance(value, list):
        for item in value:
            _collect(item, texts)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _LABELS:
                _collect(item, texts)
