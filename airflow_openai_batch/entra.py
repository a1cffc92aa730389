"""Signing in to Azure OpenAI with Microsoft Entra, for connections whose extra has ``azure_identity``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from airflow_openai_batch.engine.api.text import MAX_MESSAGE, clean
from airflow_openai_batch.engine.errors import Denied, InputError

EXTRA = "azure_identity"
"""Key of a connection's extra: ``default``, or the scope of the tokens."""

_SCOPE = "https://cognitiveservices.azure.com/.default"
"""Microsoft's documentation of Azure OpenAI; resources of Foundry also take ``https://ai.azure.com/.default``."""


def token_provider(extra: Mapping[str, Any]) -> Callable[[], str]:
    """Return what gets a token, of ``DefaultAzureCredential``, and keeps it until shortly before it expires.

    What it returns raises ``Denied`` if there is no token to be had. Not for an event loop: to get one takes seconds.

    Args:
        extra: The connection's extra, which asks for it.

    Raises:
        InputError: The value cannot be used, or ``azure-identity`` is not installed.
    """
    value = extra.get(EXTRA)
    if value != "default" and not (isinstance(value, str) and value.startswith("https://")):
        raise InputError(
            f'The connection\'s extra has "{EXTRA}": {value!r}. It is "default", or the scope of the tokens, for '
            "example https://ai.azure.com/.default. Nothing was sent."
        )
    try:
        from azure.identity import DefaultAzureCredential, get_bearer_token_provider
    except ImportError as error:
        raise InputError(
            f'The connection\'s extra has "{EXTRA}", and the package azure-identity cannot be imported ({error}): '
            "pip install azure-identity, or airflow-openai-batch[azure], for workers and triggerers. Nothing was sent."
        ) from None
    provider = get_bearer_token_provider(DefaultAzureCredential(), _SCOPE if value == "default" else value)

    def token() -> str:
        try:
            return str(provider())
        except Exception as error:  # each of the ways to sign in has its own errors
            raise Denied(f"Microsoft Entra gave no token: {clean(str(error), MAX_MESSAGE)}") from None

    return token


def async_token_provider(extra: Mapping[str, Any]) -> Callable[[], Awaitable[str]]:
    """Return the same for an asynchronous client: everything, the first import too, is done in threads.

    Args:
        extra: The connection's extra.
    """
    provider = functools.cache(lambda: token_provider(extra))

    def token() -> str:
        try:
            return provider()()
        except InputError as error:  # of a triggerer that lacks what the workers have
            raise Denied(str(error)) from None

    async def token_of_thread() -> str:
        return await asyncio.to_thread(token)

    return token_of_thread
