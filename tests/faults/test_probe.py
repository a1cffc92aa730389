"""A probe: one row is asked synchronously before anything is uploaded, once, and a crash never pays for it twice."""

from __future__ import annotations

import threading

import pytest

from airflow_openai_batch.cli import look
from airflow_openai_batch.cli.jobs import Found
from airflow_openai_batch.emulator import Limits
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.model import Policy, Timing, Usage

PROBE = Policy(probe=True)
BODY = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 1000}
N_ROWS = 12
ASKED = ("POST", "/v1/responses")


def bad(status: int = 400, message: str = "Unsupported parameter: 'temperature'.", code: str = "unsupported") -> dict:
    return {"status": {"code": status, "error": {"message": message, "code": code}}}


def probes(w) -> int:
    return w.n_calls(*ASKED)


def test_a_good_probe_is_told_and_all_rows_are_asked_in_batches(world, caplog) -> None:
    caplog.set_level("INFO")
    w = world()
    w.submit(N_ROWS, policy=PROBE)
    assert probes(w) == 0, "planning asks nothing"
    assert isinstance(w.advance(), Wait)
    assert w.done().n_succeeded == N_ROWS
    assert probes(w) == 1
    billed = w.billed()
    assert billed.pop("") == 1
    assert billed == {f"t-{i}": 1 for i in range(N_ROWS)}
    assert (w.job.probe.custom_id, w.job.probe.result) == ("t-0", "answered")
    assert "Row 't-0' was asked first: succeeded in" in caplog.text
    assert "ticket" not in caplog.text


def test_what_a_job_cost_is_the_invoice_with_its_probe(world) -> None:
    w = world()
    w.submit(N_ROWS, policy=PROBE)
    summary = w.done()
    assert summary.cost.picodollars == w.emu.ledger.invoice().picodollars
    assert w.job.probe.cost.picodollars == w.emu.ledger.invoice("direct").picodollars > 0
    assert summary.usage.input_tokens == sum(row.input_tokens for row in w.emu.ledger.rows())
    # Also of probes of earlier epochs.
    w.submit(N_ROWS, body={**BODY, "input": "Better: {text}"}, policy=PROBE)
    assert w.done().cost.picodollars == w.emu.ledger.invoice().picodollars
    assert probes(w) == 2, "once for each epoch"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "unsupported", "OpenAI refuses the row 't-0', which was asked first (probe=True): HTTP 400: Unsupported"),
        (404, "model_not_found", "OpenAI refuses the row 't-0'"),
        (422, None, "OpenAI refuses the row 't-0'"),
        (401, "invalid_api_key", "OpenAI refused the credentials or the account"),
        (403, "permission_denied", "OpenAI refused the credentials or the account"),
    ],
)
def test_a_refusal_of_the_row_stops_the_job_before_anything_is_uploaded(world, status, code, words) -> None:
    w = world()
    w.fault(" ".join(ASKED), bad(status, code=code))
    w.submit(N_ROWS, body={**BODY, "temperature": 1}, policy=PROBE)
    reason = w.held()
    assert words in reason
    assert "'t-0'" in reason
    assert "Unsupported parameter: 'temperature'." in reason
    assert w.n_calls("POST", "/v1/files") == 0
    assert w.job.cost.picodollars == 0


def test_a_refusal_that_quotes_the_row_is_told_without_it(world, caplog) -> None:
    caplog.set_level("INFO")
    w = world()
    w.fault(" ".join(ASKED), bad(message="Invalid 'input': 'the secret of row one' with 'seed' is too long."))
    w.submit([{"id": 0, "text": "the secret of row one"}], body={**BODY, "seed": 1}, policy=PROBE)
    reason = w.held()
    assert "HTTP 400: Invalid 'input': '…' with 'seed' is too long." in reason
    assert "secret" not in reason + caplog.text


def test_a_retry_asks_nothing_again_and_a_person_who_mended_the_account_does(world) -> None:
    w = world()
    w.fault(" ".join(ASKED), bad(401, "Incorrect API key provided.", "invalid_api_key"), times=1)
    request = w.request(N_ROWS)
    for _ in range(3):
        submit(w.engine(), request, PROBE, max_tries=0)
        assert "refused the credentials" in w.held()
    assert probes(w) == 1
    submit(w.engine(), request, PROBE, max_tries=1)
    assert w.done().n_succeeded == N_ROWS
    assert probes(w) == 2


def test_a_changed_body_is_probed_anew_and_without_a_probe_the_rest_is_sent_as_it_is(world) -> None:
    w = world()
    w.fault(" ".join(ASKED), bad(), match={"body": "Label"})
    w.submit(N_ROWS, policy=PROBE)
    w.held()
    w.submit(N_ROWS, body={**BODY, "input": "Better: {text}"}, policy=PROBE)
    assert w.done().n_succeeded == N_ROWS
    w.submit(N_ROWS, policy=Policy())
    assert w.done().n_succeeded == N_ROWS
    assert probes(w) == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"status": {"code": 429}},
        {"status": {"code": 503}},
        {"status": {"code": 404, "html": True}},
        "drop_response",
        "reset",
    ],
    ids=["429", "503", "page", "drop", "reset"],
)
def test_a_blip_is_told_and_does_not_stop_the_job(world, caplog, fault) -> None:
    caplog.set_level("INFO")
    w = world()
    w.fault(" ".join(ASKED), fault, times=1)
    w.submit(N_ROWS, policy=PROBE)
    assert w.done().n_succeeded == N_ROWS
    assert probes(w) == 1, "not asked again"
    assert w.job.probe.result == "unknown"
    assert "it is not known what would come of it" in caplog.text


def test_an_answer_that_takes_too_long_does_not_stop_the_job(world) -> None:
    begun = threading.Event()

    def slow(endpoint, body):
        if not begun.is_set():
            begun.set()
            threading.Event().wait(3)
        return "late"

    w = world(answer=slow)
    engine = w.engine(timing=Timing(post_timeout_s=0.4, ask_timeout_s=0.5))
    w.submit(N_ROWS, policy=PROBE, engine=engine)
    assert isinstance(w.advance(engine), Wait)
    assert w.job.probe.result == "unknown"
    assert "The answer of OpenAI" in w.job.probe.reason  # took too long, or was lost when the connection gave up


@pytest.mark.parametrize("at", range(1, 8))
def test_a_process_that_dies_anywhere_pays_for_one_probe_at_most(world, fate, killed, at) -> None:
    w = world()
    w.submit(N_ROWS, policy=PROBE)
    doom = fate(at)
    with pytest.raises(killed):
        advance(w.mortal(doom))
    assert w.done().n_succeeded == N_ROWS
    assert probes(w) <= 1
    assert w.billed()[""] <= 1
    assert {n for custom_id, n in w.billed().items() if custom_id} == {1}


def test_a_second_process_waits_for_the_probe_of_the_first_and_goes_on_without_it(world, fate, killed) -> None:
    w = world()
    w.submit(N_ROWS, policy=PROBE)
    with pytest.raises(killed):
        advance(w.mortal(fate(2)))  # its intent is stored, and nothing was asked
    assert w.job.probe.result == "asked"
    waiting = w.advance()
    assert isinstance(waiting, Wait)
    assert waiting.wake_at == w.job.probe.asked_at + w.timing.ask_timeout_s
    assert w.n_calls("POST", "/v1/files") == 0
    assert w.done().n_succeeded == N_ROWS
    assert probes(w) == 0


def test_a_bad_answer_is_told_and_paid_and_does_not_stop_the_job(world, caplog) -> None:
    caplog.set_level("INFO")
    w = world()
    w.fault("row", "invalid", times=1)
    schema = {"type": "object", "properties": {"a": {"type": "string", "enum": ["b"]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    w.submit(N_ROWS, policy=PROBE, response_model=schema)
    assert isinstance(w.finish(), Done)
    assert "Row 't-0' was asked first: invalid" in caplog.text
    assert w.job.probe.cost.bad_picodollars == w.emu.ledger.invoice("direct").picodollars > 0


def test_a_model_without_a_price_leaves_the_cost_unknown(world) -> None:
    w = world()
    w.submit(N_ROWS, body={**BODY, "model": "mine"}, policy=PROBE)
    w.done()
    assert w.job.cost.n_unknown == N_ROWS + 1
    assert w.job.probe.usage != Usage()


def test_a_cap_holds_for_the_probe_too(world) -> None:
    w = world()
    w.submit(1, body=BODY, policy=Policy(probe=True, max_cost=300_000_000))  # enough for the batch alone
    assert "the row that is asked first (probe=True) may cost $0.0005" in w.held()
    assert probes(w) == w.n_calls("POST", "/v1/files") == 0
    w.submit(1, body=BODY, policy=Policy(probe=True, max_cost=3_000_000_000))
    assert w.done().n_succeeded == 1


def test_a_cap_needs_the_synchronous_price_of_a_probe(world) -> None:
    w = world()
    prices = {"mine": {"input": 1, "output": 2}}
    with pytest.raises(InputError, match="probe needs to know what 'mine' costs synchronously"):
        w.submit(1, body={**BODY, "model": "mine"}, policy=Policy(probe=True, max_cost=10**12, prices=prices))
    prices["mine"]["standard"] = {"input": 2, "output": 4}
    w.submit(1, body={**BODY, "model": "mine"}, policy=Policy(probe=True, max_cost=10**12, prices=prices))
    assert w.done().n_succeeded == 1


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/embeddings"])
def test_other_endpoints_are_probed_too(world, endpoint) -> None:
    w = world()
    body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "{text}"}]}
    if endpoint == "/v1/embeddings":
        body = {"model": "text-embedding-3-small", "input": "{text}"}
    w.submit(N_ROWS, endpoint=endpoint, body=body, policy=PROBE)
    assert w.done().n_succeeded == N_ROWS
    assert w.job.probe.result == "answered"
    assert w.job.cost.picodollars == w.emu.ledger.invoice().picodollars


def test_a_model_that_does_not_exist_is_found_at_once(world) -> None:
    w = world(limits=Limits(models=frozenset({"gpt-6-sol"})))
    w.submit(N_ROWS, policy=PROBE)
    found = w.advance()
    assert isinstance(found, Held)
    assert "The provided model 'gpt-6-luna' is not supported" in found.reason


def test_the_tokens_of_the_probe_are_told_apart(world) -> None:
    w = world()
    w.submit(N_ROWS, policy=PROBE)
    w.done()
    told = look.tokens(Found(w.store, 0, w.job, w.root), None)
    assert [(part["epoch"], part["round"]) for part in told.data["parts"]] == [(0, 0), (0, None)]
    assert sum(part["input_tokens"] for part in told.data["parts"]) == told.data["total"]["input_tokens"]
    assert "epoch 0, probe: input" in told.text


def test_a_job_that_is_only_planned_makes_no_probe(world) -> None:
    w = world()
    submit(w.engine(), w.request(N_ROWS), PROBE, is_plan_only=True)
    assert isinstance(w.advance(), Held)
    assert probes(w) == 0
