"""Many waits, one watcher: what is asked, what is told, and what becomes of both when something goes wrong."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import random
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from watching_account import PAGE, Account, FakeConnection, HurriedLoop, Time, now

from airflow_openai_batch.engine.model import Batch
from airflow_openai_batch.polling import listing, poller, subscription, watcher
from airflow_openai_batch.polling.subscription import SubscriptionFailed, Update
from airflow_openai_batch.polling.watcher import watch

INTERVAL_S = 60.0


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (listing, subscription, poller, watcher):
        monkeypatch.setattr(module, "time", Time)


def run(act: Callable[[], Coroutine[Any, Any, Any]], timeout_s: float = 100_000) -> Any:
    """Run on a loop of its own that does not wait, and see that nothing is left behind."""

    async def bounded() -> Any:
        found = await asyncio.wait_for(act(), timeout_s)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left behind"
        return found

    with asyncio.Runner(loop_factory=HurriedLoop) as runner:
        found = runner.run(bounded())
    assert not [known for loop, known in watcher._watchers.items() if known]
    return found


class Wait:
    """A trigger's side of a wait, until its batches have ended, were refused, or watching failed."""

    def __init__(self, connection: FakeConnection, *batch_ids: str, longest_s: float = INTERVAL_S, delay_s: float = 0):
        self.batches: dict[str, Batch] = {}
        self.updates: list[Update] = []
        self.ended_at = 0.0
        self._arguments = (connection, batch_ids)
        self._options = {"longest_s": longest_s, "delay_s": delay_s}
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> str:
        async with watch(*self._arguments, **self._options) as shared:
            while True:
                update = await shared.next_update()
                self.updates.append(update)
                self.batches |= {batch.id: batch for batch in update.changed}
                if update.refusal:
                    return update.refusal
                if len(self.batches) == len(self._arguments[1]) and {b.status for b in self.batches.values()} == {
                    "completed"
                }:
                    self.ended_at = now()
                    return "ended"

    def __await__(self) -> Any:
        return self.task.__await__()


async def until(is_so: Callable[[], Any], timeout_s: float = 10_000) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.1)


async def intervals(n: float) -> None:
    await asyncio.sleep(n * INTERVAL_S)


# -- few requests ------------------------------------------------------------------------------------------------------


def test_three_hundred_waits_of_one_account_need_three_requests_for_each_interval() -> None:
    async def act() -> None:
        account = Account(300)
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        assert account.of() == {"list": 3}
        since = now()
        await intervals(5)
        assert 3 * 4 <= account.n("list", since) <= 3 * 6
        assert account.n("retrieve") == 0
        account.end(*account.status)
        ended_at = now()
        await asyncio.gather(*waits)
        assert max(wait.ended_at for wait in waits) - ended_at < INTERVAL_S + 0.5

    run(act)


def test_waits_that_begin_one_after_another_are_looked_at_together() -> None:
    async def act() -> None:
        account = Account(300)
        connection = FakeConnection(account)
        waits = []
        for batch_id in account.status:
            waits.append(Wait(connection, batch_id))
            await asyncio.sleep(0.5)
        await until(lambda: all(wait.batches for wait in waits))
        await intervals(2)
        since = now()
        await intervals(5)
        assert account.n(since=since) <= 3 * 7
        account.end(*account.status)
        await asyncio.gather(*waits)

    run(act)


def test_one_batch_is_asked_for_and_never_listed() -> None:
    async def act() -> None:
        account = Account(1)
        wait = Wait(FakeConnection(account), "batch_0")
        await intervals(3)
        account.end("batch_0")
        assert await wait == "ended"
        assert account.n("list") == 0

    run(act)


def test_two_waits_for_one_batch_are_one_look_and_both_are_told() -> None:
    async def act() -> None:
        account = Account(1)
        connection = FakeConnection(account)
        waits = [Wait(connection, "batch_0", longest_s=longest_s) for longest_s in (INTERVAL_S, 1000)]
        await until(lambda: all(wait.batches for wait in waits))
        since = now()
        await intervals(4)
        assert 3 <= account.n(since=since) <= 5
        account.end("batch_0")
        assert await asyncio.gather(*waits) == ["ended", "ended"]

    run(act)


def test_an_account_full_of_other_batches_costs_no_more_than_asking_for_each() -> None:
    async def act() -> None:
        account = Account(50 * PAGE)
        awaited = list(account.status)[:: 5 * PAGE]
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in awaited]
        await until(lambda: all(wait.batches for wait in waits))
        since = now()
        await intervals(10)
        assert account.n(since=since) <= 1.2 * 11 * len(awaited)
        assert account.n("list", since) <= 0.2 * account.n("retrieve", since)
        account.end(*awaited)
        await asyncio.gather(*waits)

    run(act)


def test_batches_far_down_in_the_listing_are_found_and_read_by_page_from_then_on() -> None:
    async def act() -> None:
        account = Account(250)
        awaited = list(account.status)
        account.add(10 * PAGE, "foreign")
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in awaited]
        await until(lambda: all(wait.batches for wait in waits))
        await intervals(6)
        since = now()
        await intervals(5)
        assert account.n(since=since) <= 4 * 6
        account.end(*awaited)
        await asyncio.gather(*waits)

    run(act)


def test_newer_batches_push_the_awaited_ones_down_and_they_are_found_all_the_same() -> None:
    async def act() -> None:
        account = Account(150)
        awaited = list(account.status)
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in awaited]
        await until(lambda: all(wait.batches for wait in waits))
        since = now()
        for _ in range(12):
            account.add(20, "foreign")
            await intervals(1)
        assert account.n(since=since) <= 6 * 13
        account.end(*awaited)
        await asyncio.gather(*waits)

    run(act)


def test_an_impatient_wait_is_looked_at_alone() -> None:
    async def act() -> None:
        account = Account(300)
        connection = FakeConnection(account)
        *patient, hasty = account.status
        waits = [Wait(connection, batch_id, longest_s=3600) for batch_id in patient]
        waits.append(Wait(connection, hasty, longest_s=5))
        await until(lambda: all(wait.batches for wait in waits))
        since = now()
        await asyncio.sleep(100)
        assert 19 <= account.n(since=since) <= 21
        assert account.n(since=since) == account.n(hasty, since)
        for wait in waits:
            wait.task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    run(act)


def test_counts_are_told_with_every_look() -> None:
    async def act() -> None:
        account = Account(1)
        wait = Wait(FakeConnection(account), "batch_0")
        await until(lambda: wait.batches)
        account.counts["batch_0"] = (7, 10)
        await until(lambda: wait.batches["batch_0"].n_completed == 7)
        n_told = len(wait.updates)
        await intervals(3)
        assert len(wait.updates) == n_told, "told, though nothing had changed"
        account.end("batch_0")
        await wait

    run(act)


@pytest.mark.parametrize("seed", range(6))
def test_no_end_is_seen_late_and_no_account_costs_more_than_asking_for_each_batch(seed: int) -> None:
    async def act() -> None:
        dice = random.Random(seed)
        account = Account()
        n_foreign, n_at_once = dice.choice([0, 3, 200]), dice.choice([1, 10, 120])
        waits: dict[str, Wait] = {}
        ended_at: dict[str, float] = {}
        n_looks, most = 0.0, 0
        began_at = now()
        while now() < began_at + 60 * INTERVAL_S:
            account.add(dice.randrange(n_foreign + 1), "foreign")
            for batch_id in account.add(dice.randrange(n_at_once + 1)) if len(waits) < 600 else ():
                account.created_at[batch_id] = now() - 100_000  # old enough for the full interval
                waits[batch_id] = Wait(FakeConnection(account), batch_id)
            running = [batch_id for batch_id in waits if batch_id not in ended_at]
            for batch_id in dice.sample(running, min(len(running), dice.randrange(n_at_once))):
                account.end(batch_id)
                ended_at[batch_id] = now()
            step = dice.uniform(0.2, 0.8)
            n_looks += len(running) * step
            most = max(most, len(running))
            await intervals(step)
        await intervals(1.1)
        late = {
            i: waits[i].ended_at - at for i, at in ended_at.items() if not 0 < waits[i].ended_at - at < INTERVAL_S + 1
        }
        assert not late
        assert account.n() <= 1.15 * n_looks + len(waits) + 20
        if n_foreign < 10 and most > 100:
            assert account.n() <= 0.2 * n_looks
        for wait in waits.values():
            wait.task.cancel()
        await asyncio.gather(*waits.values(), return_exceptions=True)

    run(act)


# -- odd listings ------------------------------------------------------------------------------------------------------


def test_a_batch_that_the_listing_lacks_is_asked_for_and_not_taken_for_gone() -> None:
    async def act() -> None:
        account = Account(120)
        missing = "batch_60"
        account.unlisted = {missing}
        waits = {batch_id: Wait(FakeConnection(account), batch_id) for batch_id in account.status}
        await until(lambda: all(wait.batches for wait in waits.values()))
        await intervals(4)
        assert not waits[missing].task.done()
        assert account.n("retrieve") == account.n(missing) >= 3
        account.end(*account.status)
        assert set(await asyncio.gather(*waits.values())) == {"ended"}

    run(act)


@pytest.mark.parametrize("status", [404, 405, 400, 403])
def test_a_server_without_a_listing_is_asked_for_it_once(status: int) -> None:
    async def act() -> None:
        account = Account(20)
        account.listing = status
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in account.status]
        await intervals(5)
        account.end(*account.status)
        assert set(await asyncio.gather(*waits)) == {"ended"}
        assert account.n("list") == 1

    run(act)


@pytest.mark.parametrize("status", [500, 429])
def test_a_listing_that_fails_holds_nobody_up_and_is_tried_ever_less_often(status: int) -> None:
    async def act() -> None:
        account = Account(20)
        account.listing = status
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in account.status]
        await intervals(20)
        assert account.n("retrieve") >= 0.9 * 20 * 20
        assert 2 <= account.n("list") <= 9
        assert not any(update.failure for wait in waits for update in wait.updates)
        account.end(*account.status)
        assert set(await asyncio.gather(*waits)) == {"ended"}

    run(act)


def test_a_server_that_ignores_the_cursor_is_read_one_page_at_a_time() -> None:
    async def act() -> None:
        account = Account(3 * PAGE)
        account.listing = "endless"
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        since = now()
        await intervals(4)
        assert account.n("list", since) <= 10
        assert account.n("retrieve", since) >= 3 * 2 * PAGE
        account.end(*account.status)
        assert set(await asyncio.gather(*waits)) == {"ended"}

    run(act)


def test_a_listing_in_another_order_is_no_trouble() -> None:
    async def act() -> None:
        account = Account(20 * PAGE)
        account.listing = "oldest_first"
        awaited = list(account.status)[-40:]
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in awaited]
        await until(lambda: all(wait.batches for wait in waits))
        since = now()
        await intervals(4)
        assert account.n(since=since) <= 1.2 * 5 * len(awaited)
        account.end(*awaited)
        assert set(await asyncio.gather(*waits)) == {"ended"}

    run(act)


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_outage_is_one_back_off_for_all_waits_and_everyone_is_told(status: int) -> None:
    async def act() -> None:
        account = Account(500)
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        account.down, since = status, now()
        await until(lambda: all(any(update.failure for update in wait.updates) for wait in waits))
        await asyncio.sleep(300)
        assert account.n(since=since) <= 10
        assert not any(wait.task.done() for wait in waits)
        account.down = None
        await until(lambda: all(any(update.is_well_again for update in wait.updates) for wait in waits))
        n_failures = {sum(update.failure is not None for update in wait.updates) for wait in waits}
        assert max(n_failures) <= 4
        account.end(*account.status)
        assert set(await asyncio.gather(*waits)) == {"ended"}

    run(act)


def test_the_server_is_given_the_pause_it_asks_for() -> None:
    async def act() -> None:
        account = Account(50)
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        account.down, account.headers = 429, {"retry-after": "200"}
        since, n_before = now(), account.n()
        await until(lambda: account.n() > n_before)
        asked_at = account.calls[-1][0]
        account.down = None
        account.end(*account.status)
        await asyncio.gather(*waits)
        later = [at for at, _ in account.calls if at > asked_at + 0.1]
        assert min(later) - asked_at >= 200
        assert account.n(since=since) <= 10

    run(act)


def test_one_batch_that_cannot_be_read_holds_up_no_other() -> None:
    async def act() -> None:
        account = Account(30)
        account.listing = 404
        account.failing = {"batch_3": 500}
        waits = {batch_id: Wait(FakeConnection(account), batch_id) for batch_id in account.status}
        await intervals(10)
        others = [waits[batch_id] for batch_id in account.status if batch_id != "batch_3"]
        assert all(wait.batches for wait in others)
        assert min(account.n(f" {batch_id}") for batch_id in account.status if batch_id != "batch_3") >= 7
        assert account.n(" batch_3") <= 9
        assert not any(update.failure for wait in others for update in wait.updates)
        # How many looks fit into the time depends on the machine; which of them are told does not.
        told = [update.failure.n for update in waits["batch_3"].updates if update.failure]
        assert told == [1, 2, 4, 8][: len(told)]
        assert len(told) >= 2
        account.failing.clear()
        account.end(*account.status)
        assert set(await asyncio.gather(*waits.values())) == {"ended"}
        assert waits["batch_3"].updates[-1].is_well_again

    run(act)


def test_a_connection_that_cannot_be_read_is_told_after_some_tries() -> None:
    async def act() -> None:
        connection = FakeConnection(Account(3))

        def broken() -> None:
            raise RuntimeError("no such connection")

        connection.on_read = broken
        waits = [Wait(connection, batch_id) for batch_id in connection.account.status]
        assert set(await asyncio.gather(*waits)) == {"the connection cannot be read"}
        assert connection.n_read == 5

    run(act)


def test_a_key_that_was_changed_in_airflow_wakes_nobody() -> None:
    async def act() -> None:
        account = Account(50)
        connection = FakeConnection(account)
        waits = [Wait(connection, batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        account.keys, connection.key = {"new"}, "new"
        await intervals(3)
        assert connection.n_read == 2
        assert not any(update.refusal for wait in waits for update in wait.updates)
        account.end(*account.status)
        assert set(await asyncio.gather(*waits)) == {"ended"}

    run(act)


def test_a_key_that_is_no_longer_accepted_is_told_to_all_after_few_requests() -> None:
    async def act() -> None:
        account = Account(400)
        connection = FakeConnection(account)
        waits = [Wait(connection, batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        account.keys, since = set(), now()
        assert set(await asyncio.gather(*waits)) == {"OpenAI refuses to answer"}
        assert now() - since >= watcher.BELIEVED_AFTER_S
        assert connection.n_read > 1
        assert account.n(since=since) <= 50
        told = [str(update.failure.error) for update in waits[0].updates if update.failure]
        assert told and all("believed if it lasts for 5 minutes" in text for text in told)

    run(act)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_all_batches_that_passes_within_minutes_wakes_nobody(status: int) -> None:
    async def act() -> None:
        account = Account(20)
        waits = [Wait(FakeConnection(account), batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        account.down = status
        await asyncio.sleep(200)
        account.down = None
        await intervals(10)
        assert not any(update.refusal for wait in waits for update in wait.updates)
        account.end(*account.status)
        assert set(await asyncio.gather(*waits)) == {"ended"}

    run(act)


def test_one_batch_that_is_denied_or_unknown_is_told_to_its_own_wait_after_minutes() -> None:
    async def act() -> None:
        account = Account(10)
        account.failing = {"batch_1": 403}
        account.unlisted = {"batch_1"}
        began_at = now()
        waits = {i: Wait(FakeConnection(account), i) for i in [*account.status, "batch_unknown"]}
        assert await waits["batch_1"] == await waits["batch_unknown"] == "OpenAI refuses to answer"
        assert now() - began_at >= watcher.BELIEVED_AFTER_S
        assert 3 <= account.n("batch_unknown") <= 12 and 3 <= account.n(" batch_1") <= 12
        others = [waits[batch_id] for batch_id in account.status if batch_id != "batch_1"]
        assert all(wait.batches for wait in others)
        assert not any(update.failure for wait in others for update in wait.updates)
        account.end(*account.status)
        assert set(await asyncio.gather(*others)) == {"ended"}

    run(act)


def test_a_refusal_that_is_interrupted_by_an_answer_begins_anew() -> None:
    async def act() -> None:
        account = Account(1)
        wait = Wait(FakeConnection(account), "batch_0")
        await until(lambda: wait.batches)
        for _ in range(6):
            account.failing = {"batch_0": 404}
            await asyncio.sleep(200)
            account.failing = {}
            await asyncio.sleep(200)
        assert not any(update.refusal for update in wait.updates)
        account.end("batch_0")
        assert await wait == "ended"

    run(act)


@pytest.mark.parametrize("n_failing", [1, 2, 5])
def test_batches_whose_server_asks_for_an_hour_hold_up_no_other(n_failing: int) -> None:
    async def act() -> None:
        account = Account(30)
        account.listing = 404
        failing = {f"batch_{n}" for n in range(3, 3 + n_failing)}
        account.failing, account.headers = dict.fromkeys(failing, 429), {"retry-after": "86400"}
        waits = {batch_id: Wait(FakeConnection(account), batch_id) for batch_id in account.status}
        await intervals(40)
        assert max(account.n(f" {batch_id}") for batch_id in failing) == 1
        assert min(account.n(f" {batch_id}") for batch_id in account.status if batch_id not in failing) >= 20
        account.failing.clear()
        account.end(*account.status)
        since = now()
        assert set(await asyncio.gather(*waits.values())) == {"ended"}
        assert now() - since <= 3600

    run(act)


def test_a_batch_that_is_not_found_for_a_moment_is_not_given_up() -> None:
    async def act() -> None:
        account = Account(1)
        account.failing = {"batch_0": 404}
        wait = Wait(FakeConnection(account), "batch_0")
        await until(lambda: account.n() == 1)
        account.failing.clear()
        await intervals(3)
        account.end("batch_0")
        assert await wait == "ended"

    run(act)


def test_every_wait_learns_that_the_watcher_has_died(monkeypatch) -> None:
    async def act() -> None:
        account = Account(200)
        connection = FakeConnection(account)
        waits = [Wait(connection, batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        with monkeypatch.context() as defect:
            defect.setattr(watcher, "pause_s", lambda *_: 1 / 0)
            found = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(error) for error in found} == {SubscriptionFailed}
        account.end(*account.status)
        assert await Wait(connection, "batch_0") == "ended"

    run(act)


def test_every_wait_learns_that_someone_has_cancelled_the_watcher() -> None:
    async def act() -> None:
        waits = [Wait(FakeConnection(Account(2)), "batch_0"), Wait(FakeConnection(Account(2), "other"), "batch_1")]
        await until(lambda: all(wait.batches for wait in waits))
        (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "watch other")
        task.cancel()
        assert isinstance((await asyncio.gather(waits[1], return_exceptions=True))[0], SubscriptionFailed)
        assert not waits[0].task.done()
        waits[0].task.cancel()
        await asyncio.gather(waits[0], return_exceptions=True)

    run(act)


# -- beginning and end -------------------------------------------------------------------------------------------------


def test_a_cancelled_wait_is_looked_at_no_more_and_with_the_last_one_the_watcher_ends() -> None:
    async def act() -> None:
        account = Account(2)
        connection = FakeConnection(account)
        waits = [Wait(connection, batch_id) for batch_id in account.status]
        await until(lambda: all(wait.batches for wait in waits))
        waits[0].task.cancel()
        await asyncio.gather(waits[0], return_exceptions=True)
        since = now()
        await intervals(3)
        assert account.n(since=since) == account.n("batch_1", since) >= 2
        account.delay_s, n_before = 20, account.n()  # also while a request is under way
        await until(lambda: account.n() > n_before)
        waits[1].task.cancel()
        await asyncio.gather(waits[1], return_exceptions=True)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("watch")]

    run(act)


def test_a_loop_that_is_closed_at_once_finds_nothing_pending() -> None:
    async def act() -> str:
        account = Account(1)
        account.end("batch_0")
        return await Wait(FakeConnection(account), "batch_0")

    loop = asyncio.new_event_loop()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loop.run_until_complete(act()) == "ended"
        assert not asyncio.all_tasks(loop)
        loop.close()
        gc.collect()


def test_loops_share_nothing() -> None:
    account = Account(1)
    account.end("batch_0")
    for _ in range(3):
        connection = FakeConnection(account)

        async def act(connection: FakeConnection = connection) -> None:
            assert await Wait(connection, "batch_0") == "ended"

        run(act)
        assert connection.n_read == 1
    assert account.n() == 3


def test_connections_share_nothing() -> None:
    async def act() -> None:
        good, bad = Account(20), Account(20)
        bad.down = 500
        waits = [Wait(FakeConnection(good), batch_id) for batch_id in good.status]
        others = [Wait(FakeConnection(bad, "other"), batch_id) for batch_id in bad.status]
        await until(lambda: all(wait.batches for wait in waits))
        good.end(*good.status)
        assert set(await asyncio.gather(*waits)) == {"ended"}
        assert not any(wait.task.done() for wait in others)
        for wait in others:
            wait.task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    run(act)


def test_nothing_is_told_before_its_time() -> None:
    async def act() -> None:
        account = Account(1)
        account.end("batch_0")
        connection = FakeConnection(account)
        at = now()
        other = Wait(connection, "batch_0", delay_s=10)
        late = Wait(connection, "batch_0", delay_s=100)
        assert await other == await late == "ended"
        assert 10 <= other.ended_at - at < 11
        assert 100 <= late.ended_at - at < 101

    run(act)


def test_a_wait_without_batches_makes_no_request_and_is_woken_at_its_time() -> None:
    async def act() -> None:
        connection = FakeConnection(Account())
        async with watch(connection, [], longest_s=1) as shared:
            at = now() + 0.5
            assert await shared.next_update(until=at) == Update((), None, False, None)
            assert 0 <= now() - at < 0.3
        assert connection.n_read == 0

    run(act)


def test_a_time_that_is_set_later_but_comes_sooner_is_heeded() -> None:
    async def act() -> None:
        connection = FakeConnection(Account())
        async with watch(connection, [], longest_s=1) as one, watch(connection, [], longest_s=1) as other:
            slow = asyncio.create_task(one.next_update(until=now() + 100))
            await asyncio.sleep(0.1)
            await asyncio.wait_for(other.next_update(until=now() + 0.2), 1)
            assert not slow.done()
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)

    run(act)


def test_a_thousand_waits_begin_and_are_told_in_small_portions() -> None:
    async def act() -> None:
        account = Account(1000)
        connection = FakeConnection(account)
        turns: list[int] = []
        waits: list[Wait] = []

        async def others() -> None:
            while True:
                turns.append(sum(wait.task.done() for wait in waits))
                await asyncio.sleep(0)

        account.end(*account.status)
        waits += [Wait(connection, batch_id, delay_s=0.2) for batch_id in account.status]
        other = asyncio.create_task(others())
        assert set(await asyncio.gather(*waits)) == {"ended"}
        other.cancel()
        at_once = [after - before for before, after in itertools.pairwise(turns)]
        assert max(at_once) <= 2 * watcher._WOKEN_AT_ONCE

    asyncio.run(act())


def test_the_watcher_does_not_run_in_the_context_of_the_first_trigger() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    seen: list[str] = []

    async def act() -> None:
        account = Account(1)
        account.end("batch_0")
        connection = FakeConnection(account)
        connection.on_read = lambda: seen.append(name.get())
        name.set("the first trigger")
        assert await Wait(connection, "batch_0") == "ended"

    run(act)
    assert seen == ["nobody"]
