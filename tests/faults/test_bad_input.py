"""Bad input: a clear message of its own for each, and not one call to OpenAI."""

from __future__ import annotations

import itertools

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.engine.model import Policy
from airflow_openai_batch.engine.store.job_store import JobStore

CHAT = "/v1/chat/completions"
LONG = [{"id": 0, "text": "short"}, {"id": 1, "text": "x" * 500}]
TWICE = [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}, {"id": 1, "text": "c"}]
MESSAGES = {"model": "m", "messages": [{"role": "user", "content": "{text}"}]}

BAD = {
    "no_rows": ({"rows": []}, r"There are no rows\. Nothing was uploaded"),
    "no_rows_from_a_callable": ({"rows": lambda: iter(())}, r"There are no rows\. Nothing was uploaded"),
    "unknown_column": (
        {"body": {"model": "m", "input": "{subject} {text}"}},
        r"body uses \{subject\}.*no such column\. Columns: id, text",
    ),
    "unknown_column_in_custom_id": ({"custom_id": "{ticket}"}, r"custom_id uses \{ticket\}.*Columns: id, text"),
    "duplicate_custom_ids": ({"rows": TWICE}, r"Rows 0 and 2 have the same custom_id 't-1'"),
    "duplicate_custom_ids_in_two_shards": (
        {"rows": TWICE, "per_shard": 2},
        r"Rows 0 and 2 have the same custom_id 't-1'",
    ),
    "empty_custom_id": ({"rows": [{"id": "", "text": "a"}], "custom_id": "{id}"}, r"row 0: the custom_id is empty"),
    "request_too_large": (
        {"rows": LONG, "limits": Limits(max_bytes=400)},
        r"row 1: the request has \d+ bytes; a batch input file may have 400\. Nothing was uploaded",
    ),
    "request_over_the_token_budget": (
        {"rows": LONG, "policy": Policy(max_enqueued_tokens=50)},
        r"row 1: about \d+ tokens; max_enqueued_tokens is 50",
    ),
    "too_many_inputs": (
        {
            "rows": [{"id": 0, "texts": ["a"] * 3}],
            "endpoint": "/v1/embeddings",
            "body": {"model": "e", "input": "{texts!json}"},
            "limits": Limits(max_inputs=2),
        },
        r"row 0: 3 inputs; a batch may have 2",
    ),
    "unknown_endpoint": ({"endpoint": "/v1/chat"}, r"Unknown endpoint '/v1/chat'\. The Batch API has: /v1/responses"),
    "missing_file": ({"rows": "/nowhere/rows.parquet"}, r"rows='/nowhere/rows.parquet': there is no such file"),
    "unknown_file_ending": ({"rows": "/nowhere/rows.xlsx"}, r"must end in \.parquet, \.csv or \.jsonl"),
    "rows_are_texts": ({"rows": ["a", "b"]}, r"row 0 is no dict but str"),
    "rows_are_one_dict": ({"rows": {"id": 1}}, r"rows must be a list of dicts.*not dict"),
    "rows_are_a_number": ({"rows": 3.5}, r"rows must be a list of dicts.*not float"),
    "rows_have_no_columns": ({"rows": [{}]}, r"row 0 has no columns"),
    "rows_of_a_callable_are_no_dicts": ({"rows": lambda: ["a"]}, r"row 0 is no dict but str"),
    "mixed_types": ({"rows": [{"id": 0, "text": "a"}, {"id": 1, "text": 1}]}, r"Column 'text'.*str \(row 0\)"),
    "half_a_character": ({"rows": [{"id": 0, "text": "a"}, {"id": 1, "text": "\ud83d"}]}, r"row 1, column 'text'"),
    "infinite_json": (
        {"rows": [{"id": 0, "text": float("inf")}], "body": {"model": "m", "input": "{text!json}"}},
        r"row 0, column 'text': .*an infinite number",
    ),
    "body_without_model": (
        {"body": {"input": "{text}"}},
        r"body: the body lacks 'model', which /v1/responses requires",
    ),
    "body_without_input": ({"body": {"model": "m"}}, r"the body lacks 'input'"),
    "body_of_another_endpoint": ({"endpoint": CHAT}, r"the body lacks 'messages', which /v1/chat/completions"),
    "body_that_streams": ({"body": {"model": "m", "input": "x", "stream": True}}, r'"stream": true is not possible'),
    "body_is_a_text": ({"body": "Label {text}"}, r"body must be a dict, a callable"),
    "body_function_fails": ({"body": lambda row: row["nothing"]}, r"row 0: the body function raised KeyError"),
    "body_function_returns_a_text": ({"body": lambda row: "text"}, r"row 0: the body must be an object"),
    "body_cannot_be_json": ({"body": {"model": "m", "input": "x", "f": object()}}, r"body cannot be written as JSON"),
    "json_slot_inside_text": ({"body": {"model": "m", "input": "a {text!json}"}}, r"must stand alone in its string"),
    "ready_lines_without_body": ({"body": None, "custom_id": None}, r"row 0 is no request line"),
    "ready_line_of_another_endpoint": (
        {
            "rows": [{"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m", "input": "x"}}],
            "body": None,
            "custom_id": None,
        },
        r"row 0: must be POST /v1/responses, is POST /v1/chat/completions",
    ),
    "response_model_not_strict": (
        {"response_model": {"type": "object", "properties": {}}},
        r'response_model: strict structured output needs "additionalProperties": false',
    ),
    "response_model_elsewhere": (
        {"endpoint": "/v1/moderations", "body": {"input": "{text}"}, "response_model": {"type": "string"}},
        r"response_model",
    ),
    "ratio_out_of_range": ({"policy": Policy(max_bad_ratio=5)}, r"max_bad_ratio must be between 0 and 1, is 5"),
    "negative_rounds": ({"policy": Policy(max_rounds=-1)}, r"max_rounds must not be negative, is -1"),
    "retry_on_success": (
        {"policy": Policy(retry_on=frozenset({"succeeded"}))},
        r"retry_on takes invalid, .*not succeeded",
    ),
    "metadata_no_text": ({"policy": Policy(metadata={"a": 1})}, r"metadata\['a'\]: OpenAI takes texts only"),
    "metadata_too_much": (
        {"policy": Policy(metadata={str(i): "x" for i in range(13)})},
        r"metadata may have 12 pairs besides our own; it has 13",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_sent(world, name):
    args, message = BAD[name]
    w = world()
    with pytest.raises(InputError, match=message):
        w.submit(**{"rows": 3, **args})
    assert w.emu.ledger.calls == []
    assert w.store.load() is None, "no plan is left behind"


def test_every_kind_of_bad_input_has_its_own_message():
    messages = [message for _, message in BAD.values()]
    assert len(set(messages)) >= len(messages) - 3


def test_after_the_mistake_is_mended_the_same_job_runs(world):
    w = world()
    with pytest.raises(InputError):
        w.submit(3, body={"model": "m", "input": "{oops}"})
    w.submit(3)
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)


def test_bad_new_input_leaves_the_running_job_alone(world):
    w = world()
    w.submit(3)
    w.advance()
    with pytest.raises(InputError):
        w.submit(3, body={"model": "m", "input": "{oops}"})
    assert w.done().n_succeeded == 3
    assert len(w.batches) == 1
    assert w.batches[0].status == "completed"


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_sent(world, tmp_path):
    w = world()
    (tmp_path / "a-file").write_text("in the way")
    w.root = UPath(tmp_path / "a-file" / "store")
    with pytest.raises(StoreError, match=r"Cannot \w+ \w+ the job store .*\[openai_batch\] storage"):
        w.submit(3)
    assert w.emu.ledger.calls == []


class CarelessFileSystem(MemoryFileSystem):
    """A storage that ignores the wish for exclusive creation."""

    protocol = "careless"
    store = {}  # noqa: RUF012 - as the base class has it
    pseudo_dirs = [""]  # noqa: RUF012

    def _open(self, path, mode="rb", **kwargs):
        return super()._open(path, mode=mode.replace("x", "w"), **kwargs)


class ForgetfulFileSystem(CarelessFileSystem):
    """A storage that acknowledges writes and keeps nothing."""

    protocol = "forgetful"

    def _open(self, path, mode="rb", **kwargs):
        path = f"{path}-{next(self.numbers)}" if mode != "rb" else path
        return super()._open(path, mode=mode, **kwargs)

    numbers = itertools.count()


@pytest.mark.filterwarnings("ignore:UPath 'careless'")
def test_a_store_that_lets_files_be_overwritten_is_refused(world):
    fsspec.register_implementation("careless", CarelessFileSystem, clobber=True)
    w = world()
    w.root = UPath("careless://jobs")
    with pytest.raises(StoreError, match=r"lets a file be created twice.*Nothing was sent to OpenAI.*storage"):
        w.submit(3)
    assert w.emu.ledger.calls == []
    assert JobStore(w.root, w.key).load() is None


@pytest.mark.filterwarnings("ignore:UPath 'forgetful'")
def test_a_store_that_keeps_nothing_is_refused(world):
    fsspec.register_implementation("forgetful", ForgetfulFileSystem, clobber=True)
    w = world()
    w.root = UPath("forgetful://jobs")
    with pytest.raises(StoreError, match="storage"):
        w.submit(3)
    assert w.emu.ledger.calls == []


@pytest.mark.parametrize(
    ("n", "body", "is_told"),
    [
        (3, {"model": "gpt-6-luna", "input": "Label this ticket"}, True),
        (3, {"model": "gpt-6-luna", "input": "Label this: {text}"}, False),
        (3, lambda row: {"model": "gpt-6-luna", "input": "Label this ticket"}, False),
        (1, {"model": "gpt-6-luna", "input": "Tell a joke"}, False),
    ],
    ids=["no column", "a column", "a function", "one row"],
)
def test_a_body_that_asks_every_row_the_same_is_told(world, caplog, n, body, is_told):
    caplog.set_level("WARNING")
    world().submit(n, body=body)
    assert ("The body uses no column of the rows, so all 3 rows ask the same" in caplog.text) is is_told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"model": "gpt-6-luna", "input": "{text}", "max_output_token": 5}, "did you mean 'max_output_tokens'?"),
        ({"model": "gpt-6-luna", "input": "{text}", "messages": []}, "it belongs to /v1/chat/completions"),
        ({"model": "gpt-6-luna", "input": "{text}", "top_k": 5}, None),
        ({"model": "gpt-6-luna", "input": "{text}", "max_output_tokens": 5, "temperature": 0}, None),
    ],
    ids=["misspelt", "of another endpoint", "another server's own", "known"],
)
def test_a_parameter_that_is_most_likely_a_mistake_is_told(world, caplog, body, told):
    caplog.set_level("WARNING")
    world().submit(2, body=body)
    assert ("OpenAI refuses requests with a parameter" in caplog.text) is (told is not None)
    assert told is None or told in caplog.text
