"""The parameters of requests that the SDK knows, to find those that are misspelt or belong to another endpoint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache

_PARAMS = {
    "/v1/responses": ("openai.types.responses.response_create_params", "ResponseCreateParamsBase"),
    "/v1/chat/completions": ("openai.types.chat.completion_create_params", "CompletionCreateParamsBase"),
    "/v1/embeddings": ("openai.types.embedding_create_params", "EmbeddingCreateParams"),
    "/v1/completions": ("openai.types.completion_create_params", "CompletionCreateParamsBase"),
    "/v1/moderations": ("openai.types.moderation_create_params", "ModerationCreateParams"),
}
"""Where the SDK has the parameters of an endpoint: typed dicts, generated from OpenAI's specification."""


@lru_cache
def _known(endpoint: str) -> frozenset[str]:
    """Return the parameters of an endpoint; none if nothing tells them."""
    from importlib import import_module

    module, name = _PARAMS[endpoint]
    try:
        return frozenset({*getattr(import_module(module), name).__annotations__, "stream"})
    except (ImportError, AttributeError):  # another version of the SDK may have them elsewhere
        return frozenset()


def doubtful_parameters(names: Iterable[str], endpoint: str, host: str) -> list[str]:
    """Return the parameters of a request that are most likely a mistake, with what was meant, one text each.

    A parameter may be newer than the SDK, so that this is for a warning. Servers other than OpenAI's have parameters of
    their own: there it takes a name that resembles another, or that another endpoint has.

    Args:
        names: The names of the parameters.
        endpoint: The endpoint. Of one that the SDK has no parameters for, nothing is wrong.
        host: The host that will be asked.
    """
    known = _known(endpoint) if endpoint in _PARAMS else frozenset[str]()
    if not known:
        return []
    hints = {name: _hint(name, endpoint, known) for name in sorted(set(names) - known)}
    return [f"{name!r}{hint}" for name, hint in hints.items() if hint or _OPENAIS_HOST.fullmatch(host)]


_OPENAIS_HOST = re.compile(r"(\w+\.)?api\.openai\.com")


def _hint(name: str, endpoint: str, known: frozenset[str]) -> str:
    if near := difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85):
        return f" (did you mean {near[0]!r}?)"
    others = [other for other in _PARAMS if other != endpoint and name in _known(other)]
    return f" (it belongs to {' and '.join(others)})" if others else ""
