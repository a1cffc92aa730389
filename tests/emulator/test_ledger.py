from __future__ import annotations

from airflow_openai_batch.emulator.ledger import body_hash


def test_each_answered_row_is_billed_once(kit):
    batch = kit.ended(3)
    rows = list(kit.emu.ledger.rows())

    assert {row.custom_id for row in rows} == {"row-0", "row-1", "row-2"}
    assert {row.batch_id for row in rows} == {batch.id}
    assert sum(row.input_tokens for row in rows) == batch.usage.input_tokens
    assert kit.emu.ledger.rows_billed_twice() == []
    assert kit.emu.ledger.n_rows(batch.id) == 3


def test_rows_of_completed_expired_and_cancelled_batches_are_billed_unfinished_ones_not(kit):
    kit.emu.faults.add({"on": "batch", "times": 1, "do": {"expire_at": 0.5}})
    expired = kit.ended(4)
    cancelled = kit.submit(4)
    kit.emu.clock.advance(50)
    kit.client.batches.cancel(cancelled.id)
    completed = kit.ended(4)

    billed = [kit.emu.ledger.n_rows(batch.id) for batch in (expired, cancelled, completed)]
    assert billed == [2, 2, 4]


def test_the_same_request_in_two_batches_is_billed_twice(kit):
    first, second = kit.ended(2), kit.ended(kit.lines(2)[:1])
    kit.ended([kit.line("row-1", body=kit.body("another text"))])

    billings = kit.emu.ledger.rows_billed_twice()
    assert [(row.custom_id, row.batch_ids) for row in billings] == [("row-0", (first.id, second.id))]


def test_asking_again_after_a_useless_answer_can_be_told_apart(kit):
    kit.emu.faults.add({"on": "row", "match": {"batch": 1, "custom_id": "row-0"}, "do": "invalid"})
    kit.ended(2)
    kit.ended(2)

    assert {row.custom_id for row in kit.emu.ledger.rows_billed_twice()} == {"row-0", "row-1"}
    assert {row.custom_id for row in kit.emu.ledger.rows_billed_twice(only_delivered=True)} == {"row-1"}
    assert [row.delivered for row in kit.emu.ledger.rows() if row.custom_id == "row-0"] == ["invalid", "ok"]


def test_the_order_of_keys_does_not_change_a_body():
    assert body_hash({"a": 1, "b": [1, 2]}) == body_hash({"b": [1, 2], "a": 1}) != body_hash({"a": 1, "b": [2, 1]})


def test_live_batches_are_those_that_have_not_ended(kit):
    first, second = kit.submit(), kit.submit()
    kit.client.batches.cancel(first.id)
    kit.emu.clock.advance(50)

    assert [batch.id for batch in kit.emu.ledger.live_batches()] == [second.id]
    kit.emu.complete_all()
    assert kit.emu.ledger.live_batches() == []
    assert [batch.id for batch in kit.emu.ledger.batches] == [first.id, second.id]


def test_the_ledger_is_up_to_date_without_a_look_at_the_batch(kit):
    kit.submit(5)
    kit.emu.clock.advance(100)

    assert kit.emu.ledger.n_rows() == 5


def test_calls_are_logged_in_order(kit):
    kit.ended(1)

    assert [(call.method, call.path.split("/")[2], call.status) for call in kit.emu.ledger.calls] == [
        ("POST", "files", 200),
        ("POST", "batches", 200),
        ("GET", "batches", 200),
    ]
    assert kit.emu.ledger.n_calls("POST", "/v1/batches") == 1


def test_a_reset_forgets_everything_but_time(kit):
    kit.emu.faults.add({"on": "row", "do": "missing"})
    kit.ended(1)
    now = kit.emu.clock.now()
    kit.emu.reset()

    assert (kit.emu.batches, kit.emu.files, kit.emu.ledger.calls, kit.emu.faults.to_json()) == ({}, {}, [], [])
    assert kit.emu.clock.now() == now and kit.emu.ledger.n_rows() == 0


def test_the_invoice_is_that_of_openais_prices_for_batches(kit):
    """gpt-6-luna: $0.05 a million tokens of input, $0.25 of output; a model that nobody prices is told."""
    priced = kit.ended([kit.line("a", body={**kit.body("hello"), "model": "gpt-6-luna-2026-10-01"})])
    kit.ended([kit.line("b", body={**kit.body("hello"), "model": "my-model"})])

    usage = priced.usage
    assert kit.emu.ledger.invoice(priced.id) == (usage.input_tokens * 50_000 + usage.output_tokens * 250_000, 0)
    assert kit.emu.ledger.invoice() == (kit.emu.ledger.invoice(priced.id).picodollars, 1)
