"""A job at Azure OpenAI v1: what differs there costs no row, no money and no wait without an end."""

from __future__ import annotations

import datetime
import json

import pytest

from airflow_openai_batch.emulator import Filtered
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.status import Held, Wait
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.model import Policy, State, Status

CHAT = "/v1/chat/completions"
DAY_S = 86_400.0
BODY = {"model": "labels", "messages": [{"role": "user", "content": "Label: {text}"}]}
RESPONSES = {"model": "labels", "input": "Label: {text}"}
PRICES = {"labels": {"input": 0.05, "output": 0.25}}
PICODOLLARS = 10**12


@pytest.fixture
def azure(world):
    def start(**settings):
        return world(**{"dialect": "azure", "deployments": {"labels": "gpt-6-luna"}, **settings})

    return start


@pytest.mark.parametrize(("endpoint", "body"), [(CHAT, BODY), ("/v1/responses", RESPONSES)])
def test_every_row_is_answered_and_paid_for_once(azure, endpoint, body):
    w = azure()
    w.submit(60, endpoint=endpoint, body=body, per_shard=20)
    summary = w.done()
    assert summary.by_status == {"succeeded": 60}
    w.assert_paid_once(60)
    w.assert_accounted(60)
    assert {row["model"] for row in w.table()} == {"gpt-6-luna"}
    assert all(b"\xef\xbb\xbf" not in file.read() for file in w.emu.files.values())


def test_a_pending_file_is_waited_for_without_a_second_batch_or_upload(azure):
    w = azure(pending=600)
    w.submit(40, body=BODY, endpoint=CHAT, per_shard=20)
    found = w.advance()
    assert isinstance(found, Wait) and not w.batches, "the worker is free meanwhile"
    assert all(shard.state is State.UPLOADED for shard in w.job.shards)
    assert w.n_calls("POST", "/v1/batches") == 0, "it would be refused"
    w.clock.advance(60)
    assert isinstance(w.advance(), Wait) and "'pending' state" in w.job.shards[0].problem
    assert w.done().n_succeeded == 40
    assert (len(w.batches), w.n_calls("POST", "/v1/files")) == (2, 2)
    w.assert_paid_once(40)


def test_a_file_that_stays_pending_is_told_at_the_deadline_and_costs_nothing(azure):
    w = azure(pending=30 * DAY_S)
    w.submit(3, body=BODY, endpoint=CHAT, policy=Policy(deadline_s=4 * 3600.0))
    reason = w.held()
    assert "pending" in reason or "pending" in w.job.shards[0].problem
    assert not w.batches and w.billed() == {}


@pytest.mark.parametrize(("endpoint", "body"), [(CHAT, BODY), ("/v1/responses", RESPONSES)])
def test_what_the_content_filter_refuses_is_refused_in_both_forms(azure, endpoint, body):
    """As an error line for a prompt, and as the reason why an answer ends: neither is asked again."""

    def answer(endpoint, body):
        text = json.dumps(body)
        return Filtered(of_prompt="ticket 1" in text) if "ticket 1" in text or "ticket 2" in text else "good"

    w = azure(answer=answer)
    w.submit(5, endpoint=endpoint, body=body, policy=Policy(max_bad_ratio=1, prices=PRICES))
    summary = w.done()
    assert summary.by_status == {"succeeded": 3, "refused": 2}
    assert len(w.batches) == 1
    rows = {row["custom_id"]: row for row in w.table()}
    assert {rows[f"t-{i}"]["error_code"] for i in (1, 2)} == {"content_filter"}
    assert "content filter" in rows["t-1"]["error_message"]
    assert rows["t-1"]["cost"] is None, "the prompt was charged, and nobody says for how many tokens"
    assert rows["t-2"]["cost"] is not None
    assert summary.cost.n_unknown == 1
    assert any("content_filter" in line for line in map(bytes.decode, w.dead_letter(w.write())))
    w.assert_accounted(5)


def test_what_the_content_filter_refuses_is_asked_again_only_if_wanted(azure):
    n_asked = []

    def answer(endpoint, body):
        if "ticket 1" in json.dumps(body):
            n_asked.append(1)
            return Filtered(of_prompt=True) if len(n_asked) == 1 else "good after all"
        return "good"

    w = azure(answer=answer)
    w.submit(5, endpoint=CHAT, body=BODY, policy=Policy(retry_on=frozenset({Status.REFUSED})))
    assert w.done().by_status == {"succeeded": 5}
    assert [len(w.lines(batch)) for batch in w.batches] == [5, 1]


def test_a_refused_prompt_does_not_keep_a_cap_from_being_kept(azure):
    def answer(endpoint, body):
        return Filtered(of_prompt=True) if "ticket 1 " in json.dumps(body) else "good"

    w = azure(answer=answer)
    rows = w.rows(40, text="ticket {} of the night")
    body = {**BODY, "max_completion_tokens": 100}
    policy = Policy(max_cost=PICODOLLARS, prices=PRICES, max_bad_ratio=0.5, max_enqueued_tokens=400)
    w.submit(rows, endpoint=CHAT, body=body, per_shard=10, policy=policy)
    assert w.done().by_status == {"succeeded": 39, "refused": 1}
    assert len(w.batches) > 1


def test_a_batch_that_is_refused_whole_counts_with_the_most_that_it_may_cost(azure):
    def answer(endpoint, body):
        return Filtered(of_prompt=True) if "ticket 0" in json.dumps(body) else "good"

    def start(max_cost):
        w = azure(answer=answer)
        rows = w.rows(40, text="ticket {}")
        for i, row in enumerate(rows):
            row["text"] = f"ticket {i // 10} of the night"
        policy = Policy(max_cost=max_cost, prices=PRICES, max_bad_ratio=0.5, max_enqueued_tokens=400)
        w.submit(rows, endpoint=CHAT, body={**BODY, "max_completion_tokens": 100}, per_shard=10, policy=policy)
        return w

    w = start(PICODOLLARS)
    assert w.done().by_status == {"succeeded": 30, "refused": 10}
    # Ten requests of some 20 tokens, and ten answers of at most 100, for $0.05 and $0.25 a million.
    few = start(int(10 * (20 * 0.05 + 100 * 0.25) / 1e6 * PICODOLLARS * 1.2))
    assert "are spent, what runs costs" in few.held(), "and nothing of prices, which are known"
    assert len(few.batches) == 1


@pytest.mark.parametrize("n_refused", [1, 5, 9])
def test_what_is_refused_within_a_batch_counts_with_the_most_that_it_may_cost_too(azure, n_refused):
    def answer(endpoint, body):
        asked = json.dumps(body)
        return Filtered(of_prompt=True) if any(f"number {i}!" in asked for i in range(n_refused)) else "good"

    def run(max_cost):
        w = azure(answer=answer)
        rows = w.rows(40)
        for i, row in enumerate(rows):
            row["text"] = f"ticket {i} of the night, number {i % 10}!"
        policy = Policy(max_cost=max_cost, prices=PRICES, max_bad_ratio=1.0, max_enqueued_tokens=400)
        w.submit(rows, endpoint=CHAT, body={**BODY, "max_completion_tokens": 100}, per_shard=10, policy=policy)
        return w

    w = run(PICODOLLARS)
    assert w.done().by_status == {"refused": 4 * n_refused, "succeeded": 40 - 4 * n_refused}
    # Answers of at most 100 tokens, at $0.05 and $0.25 a million.
    most_of_one = int((w.job.shards[0].n_tokens * 0.05 + 10 * 100 * 0.25) / 1e6 * PICODOLLARS)
    few = run(most_of_one + most_of_one * n_refused // 10)
    assert "are spent, what runs costs" in few.held()
    assert len(few.batches) == 1, "the refused prompts of the first batch count, so the next one is not sent"


def test_a_prompt_that_is_refused_synchronously_does_not_stop_the_others_under_a_cap(azure):
    w = azure(answer=lambda endpoint, body: Filtered(of_prompt=True) if "ticket 1 " in json.dumps(body) else "good")
    w.fault("batch", {"expire_at": {"fraction": 0.0}})
    prices = {"labels": {**PRICES["labels"], "standard": {"input": 0.1, "output": 0.5}}}
    policy = Policy(max_cost=PICODOLLARS, prices=prices, max_bad_ratio=0.5, finish_by="6 h")
    rows = w.rows(40, text="ticket {} of the night")
    request = w.request(rows, endpoint=CHAT, body={**BODY, "max_completion_tokens": 100}, per_shard=20)
    submit(w.engine(), request, policy, finish_at=lambda now: now + 6 * 3600.0)
    assert w.done(step_s=600).by_status == {"succeeded": 39, "refused": 1}
    assert sum(row["via"] == "direct" for row in w.table()) == 40


def test_a_row_that_is_asked_first_and_filtered_holds_nothing_back(azure):
    w = azure(answer=lambda endpoint, body: Filtered(of_prompt=True) if "ticket 0" in json.dumps(body) else "good")
    w.submit(5, endpoint=CHAT, body=BODY, policy=Policy(probe=True, max_bad_ratio=0.5))
    assert w.done().by_status == {"succeeded": 4, "refused": 1}


def test_what_is_asked_synchronously_and_filtered_is_refused(azure):
    w = azure(
        duration=10 * DAY_S,
        pending=0,
        finalizing=60,
        answer=lambda endpoint, body: Filtered(of_prompt=True) if "ticket 0" in json.dumps(body) else "good",
    )
    request = w.request(5, endpoint=CHAT, body=BODY)
    submit(w.engine(), request, Policy(finish_by="6 h", max_bad_ratio=0.5), finish_at=lambda now: now + 6 * 3600)
    assert w.done().by_status == {"succeeded": 4, "refused": 1}
    assert {row["via"] for row in w.table()} == {"direct"}


def test_rows_that_fail_for_a_passing_reason_get_another_round(azure):
    w = azure()
    w.fault("row", {"http_error": {"status": 500}}, match={"custom_id": "t-[12]$"}, times=2)
    w.submit(6, endpoint=CHAT, body=BODY)
    assert w.done().by_status == {"succeeded": 6}
    assert [sorted(w.asked(batch)) for batch in w.batches] == [[f"t-{i}" for i in range(6)], ["t-1", "t-2"]]
    w.assert_paid_once(6)


def test_embeddings_come_back_in_order(azure):
    w = azure(deployments={"vectors": "text-embedding-3-small"})
    body = {"model": "vectors", "input": "{text}", "dimensions": 4}
    w.submit(30, endpoint="/v1/embeddings", body=body)
    assert w.done().by_status == {"succeeded": 30}
    w.assert_accounted(30)
    output = w.emu.files[w.batches[0].result.output_file_id].read()
    ids = [json.loads(line)["custom_id"] for line in output.splitlines()]
    assert ids != [f"t-{i}" for i in range(30)], "the server's order is another"
    assert len({tuple(row["output"]) for row in w.table()}) == 30


def test_a_batch_that_takes_longer_than_a_day_is_waited_for(azure):
    """Azure does not end it, whatever `expires_at` says."""
    w = azure(duration=2 * DAY_S)
    w.submit(3, endpoint=CHAT, body=BODY)
    assert w.done().by_status == {"succeeded": 3}
    assert w.hours > 48
    assert len(w.batches) == 1
    w.assert_paid_once(3)


def test_a_deadline_that_passes_says_that_the_batch_runs_on_and_a_clear_takes_it_up(azure):
    w = azure(duration=6 * DAY_S)
    w.submit(3, endpoint=CHAT, body=BODY)
    found = w.finish()
    assert isinstance(found, Held) and found.is_late
    assert len(w.emu.ledger.live_batches()) == 1
    w.submit(3, endpoint=CHAT, body=BODY, policy=Policy(deadline_s=10 * DAY_S))
    assert w.done().by_status == {"succeeded": 3}
    assert len(w.batches) == 1
    w.assert_paid_once(3)


def test_a_cancelled_job_leaves_nothing_that_costs(azure):
    w = azure(duration=6 * DAY_S)
    w.submit(3, endpoint=CHAT, body=BODY)
    w.advance()
    w.store.command("cancel", at=w.clock.now())
    assert w.done().n_rows == 3
    assert w.emu.ledger.live_batches() == []


def test_a_create_whose_answer_is_lost_is_found_again(azure):
    w = azure(pending=0)
    w.submit(3, endpoint=CHAT, body=BODY)
    w.fault("POST /v1/batches", "drop_response", times=1)
    assert w.done().by_status == {"succeeded": 3}
    assert len(w.batches) == 1
    w.assert_paid_once(3)


@pytest.mark.parametrize("status", [None, 400])
def test_a_full_queue_is_waited_for_in_both_forms(azure, status):
    w = azure()
    w.submit(40, endpoint=CHAT, body=BODY, per_shard=20)
    w.fault("batch", {"queue_limit": {"tokens": 100, "http": status}}, times=2)
    assert w.done().by_status == {"succeeded": 40}
    assert w.n_calls("POST", "/v1/files") == 2
    w.assert_paid_once(40)


def test_a_deployment_that_does_not_exist_fails_the_task_and_costs_nothing(azure):
    w = azure()
    w.submit(3, endpoint=CHAT, body={**BODY, "model": "gpt-6-luna"})
    assert w.done().by_status == {"failed": 3}
    assert "3 x model_not_found" in w.check_thresholds()
    assert w.billed() == {}


@pytest.mark.parametrize("url", [CHAT, "/chat/completions"])
def test_ready_made_lines_may_have_either_form_of_url(azure, url):
    w = azure()
    lines = [
        {"custom_id": f"t-{i}", "method": "POST", "url": url, "body": {**BODY, "messages": [{"role": "user"}]}}
        for i in range(3)
    ]
    w.submit(lines, endpoint=CHAT, body=None, custom_id=None)
    assert w.done().by_status == {"succeeded": 3}
    assert {line["url"] for line in w.lines(w.batches[0])} == {CHAT}
    w.assert_paid_once(3)


# -- money -----------------------------------------------------------------------------------------------------------


def test_a_deployments_name_is_no_models_name(azure):
    """Not even if it is one of OpenAI's: what is behind it may be another model, with another price."""
    w = azure(deployments={"gpt-6-luna": "gpt-6-astra"})
    body = {**BODY, "model": "gpt-6-luna", "max_completion_tokens": 9}
    with pytest.raises(InputError, match=r"needs to know what 'gpt-6-luna' costs: give the price.*prices="):
        w.submit(3, endpoint=CHAT, body=body, policy=Policy(max_cost=PICODOLLARS))
    assert w.emu.ledger.calls == []
    w.submit(3, endpoint=CHAT, body=body)
    summary = w.done()
    assert (summary.cost.picodollars, summary.cost.n_unknown) == (0, 3)


@pytest.mark.parametrize("prices", [PRICES, {"labels": "gpt-6-luna"}], ids=["of its own", "of a model"])
def test_a_deployments_price_is_given_by_itself_or_by_its_model(azure, prices):
    w = azure()
    policy = Policy(max_cost=PICODOLLARS, prices=prices)
    w.submit(6, endpoint=CHAT, body={**BODY, "max_completion_tokens": 100}, policy=policy)
    summary = w.done()
    assert summary.cost.n_unknown == 0
    assert summary.cost.picodollars == w.emu.ledger.invoice().picodollars > 0


def test_a_deployment_cannot_cost_what_a_model_costs_that_is_not_known(azure):
    w = azure()
    with pytest.raises(InputError, match=r"prices: 'labels' is to cost what 'gpt-7' costs, which is not known"):
        w.submit(3, endpoint=CHAT, body=BODY, policy=Policy(prices={"labels": "gpt-7"}))
    assert w.emu.ledger.calls == []


# -- custody ---------------------------------------------------------------------------------------------------------


def test_files_expire_after_fourteen_days_or_are_deleted(azure):
    w = azure()
    policy = Policy(files_expire_after_s=int(datetime.timedelta(days=14).total_seconds()))
    w.submit(3, endpoint=CHAT, body=BODY, policy=policy)
    assert w.done().by_status == {"succeeded": 3}
    lifetimes = {file.expires_at - file.created_at for file in w.emu.files.values()}
    assert lifetimes == {14 * DAY_S}


def test_too_short_a_life_of_files_is_told(azure):
    w = azure()
    w.submit(3, endpoint=CHAT, body=BODY, policy=Policy(files_expire_after_s=int(7 * DAY_S)))
    assert "Azure OpenAI 14 to 30 days" in w.held()
    assert not w.batches
