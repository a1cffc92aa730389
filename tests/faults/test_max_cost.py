"""A cap on what a job may cost holds: what is sent is counted before it is sent, and raising it goes on."""

from __future__ import annotations

import random

import pytest

from airflow_openai_batch.emulator.answers import Raw
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.status import Held
from airflow_openai_batch.engine.model import Policy, Status

BODY = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 1000}
N_ROWS, PER_SHARD = 200, 25
PICODOLLARS = 10**12
MOST = PER_SHARD * 1000 * 250_000
"""What a batch's answers may cost at most: 1,000 tokens each at $0.25 a million."""


def answering(n_tokens: int):
    """Answer each row with so many tokens."""

    def answer(endpoint, body):
        return Raw(
            {
                "model": body["model"],
                "status": "completed",
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "fine"}]}],
                "usage": {"input_tokens": 10, "output_tokens": n_tokens},
            }
        )

    return answer


def test_nothing_is_sent_that_does_not_fit_and_raising_the_cap_goes_on(world) -> None:
    w = world(answer=answering(1000))
    cap = 3 * MOST + MOST // 2
    w.submit(N_ROWS, body=BODY, per_shard=PER_SHARD, policy=Policy(max_cost=cap))
    reason = w.held()
    invoice = w.emu.ledger.invoice().picodollars
    assert 2 * MOST < invoice <= cap
    assert len(w.batches) == 3
    assert (
        "max_cost is $0.022: $0.019 are spent, what runs costs about $0.00, and the next batch (25 requests" in reason
    )
    assert "Raise max_cost and clear the submitting task" in reason
    w.submit(N_ROWS, body=BODY, per_shard=PER_SHARD, policy=Policy(max_cost=20 * MOST))
    summary = w.done()
    assert summary.n_succeeded == N_ROWS
    w.assert_paid_once(N_ROWS)


def test_answers_that_are_shorter_than_the_bound_make_room_for_more(world) -> None:
    """The bound of the body counts until the job's own answers tell how long they are."""
    w = world(answer=answering(100))
    w.submit(N_ROWS, body=BODY, per_shard=PER_SHARD, policy=Policy(max_cost=MOST + MOST // 2))
    assert w.done().n_succeeded == N_ROWS
    assert len(w.batches) == N_ROWS // PER_SHARD
    w.assert_paid_once(N_ROWS)


def test_a_cap_below_the_first_batch_costs_nothing(world) -> None:
    w = world()
    w.submit(N_ROWS, body=BODY, per_shard=PER_SHARD, policy=Policy(max_cost=MOST // 2))
    found = w.advance()
    assert isinstance(found, Held)
    assert "$0.00 are spent" in found.reason
    assert not w.batches
    assert w.n_calls("POST", "/v1/files") == 0


def test_what_other_rounds_cost_counts(world) -> None:
    """Rows that are asked again must fit too."""
    w = world(answer=answering(1000))
    w.fault("batch", {"expire_at": 0.5}, times=1)
    w.submit(PER_SHARD, body=BODY, policy=Policy(max_cost=MOST * 11 // 10, max_rounds=2))
    assert w.done().n_succeeded == PER_SHARD  # half, and then the other half


def test_a_round_that_does_not_fit_any_more_is_not_sent(world) -> None:
    """Answers that do not follow the schema were billed, and asking again costs as much."""
    w = world(answer=answering(1000))
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string"}},
        "required": ["label"],
        "additionalProperties": False,
    }
    policy = Policy(max_cost=MOST * 12 // 10, retry_on=frozenset({Status.INVALID}))
    w.submit(PER_SHARD, body=BODY, response_model=schema, policy=policy)
    assert "max_cost is $0.0075" in w.held()
    assert len(w.batches) == 1
    assert w.emu.ledger.invoice().picodollars <= MOST * 12 // 10


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            {"model": "my-own-model", "input": "{text}", "max_output_tokens": 9},
            "needs to know what 'my-own-model' costs",
        ),
        ({"model": "gpt-6-luna", "input": "{text}"}, "set max_output_tokens"),
    ],
)
def test_a_cap_that_could_not_be_kept_is_refused_before_anything_is_sent(world, body, problem) -> None:
    w = world()
    with pytest.raises(InputError, match=problem):
        w.submit(3, body=body, policy=Policy(max_cost=PICODOLLARS))
    assert w.store.load() is None
    assert w.emu.ledger.calls == []


@pytest.mark.parametrize("seed", range(20))
def test_the_cap_is_never_passed_by_more_than_what_ran(world, seed: int) -> None:
    """Answers of any length up to their bound, batches that expire, rounds, several workers' worth of advances."""
    rng = random.Random(seed)

    def answer(endpoint, body):
        return answering(rng.choice([1, 10, 400, 1000]))(endpoint, body)

    w = world(answer=answer, seed=seed)
    if rng.random() < 0.5:
        w.fault("batch", {"expire_at": 0.5}, times=rng.randrange(1, 4))
    cap = rng.randrange(MOST // 2, 9 * MOST)
    w.submit(N_ROWS, body=BODY, per_shard=rng.choice([10, 25, 60]), policy=Policy(max_cost=cap, max_rounds=2))
    at_once = 0
    for _ in range(200):
        found = w.advance()
        live = {batch.id for batch in w.emu.ledger.live_batches()}
        at_once = max(at_once, sum(s.n_requests for s in w.job.shards if s.batch is not None and s.batch.id in live))
        if not hasattr(found, "wake_at"):
            break
        w.clock.advance(900)
    most_of_those = at_once * 1100 * 250_000
    assert w.emu.ledger.invoice().picodollars <= cap + most_of_those
    assert w.emu.ledger.rows_billed_twice(only_delivered=True) == []
    if isinstance(found, Held):
        assert "max_cost" in found.reason
    else:
        assert found.summary.n_rows == N_ROWS
