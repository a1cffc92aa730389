"""What is estimated before anything is sent is what is billed, in any language, where OpenAI counts in its own way.

The emulator bills what another tokenizer counts, with the tokens around messages as OpenAI's cookbook tells them.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import quicktok

from airflow_openai_batch.emulator.answers import Raw
from airflow_openai_batch.engine.model import Policy
from airflow_openai_batch.engine.money.estimate import estimate_of
from airflow_openai_batch.engine.money.prices import Prices

N_ROWS = 300
N_BYTES = 4000
"""Of a row, so that only a part of the rows is counted."""
RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"

ENGLISH = (
    "the customer writes that an invoice was paid twice and asks for money back because her order has not arrived yet "
    "support answers tomorrow morning thanks for your patience the request is being worked on see the contract below"
)
RUSSIAN = (
    "клиент пишет что счёт оплачен дважды и просит вернуть деньги на карту потому что заказ ещё не доставлен служба "
    "поддержки отвечает завтра утром спасибо за терпение ваше обращение принято в работу номер договора указан ниже"
)
CHINESE = (
    "客户 写道 发票 已经 支付 两次 希望 尽快 退款 因为 订单 还 没有 送到 客服 明天 上午 回复 感谢 您的 耐心 "
    "请求 已 受理 合同 编号 见 下文 我们 会 认真 处理 每 一个 问题"
)


def words(of: str, between: str) -> Callable[[random.Random], str]:
    def text(rng: random.Random) -> str:
        return "".join(
            between.join(rng.choices(of.split(), k=rng.randint(8, 14))) + rng.choice((".", "?", "\n")) for _ in "1234"
        )

    return text


def record(rng: random.Random) -> str:
    fields = {
        name: rng.choice((rng.randint(0, 10**6), rng.random(), True, None, name)) for name in ("id", "price", "sku")
    }
    return json.dumps(
        {"order": fields, "tags": rng.sample(["new", "paid", "late", "vip"], 2)}, indent=rng.choice((None, 2))
    )


SOURCE = inspect.getsource(argparse).split("\n")


def code(rng: random.Random) -> str:
    start = rng.randrange(len(SOURCE) - 40)
    return textwrap.dedent("\n".join(SOURCE[start : start + 30]))


def digits(rng: random.Random) -> str:
    return ", ".join(str(rng.randint(0, 10 ** rng.randint(1, 12))) for _ in range(40))


TEXTS: dict[str, Callable[[random.Random], str]] = {
    "English": words(ENGLISH, " "),
    "Chinese": words(CHINESE, ""),
    "Russian": words(RUSSIAN, " "),
    "JSON": record,
    "code": code,
    "digits": digits,
}


def rows(kind: str, n: int = N_ROWS) -> list[dict[str, Any]]:
    rng = random.Random(kind)

    def text() -> str:
        size, parts, found = rng.randint(N_BYTES // 2, N_BYTES * 3 // 2), [], 0
        while found < size:
            parts.append(TEXTS[kind](rng))
            found += len(parts[-1].encode())
        return "\n".join(parts)

    return [{"id": i, "text": text()} for i in range(n)]


def billing(encoding: str) -> Callable[[str, dict[str, Any]], Raw]:
    """Answer each request, and bill its input by a tokenizer of its own."""
    count = quicktok.get_encoding(encoding).count

    def answer(endpoint: str, body: dict[str, Any]) -> Raw:
        if endpoint == EMBEDDINGS:
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            return Raw(
                {
                    "object": "list",
                    "model": body["model"],
                    "data": data,
                    "usage": {"prompt_tokens": count(body["input"])},
                }
            )
        if endpoint == CHAT:
            n = sum(3 + count(message["role"]) + count(message["content"]) for message in body["messages"]) + 3
            choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}]
            return Raw(
                {"model": body["model"], "choices": choices, "usage": {"prompt_tokens": n, "completion_tokens": 1}}
            )
        n = 3 + count("developer") + count(body["instructions"]) + 3 + count("user") + count(body["input"]) + 3
        output = [{"type": "message", "content": [{"type": "output_text", "text": "fine"}]}]
        usage = {"input_tokens": n, "output_tokens": 1}
        return Raw({"model": body["model"], "status": "completed", "output": output, "usage": usage})

    return answer


BODIES: dict[str, dict[str, Any]] = {
    RESPONSES: {"model": "gpt-6-luna", "instructions": "Name the language.", "input": "{text}", "max_output_tokens": 9},
    CHAT: {
        "model": "gpt-6-luna",
        "messages": [{"role": "system", "content": "Name the language."}, {"role": "user", "content": "{text}"}],
        "max_completion_tokens": 9,
    },
    EMBEDDINGS: {"model": "text-embedding-3-small", "input": "{text}"},
}


@pytest.mark.parametrize(
    ("kind", "endpoint"), [*((kind, RESPONSES) for kind in TEXTS), ("Russian", CHAT), ("Chinese", EMBEDDINGS)]
)
def test_the_estimate_is_within_three_percent_of_the_invoice(world, kind: str, endpoint: str) -> None:
    w = world(answer=billing("cl100k_base" if endpoint == EMBEDDINGS else "o200k_base"))
    job = w.submit(rows(kind), endpoint=endpoint, body=BODIES[endpoint])
    assert job.measure is not None and job.measure.n_sampled < N_ROWS // 2
    estimate = estimate_of(job, Prices())
    assert w.done().n_succeeded == N_ROWS
    billed = sum(row.input_tokens for row in w.emu.ledger.rows())
    assert estimate.input_tokens == pytest.approx(billed, rel=0.03)
    invoice = w.emu.ledger.invoice().picodollars
    assert invoice == estimate_of(w.job, Prices()).spent_picodollars
    assert estimate.upper_picodollars is not None and estimate.upper_picodollars >= 0.97 * invoice


def test_rows_of_all_languages_one_after_the_other_are_cut_so_that_none_is_over_the_limit(world) -> None:
    """The most tokens a byte come last, and a shard of those has fewer rows."""
    w = world(answer=billing("o200k_base"))
    data = [row for kind in ("English", "code", "Russian", "digits") for row in rows(kind, 150)]
    data = [{"id": i, "text": row["text"]} for i, row in enumerate(data)]
    limit = 100_000
    w.submit(data, body=BODIES[RESPONSES], policy=Policy(max_enqueued_tokens=limit))
    assert w.done().n_succeeded == len(data)
    billed = {batch.id: sum(row.input_tokens for row in w.emu.ledger.rows(batch.id)) for batch in w.batches}
    assert w.job.measure is not None and w.job.measure.n_sampled < 0.9 * len(data)
    assert max(billed.values()) <= limit
    *full, _ = (billed[batch.id] for batch in w.batches)
    assert min(full) > 0.85 * limit


def test_the_jobs_own_answers_correct_the_estimate(world) -> None:
    """What OpenAI adds, or counts in another way, is not in what we count; what was billed tells."""
    count = billing("o200k_base")

    def answer(endpoint: str, body: dict[str, Any]) -> Raw:
        reply = count(endpoint, body)
        reply.body["usage"]["input_tokens"] *= 2
        return reply

    w = world(answer=answer)
    job = w.submit(rows("English", 90), body=BODIES[RESPONSES], per_shard=30, policy=Policy(pilot_rows=30))
    before = estimate_of(job, Prices())
    while sum(shard.outcomes is not None for shard in w.job.shards) < 1:
        w.clock.advance(600)
        w.advance()
    after = estimate_of(w.job, Prices())
    assert w.done().n_succeeded == 90
    by_shard = [sum(row.input_tokens for row in w.emu.ledger.rows(batch.id)) for batch in w.batches]
    assert after.input_tokens == pytest.approx(sum(by_shard[1:]), rel=0.03)
    assert before.input_tokens < 0.7 * sum(by_shard)
