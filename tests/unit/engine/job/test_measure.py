"""What a job's requests are like is known when it is planned, and a cap needs it."""

from __future__ import annotations

import logging
import sys

import builders as make
import msgspec
import pytest
from builders import World

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Job, Measure, Policy
from airflow_openai_batch.engine.money.dollars import PICODOLLARS
from airflow_openai_batch.engine.money.estimate import estimate_of
from airflow_openai_batch.engine.money.prices import Prices

BODY = {"model": "gpt-6-luna", "input": "{text}", "max_output_tokens": 100}


def estimates(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith(("Estimate", "Nothing has"))]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        # 10 input tokens a row at $0.0625 a million, should they be written to the cache, and 100 of output at $0.25.
        (BODY, "Estimate: about 200 input tokens, at most $0.00051."),
        (
            {**BODY, "model": "mine"},
            "Estimate: about 200 input tokens, the price of 'mine' is not known. Give it (`prices`).",
        ),
        (
            {"model": "gpt-6-luna", "input": "{text}"},
            "Estimate: about 200 input tokens, the body sets no bound of the answers. Set max_output_tokens in it.",
        ),
    ],
)
def test_the_plan_tells_what_it_will_cost(world: World, caplog, body: dict, line: str) -> None:
    caplog.set_level(logging.INFO)
    world.submit(20, body=body)
    assert estimates(caplog) == [line]


def test_a_plan_in_which_answers_may_be_used_again_says_so(world: World, caplog) -> None:
    world.ended(data=20, body=BODY)
    caplog.set_level(logging.INFO)
    world.submit(25, body=BODY)
    assert estimates(caplog)[-1].endswith(", less what answers that are used again save.")


def test_a_plan_of_nothing_says_so(world: World, caplog) -> None:
    caplog.set_level(logging.INFO)
    world.submit([{"id": "a", "text": None}], body=BODY, on_null="skip")
    assert estimates(caplog) == ["Nothing has to be sent."]


def test_every_job_is_measured_and_not_only_one_with_a_cap(world: World) -> None:
    job = world.submit(20, body=BODY)
    assert job.measure == Measure(max_output_tokens=100, n_sampled=20)
    assert job.shards[0].n_tokens == 200


def test_without_the_tokenizer_the_job_goes_on_and_says_so_once(world: World, caplog, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "splintr", None)
    job = world.submit(20, body=BODY, policy=Policy(max_cost=PICODOLLARS))
    assert [r.message for r in caplog.records if "Tokens cannot be counted" in r.message] != []
    assert sum("Tokens cannot be counted" in r.message for r in caplog.records) == 1
    assert job.shards[0].n_tokens > 0
    assert estimate_of(job, Prices()).upper_picodollars is not None
    world.ends_well(20)


def stored_before(world: World, job: Job) -> None:
    """Store a job as versions did that counted no tokens."""
    shards = tuple(msgspec.structs.replace(shard, n_tokens=shard.n_bytes // 4) for shard in job.shards)
    before = msgspec.structs.replace(job, measure=None, shards=shards)
    world.store.commit(world.number + 1, before, world.clock())


def test_a_job_of_an_earlier_version_is_measured_when_it_gets_a_cap(world: World) -> None:
    stored_before(world, world.submit(20, body=BODY))
    assert world.submit(20, body=BODY).measure is None
    job = world.submit(20, body=BODY, policy=Policy(max_cost=PICODOLLARS))
    assert job.measure is not None and (job.measure.max_output_tokens, job.measure.n_sampled) == (100, 20)
    assert estimate_of(job, Prices()).input_tokens == 200


def test_a_cap_that_is_added_later_needs_a_bound_too(world: World) -> None:
    body = {"model": "gpt-6-luna", "input": "{text}"}
    world.submit(20, body=body)
    with pytest.raises(InputError, match="max_cost needs a bound"):
        world.submit(20, body=body, policy=Policy(max_cost=PICODOLLARS))
    assert world.job.policy.max_cost is None
    assert world.job.key == make.KEY
