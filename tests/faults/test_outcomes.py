"""The main path and its outcomes, end to end: every endpoint, every way to give rows, every way to read results."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from pydantic import BaseModel

from airflow_openai_batch.emulator import Limits, Refusal, Text, Truncated
from airflow_openai_batch.engine.job.summary import check_thresholds
from airflow_openai_batch.engine.model import Policy
from airflow_openai_batch.engine.results.sinks import FileSink, ListSink
from airflow_openai_batch.engine.results.writer import manifest, write_results

CHAT = "/v1/chat/completions"
PLACES = ("output", "error")

BODIES = {
    "/v1/responses": {"model": "m", "input": "{text}"},
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "{text}"}]},
    "/v1/embeddings": {"model": "m", "input": "{text}"},
    "/v1/completions": {"model": "m", "prompt": "{text}"},
    "/v1/moderations": {"model": "m", "input": "{text}"},
    "/v1/images/generations": {"model": "m", "prompt": "{text}"},
    "/v1/images/edits": {"model": "m", "prompt": "{text}", "images": [{"image_url": "https://x/y.png"}]},
    "/v1/videos": {"model": "m", "prompt": "{text}"},
}


class Label(BaseModel):
    topic: str
    score: float
    tags: list[str]


def _raw_lines(w):
    """The lines of both files of each batch, by custom_id; what cannot be read by itself."""
    found = {}
    for batch in w.batches:
        for place in PLACES:
            file_id = getattr(batch.result, f"{place}_file_id")
            for line in w.emu.files[file_id].read().rstrip(b"\n").split(b"\n") if file_id else ():
                try:
                    found.setdefault(json.loads(line)["custom_id"], []).append(line)
                except ValueError:
                    found.setdefault(line, []).append(line)
    return found


@pytest.fixture
def mixed(world):
    """One job with a row of every kind."""

    def start(policy):
        w = world()
        for name, fault in {
            "t-1": {"http_error": {"status": 400, "code": "invalid_value", "message": "Bad row."}},
            "t-2": {"refusal": "I will not."},
            "t-3": {"truncated": 0.3},
            "t-4": "missing",
            "t-5": {"invalid": "[1]"},
            "t-6": {"malformed": '{"custom_id": "t-6", "resp'},
        }.items():
            w.fault("row", fault, match={"custom_id": f"{name}$"})
        w.submit(8, response_model=Label, policy=policy)
        return w, w.done()

    return start


MIXED = ["succeeded", "failed", "refused", "truncated", "missing", "invalid", "missing", "succeeded"]


def test_every_kind_of_row_has_its_own_outcome_and_the_counts_add_up(mixed):
    w, summary = mixed(Policy(max_rounds=0, max_bad_ratio=1.0))
    table = w.table()
    assert [row["status"] for row in table] == MIXED
    assert summary.by_status == {
        "failed": 1,
        "invalid": 1,
        "missing": 2,
        "refused": 1,
        "succeeded": 2,
        "truncated": 1,
    }
    assert table[1]["error_code"] == "invalid_value" and table[1]["error_message"] == "Bad row."
    assert table[2]["error_message"] == "I will not." and table[2]["output"] is None
    assert table[3]["finish_reason"] == "max_output_tokens" and table[3]["output"]
    assert table[4]["error_code"] == "missing"
    assert table[5]["error_code"] == "schema_mismatch" and table[5]["output"] == "[1]"
    assert all(isinstance(table[i]["score"], float) and table[i]["tags"] is not None for i in (0, 7))
    assert all(table[i]["topic"] is None for i in range(1, 7))
    w.assert_accounted(8)


@pytest.mark.parametrize(
    ("policy", "is_green"),
    [
        (Policy(max_rounds=0), False),
        (Policy(max_rounds=0, max_bad_ratio=0.75), True),
        (Policy(max_rounds=0, max_bad_ratio=0.74), False),
        (Policy(max_rounds=0, max_bad_ratio=1.0, max_bad_rows=5), False),
        (Policy(max_rounds=0, max_bad_ratio=1.0, max_bad_rows=6), True),
    ],
)
def test_the_verdict_follows_the_thresholds(mixed, policy, is_green):
    w, summary = mixed(policy)
    assert (check_thresholds(summary, w.job.policy) is None) is is_green


def test_the_dead_letter_holds_the_raw_lines_verbatim(mixed):
    w, _ = mixed(Policy(max_rounds=0))
    raw = _raw_lines(w)
    expected = [line for name in ("t-1", "t-2", "t-3", "t-5") for line in raw[name]]
    assert w.dead_letter(w.write()) == [*expected, b'{"custom_id": "t-6", "resp']


def test_the_manifest_tells_counts_tokens_and_examples(mixed):
    w, _ = mixed(Policy(max_rounds=0))
    told = manifest(w.write())
    assert told["rows"] == 8 and sum(told["by_status"].values()) == 8
    assert list(told["batches"]) == [b.id for b in w.batches]
    billed = list(w.emu.ledger.rows())
    assert told["tokens"]["input_tokens"] <= sum(row.input_tokens for row in billed)
    assert {(e["status"], e["code"], e["n"]) for e in told["errors"]} >= {("failed", "invalid_value", 1)}
    assert len(json.dumps(told)) < 3000


@pytest.mark.parametrize("endpoint", BODIES)
def test_every_endpoint_works_from_rows_to_results(world, endpoint):
    w = world()
    w.submit(5, endpoint=endpoint, body=BODIES[endpoint])
    assert w.done().by_status == {"succeeded": 5}
    table = w.table()
    assert [row["id"] for row in table] == [0, 1, 2, 3, 4]
    assert all(row["output"] for row in table)
    if endpoint in ("/v1/responses", CHAT, "/v1/completions"):
        assert [row["output"] for row in table] == [f"Echo: ticket {i}" for i in range(5)]
    elif endpoint == "/v1/embeddings":
        assert all(isinstance(row["output"][0], float) for row in table)
    elif endpoint != "/v1/videos":
        assert isinstance(json.loads(table[0]["output"]), list)
    w.assert_paid_once(5)


def test_several_embeddings_a_row_come_back_in_their_order(world):
    w = world(answer=lambda endpoint, body: [[float(len(text)), 0.5] for text in body["input"]])
    rows = [{"id": 0, "texts": ["a", "bb"]}, {"id": 1, "texts": ["ccc"]}]
    w.submit(rows, endpoint="/v1/embeddings", body={"model": "m", "input": "{texts!json}"})
    w.done()
    assert [row["output"] for row in w.table()] == [[[1.0, 0.5], [2.0, 0.5]], [[3.0, 0.5]]]


@pytest.mark.parametrize("endpoint", ["/v1/responses", CHAT])
def test_structured_answers_become_columns_for_both_endpoints(world, endpoint):
    w = world()
    w.submit(4, endpoint=endpoint, body=BODIES[endpoint], response_model=Label)
    assert w.done().by_status == {"succeeded": 4}
    for row in w.table():
        assert {name: row[name] for name in ("topic", "score", "tags")} == json.loads(row["output"])


@pytest.mark.parametrize(
    ("answer", "status"),
    [(Refusal("no"), "refused"), (Truncated("half"), "truncated"), (Text("good"), "succeeded")],
    ids=["refusal", "truncated", "good"],
)
@pytest.mark.parametrize("endpoint", ["/v1/responses", CHAT])
def test_refusals_and_cut_off_answers_are_told_apart_for_both_endpoints(world, endpoint, answer, status):
    w = world(answer=lambda e, b: answer)
    w.submit(1, endpoint=endpoint, body=BODIES[endpoint])
    assert w.done().by_status == {status: 1}


def test_ready_made_request_lines_are_sent_as_they_are(world, tmp_path):
    w = world()
    lines = [
        {"custom_id": f"mine-{i}", "method": "POST", "url": CHAT, "body": {**BODIES[CHAT], "temperature": i / 10}}
        for i in range(6)
    ]
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    w.submit(str(path), endpoint=CHAT, body=None, custom_id=None)
    assert w.done().by_status == {"succeeded": 6}
    assert w.lines(w.batches[0]) == lines
    table = w.table()
    assert [row["custom_id"] for row in table] == [f"mine-{i}" for i in range(6)]
    assert "id" not in table[0]


@pytest.mark.parametrize("kind", ["list", "frame", "callable", "parquet", "csv", "jsonl"])
def test_rows_come_from_anywhere(world, tmp_path, kind):
    w = world()
    rows = w.rows(7)
    frame = pd.DataFrame(rows)
    paths = {name: tmp_path / f"rows.{name}" for name in ("parquet", "csv", "jsonl")}
    frame.to_parquet(paths["parquet"])
    frame.to_csv(paths["csv"], index=False)
    frame.to_json(paths["jsonl"], orient="records", lines=True)
    given = {"list": rows, "frame": frame, "callable": lambda: iter(rows), **{k: str(p) for k, p in paths.items()}}
    w.submit(given[kind])
    assert w.done().n_succeeded == 7
    assert [row["output"] for row in w.table()] == [f"Echo: Label: ticket {i}" for i in range(7)]
    w.assert_paid_once(7)


def test_default_custom_ids_name_the_row(world):
    w = world()
    w.submit(3, custom_id=None)
    w.done()
    assert [row["custom_id"].partition("-")[0] for row in w.table()] == ["r0000000", "r0000001", "r0000002"]


def test_rows_of_several_models_go_into_one_batch_each(world):
    """OpenAI takes one model a file."""
    w = world()
    rows = [{"id": i, "text": "x", "model": "a" if i < 4 else "b"} for i in range(6)]
    w.submit(rows, body={"model": "{model}", "input": "{text}"})
    assert w.done().n_succeeded == 6
    assert [len(w.asked(b)) for b in w.batches] == [4, 2]
    assert [row["model"] for row in w.table()] == ["a"] * 4 + ["b"] * 2


def test_shards_respect_what_the_server_allows(world):
    w = world(limits=Limits(requests=4, file_bytes=700))
    w.submit(10, per_shard=4)
    assert w.done().n_succeeded == 10
    assert len(w.batches) == 3


def test_the_users_metadata_is_on_every_batch(world):
    w = world()
    w.submit(4, per_shard=2, policy=Policy(metadata={"team": "support"}))
    w.done()
    for batch in w.batches:
        assert batch.metadata["team"] == "support"
        assert batch.metadata["dag_id"] == "labels" and batch.metadata["task_id"] == "ask"


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_results_are_readable_with_pandas_in_every_format(world, ending):
    w = world()
    w.submit(5, response_model=Label)
    w.done()
    path = w.root / f"out.{ending}"
    write_results(w.store, w.job, FileSink(path))
    read = {"parquet": pd.read_parquet, "jsonl": lambda p: pd.read_json(p, lines=True), "csv": pd.read_csv}[ending]
    frame = read(str(path))
    assert list(frame["id"]) == [0, 1, 2, 3, 4]
    assert list(frame["status"]) == ["succeeded"] * 5
    assert {"topic", "score", "tags", "output", "input_tokens", "batch_id", "round"} <= set(frame.columns)


def test_results_can_go_through_xcom(world):
    w = world()
    w.submit(3)
    w.done()
    sink = ListSink()
    write_results(w.store, w.job, sink)
    assert [row["output"] for row in sink.rows] == [f"Echo: Label: ticket {i}" for i in range(3)]


@pytest.mark.parametrize(("n", "n_shards"), [(3, 1), (1_000, 1), (60_000, 2)])
def test_results_equal_the_input_in_order_and_number(world, n, n_shards):
    w = world(answer=lambda endpoint, body: body["input"].rpartition(" ")[2])
    w.submit(n)
    assert w.done(step_s=4000).by_status == {"succeeded": n}
    assert len(w.batches) == n_shards
    path = w.root / "out.parquet"
    write_results(w.store, w.job, FileSink(path))
    frame = pd.read_parquet(str(path))
    assert len(frame) == n
    assert list(frame["id"]) == list(range(n))
    assert list(frame["output"].astype(int)) == list(range(n))
    assert frame["custom_id"].is_unique
    assert w.emu.ledger.n_rows() == n
    assert w.emu.ledger.rows_billed_twice() == []
