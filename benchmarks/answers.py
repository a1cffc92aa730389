"""The answers of OpenAI to the rows of the workload: output files and error files of batches."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import workload


def files(
    folder: Path, first: int, n: int, endpoint: str = workload.RESPONSES, *, is_shuffled: bool = False
) -> tuple[Path, Path]:
    """Return the output file and the error file of a batch that carried n rows from ordinal `first` on.

    Five in a thousand requests failed, in three ways; two in a thousand answers are cut off. Lines are out of order,
    as far as requests overtake each other, or in no order at all.
    """
    stem = f"answers-{workload.VERSION}-{endpoint.strip('/').replace('/', '-')}-{first}-{n}{'-shuffled' * is_shuffled}"
    output, error = folder / f"{stem}-output.jsonl", folder / f"{stem}-error.jsonl"
    if not output.exists() or not error.exists():
        lines = _answers(first, n, endpoint)
        if is_shuffled:
            random.Random(f"shuffle {first}").shuffle(lines)
        good = [line for is_good, line in lines if is_good]
        bad = [line for is_good, line in lines if not is_good]
        workload.kept(error, lambda path: _write_lines(path, bad))
        workload.kept(output, lambda path: _write_lines(path, good))
    return output, error


def _write_lines(path: Path, lines: list[str]) -> None:
    file: IO[str]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _answers(first: int, n: int, endpoint: str) -> list[tuple[bool, str]]:
    rng = random.Random(f"answers {endpoint} {first} {n}")
    phrases = workload.phrases()
    make = {workload.RESPONSES: _response, workload.CHAT: _completion}[endpoint]
    arrivals = sorted(range(n), key=lambda i: i + rng.uniform(0, 2000))
    return [_line(rng, first + i, lambda: make(rng, phrases)) for i in arrivals]


def _line(rng: random.Random, ordinal: int, make: Callable[[], dict[str, Any]]) -> tuple[bool, str]:
    entropy = f"{rng.getrandbits(128):032x}"
    line: dict[str, Any] = {
        "id": f"batch_req_{entropy}",
        "custom_id": workload.row_id(ordinal),
        "response": None,
        "error": None,
    }
    fate = rng.random()
    if fate < 0.001:
        line["error"] = {"code": "request_timeout", "message": "The request timed out."}
    elif fate < 0.005:
        status, code, kind = (
            (500, "server_error", "server_error") if fate < 0.003 else (400, None, "invalid_request_error")
        )
        error = {"message": "It could not be processed.", "type": kind, "param": None, "code": code}
        line["response"] = {"status_code": status, "request_id": entropy[::-1], "body": {"error": error}}
    else:
        line["response"] = {"status_code": 200, "request_id": entropy[::-1], "body": make()}
    is_good = line["response"] is not None and line["response"]["status_code"] == 200
    return is_good, json.dumps(line, ensure_ascii=False)


def _label(rng: random.Random, phrases: list[str]) -> str:
    return json.dumps(
        {
            "topic": rng.choice(workload.TOPICS),
            "is_urgent": rng.random() < 0.2,
            "confidence": round(rng.random(), 2),
            "summary": " ".join(rng.choices(phrases, k=2)).strip(),
        },
        ensure_ascii=False,
    )


def _response(rng: random.Random, phrases: list[str]) -> dict[str, Any]:
    text, is_cut = _label(rng, phrases), rng.random() < 0.002
    spent, earned = rng.randint(350, 700), rng.randint(30, 80)
    content = {"type": "output_text", "annotations": [], "logprobs": [], "text": text[:40] if is_cut else text}
    message = {"id": f"msg_{rng.getrandbits(96):024x}", "type": "message", "status": "completed", "content": [content]}
    return {
        "id": f"resp_{rng.getrandbits(96):024x}",
        "object": "response",
        "created_at": 1_767_225_600 + rng.randrange(86_400),
        "status": "incomplete" if is_cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "max_output_tokens": 200,
        "model": f"{workload.MODEL}-2026-02-01",
        "output": [{**message, "role": "assistant"}],
        "parallel_tool_calls": True,
        "service_tier": "default",
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": spent,
            "input_tokens_details": {"cached_tokens": rng.choice((0, 128, 256))},
            "output_tokens": earned,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": spent + earned,
        },
    }


def _completion(rng: random.Random, phrases: list[str]) -> dict[str, Any]:
    text, is_cut = _label(rng, phrases), rng.random() < 0.002
    spent, earned = rng.randint(350, 700), rng.randint(30, 80)
    message = {"role": "assistant", "content": text[:40] if is_cut else text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length" if is_cut else "stop"}
    return {
        "id": f"chatcmpl-{rng.getrandbits(128):032x}",
        "object": "chat.completion",
        "created": 1_767_225_600 + rng.randrange(86_400),
        "model": f"{workload.MODEL}-2026-02-01",
        "choices": [choice],
        "usage": {
            "prompt_tokens": spent,
            "completion_tokens": earned,
            "total_tokens": spent + earned,
            "prompt_tokens_details": {"cached_tokens": rng.choice((0, 128, 256)), "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": f"fp_{rng.getrandbits(40):010x}",
    }
