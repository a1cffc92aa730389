"""What a job says it cost is what the emulator, which reckons by itself, puts on its invoice: to the picodollar."""

from __future__ import annotations

import decimal
import random

import pyarrow.parquet as pq
import pytest
from upath import UPath

from airflow_openai_batch.emulator.answers import HttpError, LineError, Raw, Vectors
from airflow_openai_batch.engine.model import Policy, Status
from airflow_openai_batch.engine.results.sinks import FileSink
from airflow_openai_batch.engine.results.writer import manifest, write_results

PICODOLLARS = 10**12
RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}},
    "required": ["label"],
    "additionalProperties": False,
}
MODELS = {
    RESPONSES: [
        "gpt-6-luna",
        "gpt-6-luna-2026-10-01",
        "gpt-5.6-sol",
        "gpt-5.4-mini",
        "ft:gpt-4.1-mini-2025-04-14:a::b",
    ],
    CHAT: ["gpt-6-sol", "gpt-4o", "gpt-5-2025-08-07", "o4-mini", "gpt-4o-2024-05-13"],
    EMBEDDINGS: ["text-embedding-3-small", "text-embedding-3-large"],
}
BODIES = {
    RESPONSES: {"input": "{text}"},
    CHAT: {"messages": [{"role": "user", "content": "{text}"}]},
    EMBEDDINGS: {"input": "{text}"},
}


def random_usage(rng: random.Random) -> dict[str, int]:
    total = rng.choice([rng.randrange(1, 3000), rng.randrange(271_990, 272_010), 900_000])
    cached = rng.randrange(total) if rng.random() < 0.5 else 0
    written = rng.randrange(total - cached) if rng.random() < 0.5 else 0
    output = rng.randrange(1, 5000)
    return {"input": total, "cached": cached, "written": written, "output": output, "reasoning": rng.randrange(output)}


def responses_body(model: str, text: str, kind: str, usage: dict[str, int]) -> dict[str, object]:
    part = {"type": "refusal", "refusal": "No."} if kind == "refused" else {"type": "output_text", "text": text}
    is_cut = kind == "truncated"
    return {
        "model": model,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": [{"type": "message", "content": [part]}],
        "usage": {
            "input_tokens": usage["input"],
            "input_tokens_details": {"cached_tokens": usage["cached"], "cache_write_tokens": usage["written"]},
            "output_tokens": usage["output"],
            "output_tokens_details": {"reasoning_tokens": usage["reasoning"]},
        },
    }


def chat_body(model: str, text: str, kind: str, usage: dict[str, int]) -> dict[str, object]:
    message = {"content": None, "refusal": "No."} if kind == "refused" else {"content": text, "refusal": None}
    return {
        "model": model,
        "choices": [{"message": message, "finish_reason": "length" if kind == "truncated" else "stop"}],
        "usage": {
            "prompt_tokens": usage["input"],
            "prompt_tokens_details": {"cached_tokens": usage["cached"], "cache_write_tokens": usage["written"]},
            "completion_tokens": usage["output"],
            "completion_tokens_details": {"reasoning_tokens": usage["reasoning"]},
        },
    }


def answerer(rng: random.Random):
    """Answer in every way that OpenAI may, with any usage."""

    def answer(endpoint, body):
        kind = rng.choice(["good"] * 4 + ["refused", "truncated", "invalid", "failed", "limited", "unanswered"])
        if kind == "failed":
            return HttpError(400, "invalid_value", "Bad.")
        if kind == "limited":
            return HttpError(429, "rate_limit_exceeded", "Later.")
        if kind == "unanswered":
            return LineError("server_error", "Later.")
        if endpoint == EMBEDDINGS:
            return Vectors([[rng.random() for _ in range(3)]])
        text = "no JSON" if kind == "invalid" else '{"label": "x"}'
        make = responses_body if endpoint == RESPONSES else chat_body
        return Raw(make(body["model"], text, kind, random_usage(rng)))

    return answer


def lived(world, seed: int):
    """A job of one or more models that ends somehow."""
    rng = random.Random(seed)
    endpoint = rng.choice(list(BODIES))
    w = world(answer=answerer(rng), seed=seed)
    models = rng.sample(MODELS[endpoint], rng.randrange(1, 3))
    rows = [{"id": i, "text": f"ticket {i}", "model": rng.choice(models)} for i in range(rng.randrange(5, 40))]
    args = {"endpoint": endpoint, "body": {"model": "{model}", **BODIES[endpoint]}, "per_shard": rng.choice([None, 7])}
    if endpoint != EMBEDDINGS and rng.random() < 0.7:
        args["response_model"] = SCHEMA
    if rng.random() < 0.3:
        w.fault("batch", {"expire_at": 0.5}, times=1)
    retried = frozenset({Status.INVALID, Status.TRUNCATED} if rng.random() < 0.5 else ())
    w.submit(rows, policy=Policy(max_rounds=rng.randrange(3), retry_on=retried, max_bad_ratio=1.0), **args)
    return w, w.done()


@pytest.mark.parametrize("seed", range(40))
def test_the_cost_of_a_job_is_the_emulators_invoice(world, seed: int) -> None:
    w, summary = lived(world, seed)
    invoice = w.emu.ledger.invoice()
    assert invoice.picodollars > 0
    assert (summary.cost.picodollars, summary.cost.n_unknown) == invoice
    assert summary.cost.bad_picodollars <= summary.cost.picodollars
    assert (summary.cost.saved_picodollars > 0) == (invoice.picodollars > 0)  # batches cost half
    for shard in w.job.shards:
        of_batch = w.emu.ledger.invoice(shard.batch.id if shard.batch else "none")
        assert shard.cost.picodollars == of_batch.picodollars


@pytest.mark.parametrize("seed", range(8))
def test_what_earlier_epochs_cost_counts(world, seed: int) -> None:
    """Rows that changed are asked again; a person starts over; all of it is on the invoice, and in the job's sum."""
    rng = random.Random(seed)
    w = world(answer=answerer(rng), seed=seed)
    rows = [{"id": i, "text": f"ticket {i}"} for i in range(12)]
    for number in range(3):
        texts = [{**row, "text": rng.choice([row["text"], f"{row['text']} {number}"])} for row in rows]
        start_over = str(number) if rng.random() < 0.3 else None
        w.submit(texts, policy=Policy(max_bad_ratio=1.0), per_shard=5, start_over=start_over)
        if rng.random() < 0.7:
            summary = w.done()
    summary = w.done()
    assert w.job.epoch
    assert summary.cost.picodollars == w.emu.ledger.invoice().picodollars


def test_each_row_has_its_cost(world, tmp_path) -> None:
    """A row's cost is that of the answer which counts; rounds that came to nothing cost too, in the job's sum."""
    w, summary = lived(world, 5)
    write_results(w.store, w.job, FileSink(UPath(tmp_path / "out.parquet")))
    table = pq.read_table(tmp_path / "out.parquet")
    costs = dict(zip(table["custom_id"].to_pylist(), table["cost"].to_pylist(), strict=True))
    statuses = dict(zip(table["custom_id"].to_pylist(), table["status"].to_pylist(), strict=True))
    assert all(isinstance(cost, decimal.Decimal) for cost in costs.values())
    for custom_id, status in statuses.items():
        assert (costs[custom_id] > 0) == (status in ("succeeded", "invalid", "refused", "truncated")), custom_id
    total = sum(costs.values()) * PICODOLLARS
    assert 0 < total <= summary.cost.picodollars


def test_an_unknown_price_is_told_and_is_not_zero(world, tmp_path) -> None:
    w = world()
    w.submit(3, body={"model": "my-own-model", "input": "{text}"})
    summary = w.done()
    assert (summary.cost.picodollars, summary.cost.n_unknown) == (0, 3)
    written = write_results(w.store, w.job, FileSink(UPath(tmp_path / "out.parquet")))
    assert pq.read_table(tmp_path / "out.parquet")["cost"].null_count == 3
    told = manifest(written)
    assert (told["cost"], told["rows_without_price"]) == (None, 3)


def test_a_price_of_ones_own_counts(world) -> None:
    own = {"my-own-model": {"input": 1, "output": 2}}
    w = world()
    w.submit(3, body={"model": "my-own-model", "input": "{text}"}, policy=Policy(prices=own))
    summary = w.done()
    tokens = summary.usage
    assert summary.cost.picodollars == 10**6 * (tokens.input_tokens + 2 * tokens.output_tokens)
    assert summary.cost.n_unknown == 0
    assert summary.cost.saved_picodollars == 0  # what it costs synchronously is not known
