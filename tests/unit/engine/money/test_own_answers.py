"""A job's own answers correct what was counted before it was sent."""

from __future__ import annotations

import builders as make
import pytest

from airflow_openai_batch.engine.model import CarriedAnswers, Measure, Policy, Shard, State, Status, Usage
from airflow_openai_batch.engine.money.own_answers import OwnAnswers


def settled(n: int = 25, counted: int = 100, billed: int = 150, model: str | None = "small", **tally: int) -> Shard:
    return make.shard(
        State.SETTLED,
        f"0-{n:05d}",
        n_rows=n,
        n_requests=n,
        n_tokens=counted,
        n_bytes=40 * n,
        model=model,
        tally={Status(status): rows for status, rows in (tally or {"succeeded": n}).items()},
        usage=Usage(input_tokens=billed, output_tokens=2 * n),
    )


WAITING = make.shard(State.PLANNED, "0-99999", n_tokens=60, n_bytes=400, model="small")


def told(*shards: Shard, **changes) -> int:
    return OwnAnswers(make.job(*shards, WAITING, **changes)).input_of(WAITING).input_tokens


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ((), 60),
        ((settled(),), 90),
        ((settled(19),), 60),  # too few
        ((settled(10), settled(15)), 90),
        ((settled(model="other"),), 60),
        ((settled(billed=0),), 60),  # a server that counts no tokens
        ((settled(40, counted=160, succeeded=25, failed=15),), 90),  # rows that failed were not billed
        ((settled(25, invalid=25),), 90),  # bad answers were
    ],
)
def test_enough_answers_of_the_model_correct_the_count(shards: tuple[Shard, ...], expected: int) -> None:
    assert told(*shards) == expected


def test_a_pilot_tells_with_as_many_answers_as_it_has() -> None:
    assert told(settled(5), policy=Policy(pilot_rows=5)) == 90


def test_answers_of_earlier_epochs_tell_nothing() -> None:
    assert told(earlier=(settled(),)) == 60


def test_nothing_tells_of_what_runs_of_an_earlier_epoch() -> None:
    """Its prompt is another one, whatever the answers of this epoch are like."""
    running = make.shard(State.RUNNING, "0-00007", n_tokens=60, model="small")
    own = OwnAnswers(make.job(settled(), WAITING, earlier=(running,)))
    assert own.input_of(running).input_tokens == 60
    assert own.for_shard(running) is None and own.for_shard(WAITING) is not None


def carrying(n: int, output: int, **changes) -> Shard:
    usage = Usage(input_tokens=10 * n, output_tokens=output * n)
    carried = CarriedAnswers(name="part", n_rows=n, row_index="", usage=usage, **changes.pop("carried", {}))
    return make.shard(State.SETTLED, "1-00000", n_rows=n, n_requests=0, model="small", carried=carried, **changes)


def test_answers_that_were_carried_over_tell_as_their_requests_are_the_same() -> None:
    answers = OwnAnswers(make.job(carrying(15, 7), settled(10), WAITING)).of("small")
    assert answers is not None and (answers.n, answers.n_asked) == (25, 10)
    assert answers.output_tokens == (15 * 7 + 20) / 25


def test_answers_of_other_jobs_tell_in_a_pilot_alone() -> None:
    reused = {"n_reused": 25}
    assert OwnAnswers(make.job(carrying(25, 7, carried=reused), WAITING)).of("small") is None
    pilot = OwnAnswers(make.job(carrying(25, 7, carried=reused, is_pilot=True), WAITING))
    answers = pilot.of("small")
    assert answers is not None and answers.output_tokens == 7
    assert pilot.input_of(WAITING).input_tokens == 60  # nothing was billed that could correct the count


def test_of_a_job_that_was_stored_before_its_shards_were_counted_bytes_tell() -> None:
    """A sample told its tokens a byte: 0.1 of 1,000 bytes are 100 tokens, and 150 were billed."""
    measure = Measure(tokens_per_byte=0.1, max_output_tokens=None)
    assert told(measure=measure) == 40
    assert told(settled(counted=9999), measure=measure) == 60
