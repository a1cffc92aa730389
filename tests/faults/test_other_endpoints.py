"""Endpoints that only a compatible server has: refused, unless the user says that they are there."""

from __future__ import annotations

import pytest

from airflow_openai_batch.emulator import HttpError, Limits, Raw
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Policy

RERANK = "/v1/rerank"
BODY = {"model": "ranker", "query": "night trains", "documents": ["{text}"]}
SERVER = Limits(other_endpoints=frozenset({RERANK}))


def test_they_are_refused_with_the_setting_that_allows_them(world):
    w = world(limits=SERVER)
    with pytest.raises(InputError, match=r'Unknown endpoint \'/v1/rerank\'.*"batch_endpoints": \["/v1/rerank"\]'):
        w.submit(3, endpoint=RERANK, body=BODY)
    assert w.emu.ledger.calls == []


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"model": "ranker", "results": [{"index": 0, "score": 0.9}]}, '{"model": "ranker", "results": [{"index'),
        ({"text": "hello", "model": 5, "usage": "none"}, '{"text": "hello"'),
        ({"status": "failed", "error": None}, '{"status": "failed"'),
    ],
    ids=["plain", "odd model and usage", "a status of its own"],
)
def test_answers_are_taken_as_they_are(world, body, shown):
    w = world(limits=SERVER, answer=lambda endpoint, _: Raw(body))
    w.submit(3, endpoint=RERANK, body=BODY, other_endpoints=[RERANK])
    assert w.done().by_status == {"succeeded": 3}
    assert all(row["output"].startswith(shown) for row in w.table())
    w.assert_paid_once(3)
    w.assert_accounted(3)


def test_tokens_and_errors_are_read_where_they_are_elsewhere(world):
    def answer(endpoint, body):
        return HttpError(400, "bad_query", "No.") if "ticket 1" in body["documents"][0] else "fine"

    w = world(limits=SERVER, answer=answer)
    policy = Policy(max_bad_ratio=1, prices={"ranker": {"input": 1, "output": 1}})
    w.submit(3, endpoint=RERANK, body=BODY, other_endpoints=[RERANK], policy=policy)
    summary = w.done()
    assert summary.by_status == {"succeeded": 2, "failed": 1}
    assert summary.cost.picodollars > 0 and summary.cost.n_unknown == 0
    assert {row["model"] for row in w.table()} == {"ranker", None}


def test_they_need_no_model(world):
    w = world(limits=SERVER)
    w.submit(3, endpoint=RERANK, body={"query": "{text}"}, other_endpoints=[RERANK])
    assert w.done().by_status == {"succeeded": 3}
