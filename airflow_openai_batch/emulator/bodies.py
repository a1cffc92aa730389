"""The response body of each endpoint, built around a reply. OpenAI: the shapes and field names."""

from __future__ import annotations

import base64
import hashlib
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_openai_batch.emulator.answers import (
    Answered,
    ContentReply,
    Filtered,
    Fragmented,
    HttpError,
    LineReply,
    Raw,
    Refusal,
    Reply,
    Text,
    TextReply,
    Truncated,
    Vectors,
    as_reply,
)
from airflow_openai_batch.emulator.model import DAY_S, JsonObject
from airflow_openai_batch.emulator.tokens import estimate, input_items, prompt_tokens

_DIMENSIONS = {"text-embedding-3-large": 3072}
_MAX_EMBEDDING_INPUTS = 2_048  # OpenAI: per request
_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A request of a batch, with what its answer needs besides.

    Attributes:
        endpoint: The batch's endpoint.
        body: The request's body.
        hex_id: 32 hex digits, from which the ids in the answer are made.
        now: The time of the answer, in epoch seconds.
    """

    endpoint: str
    body: JsonObject
    hex_id: str
    now: int


def respond(request: BatchRequest, answered: Answered) -> LineReply:
    """Return a reply in the endpoint's body shape; replies that have no body are returned as they are."""
    reply: Reply = as_reply(answered)
    if isinstance(reply, LineReply):
        return reply
    if isinstance(reply, Filtered) and reply.of_prompt:
        return HttpError(
            400, "content_filter", "The prompt was refused by the content filter.", "invalid_request_error"
        )
    if request.endpoint == "/v1/embeddings":
        return _embeddings(request, reply)
    if not isinstance(request.body.get("n") or 1, int):
        return HttpError(400, "invalid_type", "Invalid type for 'n': expected an integer.", "invalid_request_error")
    return Raw(_SHAPES.get(request.endpoint, _other)(request, reply))


def reply_text(reply: ContentReply) -> str:
    """Return the text of a reply, empty if it has none."""
    return reply.text if isinstance(reply, TextReply) else ""


def _chat(request: BatchRequest, reply: ContentReply) -> JsonObject:
    text, body = reply_text(reply), request.body
    has_refused = isinstance(reply, Refusal)
    n = body.get("n") or 1
    choices: list[JsonObject] = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": None if has_refused else text,
                "refusal": text if has_refused else None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": _finish_reason(reply),
        }
        for index in range(n)
    ]
    return {
        "id": "chatcmpl-" + request.hex_id[:29],
        "object": "chat.completion",
        "created": request.now,
        "model": body.get("model"),
        "choices": choices,
        "usage": _completion_usage(body, text, n),
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _completions(request: BatchRequest, reply: ContentReply) -> JsonObject:
    text, prompt = reply_text(reply), request.body.get("prompt")
    n = (len(input_items(prompt)) or 1) * (request.body.get("n") or 1)
    choices = [
        {"index": index, "text": text, "logprobs": None, "finish_reason": _finish_reason(reply)} for index in range(n)
    ]
    return {
        "id": "cmpl-" + request.hex_id[:29],
        "object": "text_completion",
        "created": request.now,
        "model": request.body.get("model"),
        "choices": choices,
        "usage": _completion_usage(request.body, text, n),
    }


def _finish_reason(reply: ContentReply) -> str:
    if isinstance(reply, Text):
        return reply.finish_reason
    return {Truncated: "length", Filtered: "content_filter"}.get(type(reply), "stop")


def _completion_usage(body: JsonObject, text: str, n: int) -> JsonObject:
    input_tokens, output_tokens = prompt_tokens(body), n * (estimate(text) if text else 0)
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _responses(request: BatchRequest, reply: ContentReply) -> JsonObject:
    text, body = reply_text(reply), request.body
    reason = {Truncated: "max_output_tokens", Filtered: "content_filter"}.get(type(reply))
    if reason is None and isinstance(reply, Text):
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reply.finish_reason)
    status = "incomplete" if reason else "completed"
    input_tokens, output_tokens = prompt_tokens(body), estimate(text) if text else 0
    return {
        "id": "resp_" + request.hex_id,
        "object": "response",
        "created_at": request.now,
        "completed_at": None if reason else request.now,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body.get("model"),
        "output": _output_items(request.hex_id, reply, status),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "usage": {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens,
        },
        "metadata": body.get("metadata") or {},
    }


def _output_items(hex_id: str, reply: ContentReply, status: str) -> list[JsonObject]:
    """Return a reasoning item and the message. OpenAI: with reasoning models the message is not the first item."""
    text = reply_text(reply)
    texts = [text[: len(text) // 2], text] if isinstance(reply, Fragmented) else [text]
    items: list[JsonObject] = [{"id": "rs_" + hex_id, "type": "reasoning", "summary": []}]
    for number, part in enumerate(texts):
        content: JsonObject = {"type": "output_text", "annotations": [], "logprobs": [], "text": part}
        if isinstance(reply, Refusal):
            content = {"type": "refusal", "refusal": part}
        message = {"id": f"msg_{hex_id}{number}", "type": "message", "status": status, "role": "assistant"}
        items.append({**message, "content": [] if isinstance(reply, Filtered) else [content]})
    return items


def _embeddings(request: BatchRequest, reply: ContentReply) -> Raw | HttpError:
    body = request.body
    inputs = input_items(body["input"])
    if not 0 < len(inputs) <= _MAX_EMBEDDING_INPUTS:
        # Seen: a bad value in a body is that line's error, not the batch's (public tests that quote OpenAI).
        message = f"'input' must have between 1 and {_MAX_EMBEDDING_INPUTS} items."
        return HttpError(400, "invalid_value", message, "invalid_request_error")
    size = body.get("dimensions") or _DIMENSIONS.get(str(body.get("model")), 1536)
    vectors = reply.vectors if isinstance(reply, Vectors) else [unit_vector(repr(text), size) for text in inputs]
    if len(vectors) == 1 < len(inputs):
        vectors = [vectors[0]] * len(inputs)
    encode = _base64_floats if body.get("encoding_format") == "base64" else list
    input_tokens = prompt_tokens(body)
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)} for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
    return Raw({"object": "list", "data": data, "model": body.get("model"), "usage": usage})


def unit_vector(text: str, size: int) -> list[float]:
    """Return a vector of unit length with `size` components that depends on the text only."""
    raw = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(2 * size)
    numbers = [n - 32_767.5 for n in array("H", raw)]
    length = math.sqrt(math.fsum(n * n for n in numbers))
    return [n / length for n in numbers]


def _base64_floats(vector: Sequence[float]) -> str:
    floats = array("f", vector)
    if floats.itemsize != 4 or array("H", [1]).tobytes() != b"\1\0":  # OpenAI: little-endian float32
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


def _moderations(request: BatchRequest, reply: ContentReply) -> JsonObject:
    value = request.body["input"]
    n = len(value) if isinstance(value, list) and value and isinstance(value[0], str) else 1
    is_flagged = reply_text(reply) == "flagged"
    result = {
        "flagged": is_flagged,
        "categories": {name: is_flagged and name == "violence" for name in _CATEGORIES},
        "category_scores": {name: 0.97 if is_flagged and name == "violence" else 0.0001 for name in _CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    model = request.body.get("model") or "omni-moderation-latest"
    return {"id": "modr-" + request.hex_id[:29], "model": model, "results": [result] * n}


def _images(request: BatchRequest, reply: ContentReply) -> JsonObject:
    input_tokens, n = prompt_tokens(request.body), request.body.get("n") or 1
    image = {"b64_json": _PIXEL, "revised_prompt": reply_text(reply)}
    usage = {
        "input_tokens": input_tokens,
        "input_tokens_details": {"text_tokens": input_tokens, "image_tokens": 0},
        "output_tokens": 16 * n,
        "total_tokens": input_tokens + 16 * n,
    }
    return {"created": request.now, "data": [image] * n, "output_format": "png", "usage": usage}


def _videos(request: BatchRequest, reply: ContentReply) -> JsonObject:
    body = request.body
    has_failed = isinstance(reply, Refusal | Filtered)
    return {
        "id": "video_" + request.hex_id,
        "object": "video",
        "model": body.get("model") or "sora-2",
        "status": "failed" if has_failed else "completed",
        "progress": 0 if has_failed else 100,
        "created_at": request.now,
        "completed_at": None if has_failed else request.now,
        # OpenAI: videos can be downloaded for a day after the batch.
        "expires_at": request.now + int(DAY_S),
        "prompt": body.get("prompt"),
        "seconds": str(body.get("seconds") or "4"),
        "size": body.get("size") or "720x1280",
        "remixed_from_video_id": None,
        "error": {"code": "moderation_blocked", "message": "The request was blocked."} if has_failed else None,
    }


def _other(request: BatchRequest, reply: ContentReply) -> JsonObject:
    text = reply_text(reply)
    usage = _completion_usage(request.body, text, 1)
    return {"model": request.body.get("model"), "output": text, "usage": usage}


_SHAPES: dict[str, Callable[[BatchRequest, Any], JsonObject]] = {
    "/v1/responses": _responses,
    "/v1/chat/completions": _chat,
    "/v1/completions": _completions,
    "/v1/moderations": _moderations,
    "/v1/images/generations": _images,
    "/v1/images/edits": _images,
    "/v1/videos": _videos,
}
