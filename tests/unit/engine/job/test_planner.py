from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import TIMING, batch, job, shard

from airflow_openai_batch.engine.job.planner import Watched, deadline_at, is_done, plan, wake
from airflow_openai_batch.engine.model import Commands, Job, Policy, Shard, State, Status, Usage

S = State
NOW = 1000.0
HARVEST_AFTER_S = 300.0
CANCEL = Commands(cancel=True)


def verbs(
    what: Job, now: float = NOW, commands: Commands | None = None, fresh: frozenset[str] = frozenset()
) -> list[Any]:
    return [(a.shard, a.verb) for a in plan(what, now, commands or Commands(), TIMING, fresh)]


def verb(of: Shard, **more: Any) -> str | None:
    found = verbs(job(of), **more)
    return found[0][1] if found else None


def running(name: str = "0-00000", status: str = "in_progress", **more: Any) -> Shard:
    return shard(S.RUNNING, name, batch=batch(status, f"b{name}"), **more)


@pytest.mark.parametrize("state", [s for s in State if s is not S.SETTLED])
def test_every_state_before_the_last_has_an_action(state: State) -> None:
    of = shard(state, batch=batch("in_progress") if state is S.RUNNING else None)
    assert verb(of) is not None
    waiting = shard(state, batch=of.batch, not_before=NOW + 5, n_looks=1)
    if state is S.ASKING:
        return  # without a moment of finish_by nothing is asked synchronously any more, and that waits for nothing
    assert verb(waiting) is None and verb(waiting, now=NOW + 5) is not None  # a wait has its end in the data


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (shard(S.DRAFTED), "carry"),
        (shard(S.PLANNED), "upload"),
        (shard(S.UPLOADED), "create"),
        (shard(S.CREATING, not_before=NOW + 60), "look"),
        (shard(S.CREATING, not_before=NOW + 60, n_looks=1), None),
        (running(), "refresh"),
        (shard(S.ENDED), "harvest"),
        (shard(S.REJECTED), "harvest"),
        (shard(S.SETTLED), None),
        (shard(S.SETTLED, retryable={Status.EXPIRED: 1}), "reshard"),
        (shard(S.SETTLED, retryable={Status.EXPIRED: 1}, child="0-00000.1"), None),
    ],
)
def test_what_is_done_next(of: Shard, expected: str | None) -> None:
    assert verb(of) == expected


@pytest.mark.parametrize(("shard_round", "max_rounds", "expected"), [(0, 0, None), (0, 1, "reshard"), (2, 2, None)])
def test_rounds_are_limited(shard_round: int, max_rounds: int, expected: str | None) -> None:
    of = shard(S.SETTLED, round=shard_round, retryable={Status.FAILED: 1})
    found = verbs(job(of, policy=Policy(max_rounds=max_rounds)))
    assert found == ([] if expected is None else [(of.id, expected)])
    assert is_done(job(of, policy=Policy(max_rounds=max_rounds)), Commands(), NOW, TIMING) is (expected is None)


def test_a_batch_that_was_looked_at_just_now_is_left_alone() -> None:
    assert verb(running(), fresh=frozenset({"0-00000"})) is None


# -- room in the queue -----------------------------------------------------------------------------------------------


def test_nothing_is_created_beyond_the_token_budget() -> None:
    shards = [running("0-00000", n_tokens=60), *(shard(S.UPLOADED, f"0-0000{i}", n_tokens=20) for i in range(1, 5))]
    found = verbs(job(*shards, policy=Policy(max_enqueued_tokens=100)), fresh=frozenset({"0-00000"}))
    assert found == [("0-00001", "create"), ("0-00002", "create")]


@pytest.mark.parametrize(("billed", "n_sent"), [(100, 4), (200, 2), (50, 8), (0, 4)])
def test_the_jobs_own_answers_tell_how_much_room_requests_need(billed: int, n_sent: int) -> None:
    """They were counted as 100 tokens before they were sent, and billed as more, or less. A server may not say."""
    answered = shard(
        S.SETTLED,
        "0-00000",
        n_rows=25,
        n_requests=25,
        n_tokens=100,
        tally={Status.SUCCEEDED: 25},
        usage=Usage(input_tokens=billed),
    )
    waiting = [shard(S.UPLOADED, f"0-{i:05d}", n_tokens=25) for i in range(1, 10)]
    found = verbs(job(answered, *waiting, policy=Policy(max_enqueued_tokens=100)))
    assert [verb for _, verb in found] == ["create"] * n_sent


def test_a_small_shard_does_not_overtake_a_large_one_for_ever() -> None:
    shards = [running(n_tokens=60), shard(S.UPLOADED, "0-00001", n_tokens=50), shard(S.UPLOADED, "0-00002", n_tokens=5)]
    assert ("0-00002", "create") not in verbs(job(*shards, policy=Policy(max_enqueued_tokens=100)))


def test_a_shard_larger_than_the_whole_budget_goes_alone() -> None:
    big, small = shard(S.UPLOADED, n_tokens=150), shard(S.UPLOADED, "0-00001", n_tokens=5)
    policy = Policy(max_enqueued_tokens=100)
    assert verbs(job(big, small, policy=policy)) == [(big.id, "create")]
    fresh = frozenset({"0-00002"})
    assert verbs(job(big, small, running("0-00002", n_tokens=1), policy=policy), fresh=fresh) == []


def test_what_may_have_been_created_counts_as_queued() -> None:
    shards = [shard(S.CREATING, n_tokens=90, n_looks=1, not_before=NOW + 9), shard(S.UPLOADED, "0-00001", n_tokens=20)]
    assert verbs(job(*shards, policy=Policy(max_enqueued_tokens=100))) == []


def test_earlier_epochs_take_room_too() -> None:
    what = job(
        shard(S.UPLOADED, "1-00000", n_tokens=20),
        earlier=(running(n_tokens=90, cancel_asked_at=1.0),),
        policy=Policy(max_enqueued_tokens=100),
    )
    assert ("1-00000", "create") not in verbs(what)


def waiting(name: str, not_before: float = 0.0) -> Shard:
    return shard(S.UPLOADED, name, n_waits=1, n_full=1, not_before=not_before)


def test_while_the_queue_is_full_nothing_is_created() -> None:
    what = job(waiting("0-00000", NOW + 30), shard(S.UPLOADED, "0-00001"), waiting("0-00002"))
    assert verbs(what) == []


def test_after_the_pause_one_batch_tries_the_door() -> None:
    what = job(waiting("0-00000"), shard(S.UPLOADED, "0-00001"), waiting("0-00002"))
    assert verbs(what) == [("0-00000", "create")]


def test_while_one_tries_the_door_the_others_wait() -> None:
    fresh = frozenset({"0-00000"})
    assert verbs(job(running(status="validating"), waiting("0-00001")), fresh=fresh) == []
    assert verbs(job(running(status="in_progress"), waiting("0-00001")), fresh=fresh) == [("0-00001", "create")]


def test_what_an_earlier_epoch_left_waiting_does_not_hold_up_the_new_one() -> None:
    shards = [shard(S.UPLOADED, f"1-0000{i}") for i in range(3)]
    assert verbs(job(*shards, earlier=(waiting("0-00000", NOW + 30),))) == [(s.id, "create") for s in shards]


def test_a_create_that_was_put_off_holds_up_no_other() -> None:
    put_off = shard(S.UPLOADED, "0-00000", n_waits=1, not_before=NOW + 30)
    what = job(put_off, shard(S.UPLOADED, "0-00001"), shard(S.UPLOADED, "0-00002"))
    assert verbs(what) == [("0-00001", "create"), ("0-00002", "create")]


def test_a_batch_of_before_that_never_ends_holds_the_new_epoch_up_for_an_hour_at_most() -> None:
    stuck = running(status="cancelling")
    stuck = msgspec.structs.replace(stuck, id="0-00000", cancel_asked_at=NOW)
    draft = shard(S.DRAFTED, "1-00000")
    what = job(draft, earlier=(stuck,))
    assert ("1-00000", "carry") not in verbs(what, now=NOW + TIMING.earlier_epoch_s - 1)
    assert ("1-00000", "carry") in verbs(what, now=NOW + TIMING.earlier_epoch_s)
    settled = job(shard(S.SETTLED, "1-00000", tally={Status.SUCCEEDED: 2}), earlier=(stuck,))
    assert not is_done(settled, Commands(), NOW + TIMING.earlier_epoch_s - 1, TIMING)
    assert is_done(settled, Commands(), NOW + TIMING.earlier_epoch_s, TIMING)


# -- commands, deadline, epochs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (shard(S.DRAFTED), "carry"),  # then the rest is called off
        (shard(S.PLANNED), "call_off"),
        (shard(S.UPLOADED), "call_off"),
        (shard(S.CREATING), "look"),
        (running(), "cancel"),
        (running(cancel_asked_at=1.0), "refresh"),
        (shard(S.ENDED), "harvest"),
        (shard(S.SETTLED, retryable={Status.CANCELLED: 2}), None),
    ],
)
def test_a_command_to_cancel_is_obeyed_in_every_state(of: Shard, expected: str | None) -> None:
    assert verb(of, commands=CANCEL) == expected


def test_a_cancelled_job_is_done_though_rows_could_be_asked_again() -> None:
    what = job(shard(S.SETTLED, retryable={Status.CANCELLED: 2}))
    assert (is_done(what, CANCEL, NOW, TIMING), is_done(what, Commands(), NOW, TIMING)) == (True, False)


def test_after_the_deadline_nothing_new_is_sent_but_what_is_paid_for_is_fetched() -> None:
    shards = [
        shard(S.PLANNED, "0-00000"),
        shard(S.UPLOADED, "0-00001"),
        shard(S.ENDED, "0-00002"),
        shard(S.SETTLED, "0-00003", retryable={Status.FAILED: 1}),
        running("0-00004"),
    ]
    found = verbs(job(*shards, policy=Policy(deadline_s=10.0)))
    assert found == [("0-00002", "harvest"), ("0-00004", "refresh")]


def test_the_deadline_is_no_earlier_than_a_running_batchs_own_end() -> None:
    end = NOW + 86_400
    of = shard(S.RUNNING, batch=batch("in_progress", expires_at=end))
    assert deadline_at(job(of, policy=Policy(deadline_s=10.0)), TIMING) == end + TIMING.expiry_margin_s
    assert deadline_at(job(of, policy=Policy(deadline_s=1e9)), TIMING) == 1e9
    assert deadline_at(job(shard(S.ENDED, batch=of.batch), policy=Policy(deadline_s=10.0)), TIMING) == 10.0


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (shard(S.CREATING), "look"),
        (running(), "cancel"),
        (running(cancel_asked_at=1.0), "refresh"),
        (shard(S.ENDED), "harvest"),
        (shard(S.REJECTED), "harvest"),
    ],
)
def test_answers_are_carried_only_after_earlier_epochs_came_to_rest(of: Shard, expected: str) -> None:
    draft = shard(S.DRAFTED, "1-00000")
    assert verbs(job(draft, earlier=(of,))) == [(of.id, expected)]
    assert verbs(job(draft, earlier=(shard(S.SETTLED), shard(S.UPLOADED)))) == [("1-00000", "carry")]


def batches(*statuses: str, ended_at: float | None = NOW) -> list[Watched]:
    ends = ("completed", "failed", "expired", "cancelled")
    return [Watched(id=str(i), status=s, ended_at=ended_at if s in ends else None) for i, s in enumerate(statuses)]


@pytest.mark.parametrize(
    ("watched", "wake_at", "is_queued", "expected"),
    [
        ([], None, False, None),
        ([], NOW + 1, True, None),
        ([], NOW, False, "due"),
        (batches("in_progress"), NOW - 1, False, "due"),
        (batches("in_progress", "unknown", "validating"), None, True, None),
        (batches("completed"), None, False, "all ended"),
        (batches("expired", "cancelled", "completed"), NOW + 1, False, "all ended"),
        (batches("completed", "in_progress"), None, False, None),
        (batches("completed", "cancelling"), None, False, None),
        (batches("completed", "in_progress"), None, True, "room for more"),
        (batches("failed", "in_progress"), None, False, "failed"),
        (batches("completed", "in_progress", ended_at=NOW - HARVEST_AFTER_S), None, False, "harvest"),
        (batches("completed", "in_progress", ended_at=NOW - HARVEST_AFTER_S + 1), None, False, None),
    ],
)
def test_a_worker_is_woken_only_when_there_is_enough_to_do(
    watched: list[Watched], wake_at: float | None, is_queued: bool, expected: str | None
) -> None:
    assert wake(watched, NOW, wake_at, is_queued=is_queued, harvest_after_s=HARVEST_AFTER_S) == expected
