from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from builders import BODY, SECRET, World, answer, cut, failure, has_no_secret, line, line_error, responses_body, strict
from upath import UPath

from airflow_openai_batch.engine.errors import InputError, JobNotReady, StoreError
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Policy, Status
from airflow_openai_batch.engine.results.row_sorter import RowSorter
from airflow_openai_batch.engine.results.sinks import FileSink, ListSink, Sink
from airflow_openai_batch.engine.results.writer import Written, manifest, write_results

S = Status


def written(world: World, sink: Sink) -> Written:
    return write_results(world.store, world.job, sink)


def table(world: World) -> list[dict[str, Any]]:
    sink = ListSink()
    written(world, sink)
    return sink.rows


def test_rows_come_back_in_input_order_with_all_their_columns(world: World) -> None:
    world.ended(lambda i: answer(i, f"about {i}"), limits=cut(2))
    found = table(world)
    assert [(r["id"], r["text"], r["custom_id"], r["output"]) for r in found] == [
        (f"t{i}", f"ticket {i}", f"t{i}", f"about t{i}") for i in range(5)
    ]
    assert list(found[0]) == ["id", "text", *RESULT_COLUMNS]
    assert {k: found[3][k] for k in RESULT_COLUMNS[3:]} == {
        "error_code": None,
        "error_message": None,
        "finish_reason": "completed",
        "model": "gpt-6-luna-2026",
        "input_tokens": 10,
        "cached_tokens": 4,
        "cache_write_tokens": 0,
        "output_tokens": 5,
        "reasoning_tokens": 2,
        "cost": "0.000001570000",
        "batch_id": "batch_1",
        "request_id": "req_1",
        "round": 0,
        "via": "batch",
        "reused_from": None,
    }


class Noting(ListSink):
    """Notes how many rows come at a time."""

    def __init__(self) -> None:
        super().__init__(max_bytes=1 << 30)
        self.sizes: list[int] = []

    def write(self, batch: Any) -> None:
        self.sizes.append(batch.num_rows)
        super().write(batch)


def test_large_answers_are_taken_few_at_a_time(world: World) -> None:
    world.ended(lambda i: answer(i, i + os.urandom(600_000).hex()), 12)
    sink = Noting()
    written(world, sink)
    assert max(sink.sizes) <= 6
    assert [row["output"][:2] for row in sink.rows[:10]] == [f"t{i}" for i in range(10)]
    [found] = [row for row in sink.rows if row["custom_id"] == "t11"]
    assert found["output"].startswith("t11") and len(found["output"]) == 1_200_003


def test_small_answers_are_taken_thousands_at_a_time(world: World) -> None:
    world.ended(answer, 5000)
    sink = Noting()
    written(world, sink)
    assert sink.sizes == [4096, 904]


def test_each_row_has_its_last_word_and_a_success_wins(world: World) -> None:
    def told(i: str) -> bytes:
        n = len(world.api.made)
        return answer(i, f"round {n}") if i == f"t{n}" else failure(i, 500, f"try {n}")

    world.ended(told, 5, policy=Policy(max_rounds=2, max_bad_ratio=1.0))
    found = [
        (r["custom_id"], r["status"], r["output"] or r["error_code"], r["round"], r["batch_id"]) for r in table(world)
    ]
    assert found == [
        ("t0", "failed", "try 3", 2, "batch_2"),
        ("t1", "succeeded", "round 1", 0, "batch_0"),
        ("t2", "succeeded", "round 2", 1, "batch_1"),
        ("t3", "succeeded", "round 3", 2, "batch_2"),
        ("t4", "failed", "try 3", 2, "batch_2"),
    ]


def test_an_answer_that_was_paid_for_is_in_the_dead_letter_though_a_later_round_failed(
    world: World, tmp_path: Path
) -> None:
    halves = {i: line(i, responses_body("half", status="incomplete")) for i in ("t0", "t1")}

    def told(i: str) -> bytes:
        if len(world.api.made) == 1:
            return halves.get(i) or failure(i, 500, "overloaded")
        return answer(i) if i == "t1" else failure(i, 500, "again")

    policy = Policy(max_rounds=1, max_bad_ratio=1.0, retry_on=frozenset({S.TRUNCATED}))
    world.ended(told, 3, policy=policy)
    written(world, FileSink(UPath(tmp_path / "r.jsonl")))
    # Of errors the last one tells enough, and a good answer leaves nothing to be looked for.
    dead = (tmp_path / "r.jsonl.dead_letter.jsonl").read_bytes().splitlines()
    assert sorted(dead) == sorted([halves["t0"], failure("t0", 500, "again"), failure("t2", 500, "again")])


def test_a_success_is_not_undone_by_a_later_failure(world: World) -> None:
    world.ended(answer, 2)
    [good] = world.job.shards
    world.submit(2, start_over="again", policy=Policy(max_rounds=0, max_bad_ratio=1.0))
    world.waits()
    world.api.finish("batch_1", failure)
    world.done()
    [bad] = world.job.shards
    root = msgspec.structs.replace(good, child=bad.id)
    later = msgspec.structs.replace(bad, parent=good.id, round=1)
    sink = ListSink()
    write_results(world.store, msgspec.structs.replace(world.job, shards=(root, later)), sink)
    assert [row["status"] for row in sink.rows] == ["succeeded"] * 2


def test_errors_are_counted_by_code_with_examples(world: World, tmp_path: Path) -> None:
    world.ended(lambda i: answer(i) if i == "t0" else failure(i, 400, "bad_value"), 6)
    found = written(world, FileSink(UPath(tmp_path / "x.jsonl")))
    [error] = found.errors
    assert (error.status, error.code, error.n, error.custom_ids) == ("failed", "bad_value", 5, ("t1", "t2", "t3"))
    assert error.message == "it was 400"


def test_results_of_a_job_that_still_works_are_refused(world: World) -> None:
    world.submit(3, limits=cut(1))
    with pytest.raises(JobNotReady, match="3 of 3 shards have no outcome yet"):
        written(world, ListSink())


def test_a_store_that_lost_a_file_writes_nothing(world: World, tmp_path: Path) -> None:
    world.ended(limits=cut(2))
    part = world.job.shards[1].outcomes
    assert part is not None
    Path(str(world.store), part.name).unlink()
    with pytest.raises(StoreError):
        written(world, FileSink(UPath(tmp_path / "out" / "x.jsonl")))
    assert not list((tmp_path / "out").iterdir())


def test_answers_carried_over_are_in_the_table_like_any_other(world: World) -> None:
    world.ended(lambda i: answer(i, f"old {i}"), 3)
    world.ended(lambda i: answer(i, f"new {i}"), 5)
    assert [(r["output"], r["batch_id"]) for r in table(world)] == [
        ("old t0", "batch_0"),
        ("old t1", "batch_0"),
        ("old t2", "batch_0"),
        ("new t3", "batch_1"),
        ("new t4", "batch_1"),
    ]


def test_ready_made_lines_have_no_input_columns(world: World) -> None:
    lines = [{"custom_id": f"t{i}", "url": "/v1/responses", "body": {"model": "m", "input": "x"}} for i in range(3)]
    world.ended(answer, lines, body=None, custom_id=None)
    found = table(world)
    assert [r["custom_id"] for r in found] == ["t0", "t1", "t2"] and list(found[0]) == list(RESULT_COLUMNS)


def test_users_columns_named_custom_id_and_body_are_in_the_table(world: World) -> None:
    data = [{"custom_id": "mine", "body": "Dear all"}]
    world.ended(answer, data, body={"model": "m", "input": "{body}"}, custom_id=None)
    [found] = table(world)
    assert (found["body"], found["input_custom_id"]) == ("Dear all", "mine")


def test_columns_whose_type_grew_are_one_column(world: World) -> None:
    import pyarrow as pa

    frames = [pa.table({"id": ["a"], "n": pa.nulls(1), "x": [7]}), pa.table({"id": ["b"], "n": ["text"], "x": [1.5]})]
    world.ended(answer, lambda: iter(frames), body={**BODY, "input": "{id}"})
    assert [(r["n"], r["x"]) for r in table(world)] == [(None, 7.0), ("text", 1.5)]


def test_vectors_are_columns_of_numbers(world: World, tmp_path: Path) -> None:
    def told(i: str) -> bytes:
        return line(i, {"data": [{"embedding": [0.5, 1.5]}]}) if i != "t1" else line_error(i, "something_new")

    world.ended(told, 2, endpoint="/v1/embeddings", policy=Policy(max_bad_ratio=1.0))
    written(world, FileSink(UPath(tmp_path / "x.parquet")))
    first, second = pd.read_parquet(tmp_path / "x.parquet")["output"]
    assert first.tolist() == [0.5, 1.5] and second is None


def test_the_manifest_is_small_and_tells_the_cost(world: World, tmp_path: Path) -> None:
    world.ended(
        lambda i: failure(i, 400, "bad") if i == "t0" else answer(i),
        limits=cut(2),
        policy=Policy(max_bad_ratio=1),
    )
    found = json.loads(json.dumps(manifest(written(world, FileSink(UPath(tmp_path / "x.csv"))))))
    assert found["output"] == str(tmp_path / "x.csv") and found["dead_letter"] == f"{found['output']}.dead_letter.jsonl"
    assert (found["rows"], found["by_status"]) == (5, {"failed": 1, "succeeded": 4})
    assert found["tokens"] == {
        "input_tokens": 40,
        "cached_tokens": 16,
        "cache_write_tokens": 0,
        "output_tokens": 20,
        "reasoning_tokens": 8,
    }
    # gpt-6-luna in batches: 6 tokens of input at $0.05 a million, 4 cached ones at $0.005, 5 of output at $0.25.
    assert found["cost"] == found["saved"] == pytest.approx(4 * (6 * 0.05 + 4 * 0.005 + 5 * 0.25) / 1e6)
    assert (found["cost_of_bad_rows"], found["rows_without_price"]) == (0, 0)
    assert (found["max_cost"], found["reused_rows"], found["saved_by_reuse"]) == (None, 0, 0)
    assert found["batches"] == ["batch_0", "batch_1", "batch_2"] and found["rounds"] == 0
    assert found["errors"][0]["code"] == "bad" and "ticket" not in json.dumps(found)


# -- rows of several models in turns ----------------------------------------------------------------------------------


def in_turns(n: int, models: str = "ab") -> list[dict[str, Any]]:
    return [{"id": f"t{i}", "m": models[i % len(models)], "text": f"ticket {i}"} for i in range(n)]


BY_ROW = {"model": "{m}", "input": "{text}"}


def test_rows_of_several_models_come_back_in_input_order(world: World) -> None:
    world.ended(lambda i: answer(i, f"about {i}"), in_turns(11, "abc"), body=BY_ROW, limits=cut(3))
    assert len(world.api.made) == 3 + 2
    assert [(r["id"], r["m"], r["output"]) for r in table(world)] == [
        (row["id"], row["m"], f"about {row['id']}") for row in in_turns(11, "abc")
    ]


def test_shards_before_and_after_those_in_turns_are_written_as_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    class Watching(RowSorter):
        def __init__(self, schema: Any, start: int, stop: int, *args: Any) -> None:
            seen.append((start, stop))
            super().__init__(schema, start, stop, *args)

    monkeypatch.setattr("airflow_openai_batch.engine.results.writer.RowSorter", Watching)
    data = [{"id": f"t{i}", "m": m, "text": "x"} for i, m in enumerate("aaaaababccbbdd")]
    world.ended(answer, data, body=BY_ROW, limits=cut(2))
    assert [row["id"] for row in table(world)] == [row["id"] for row in data]
    assert seen == [(4, 8)]


def test_rounds_and_carried_answers_of_shards_in_turns_find_their_rows(world: World) -> None:
    def told(i: str) -> bytes:
        n = len(world.api.made)
        return failure(i, 500) if i in ("t2", "t3", "t7") and n <= 2 else answer(i, f"made {n}")

    world.ended(told, in_turns(8), body=BY_ROW)
    first = [(r["id"], r["output"], r["round"]) for r in table(world)]
    assert [(i, n) for i, _, n in first] == [(f"t{i}", int(i in (2, 3, 7))) for i in range(8)]
    data = in_turns(8)
    for i in (0, 5):
        data[i]["text"] = "changed"
    n_before = len(world.api.made)
    world.ended(lambda i: answer(i, "new"), data, body=BY_ROW)
    assert [r["custom_id"] for b in list(world.api.made)[n_before:] for r in world.api.requests(b)] == ["t0", "t5"]
    second = {r["id"]: r["output"] for r in table(world)}
    assert list(second) == [f"t{i}" for i in range(8)]
    assert second == {i: output for i, output, _ in first} | {"t0": "new", "t5": "new"}


def test_what_was_given_up_of_shards_in_turns_is_in_the_dead_letter(world: World, tmp_path: Path) -> None:
    world.ended(lambda i: failure(i, 400, "bad") if i in ("t1", "t4") else answer(i), in_turns(6), body=BY_ROW)
    found = written(world, FileSink(UPath(tmp_path / "x.jsonl")))
    dead = (tmp_path / "x.jsonl.dead_letter.jsonl").read_bytes().splitlines()
    assert sorted(dead) == [failure("t1", 400, "bad"), failure("t4", 400, "bad")]
    assert (found.n_rows, found.errors[0].n) == (6, 2)


def test_ready_made_lines_of_several_models_come_back_in_input_order(world: World) -> None:
    lines = [
        {"custom_id": f"t{i}", "url": "/v1/responses", "body": {"model": "ab"[i % 2], "input": "x"}} for i in range(5)
    ]
    world.ended(answer, lines, body=None, custom_id=None)
    assert [r["custom_id"] for r in table(world)] == [f"t{i}" for i in range(5)]


def test_vectors_of_several_models_come_back_in_input_order(world: World, tmp_path: Path) -> None:
    def told(i: str) -> bytes:
        return line(i, {"data": [{"embedding": [float(i[1:])] * (2 + int(i[1:]) % 2)}]})

    world.ended(told, in_turns(6), body=BY_ROW, endpoint="/v1/embeddings")
    written(world, FileSink(UPath(tmp_path / "x.parquet")))
    found = pd.read_parquet(tmp_path / "x.parquet")["output"]
    assert [vector.tolist() for vector in found] == [[float(i)] * (2 + i % 2) for i in range(6)]


def test_columns_whose_type_grew_are_one_column_for_all_models(world: World) -> None:
    import pyarrow as pa

    frames = [
        pa.table({"id": ["a", "b"], "m": ["x", "y"], "n": pa.nulls(2), "d": pa.array(["u", "v"]).dictionary_encode()}),
        pa.table({"id": ["c", "d"], "m": ["y", "x"], "n": ["t", None], "d": pa.array(["w", "v"]).dictionary_encode()}),
    ]
    world.ended(answer, lambda: iter(frames), body={"model": "{m}", "input": "{id}"})
    assert [(r["id"], r["n"], r["d"]) for r in table(world)] == [
        ("a", None, "u"),
        ("b", None, "v"),
        ("c", "t", "w"),
        ("d", None, "v"),
    ]


@pytest.mark.parametrize("wrong", ["outcomes", "row_parts", "index"])
def test_shards_in_turns_whose_files_were_mixed_up_write_nothing(world: World, tmp_path: Path, wrong: str) -> None:
    world.ended(answer, in_turns(8), body=BY_ROW)
    first, second = world.job.shards
    third = {"outcomes": second.outcomes, "row_parts": second.row_parts * 2, "index": second.index}[wrong]
    shards = (msgspec.structs.replace(first, **{wrong: third}), second)
    with pytest.raises(StoreError):
        write_results(
            world.store,
            msgspec.structs.replace(world.job, shards=shards),
            FileSink(UPath(tmp_path / "out" / "x.jsonl")),
        )
    assert not list((tmp_path / "out").iterdir())


# -- the dead letter -------------------------------------------------------------------------------------------------


def test_lines_given_up_are_kept_verbatim_and_an_old_dead_letter_is_removed(world: World, tmp_path: Path) -> None:
    unmatched = b'not "json" \xff'
    world.ended(lambda i: failure(i, 400, "bad") + b"\n" + unmatched if i == "t1" else answer(i), 3)
    path = UPath(tmp_path / "x.jsonl")
    found = written(world, FileSink(path))
    dead = tmp_path / "x.jsonl.dead_letter.jsonl"
    assert (found.dead_letter, found.n_dead_letter) == (str(dead), 2)
    assert dead.read_bytes() == failure("t1", 400, "bad") + b"\n" + unmatched + b"\n"
    world.submit(3, start_over="clean")
    world.waits()
    world.api.finish("batch_1")
    world.done()
    assert written(world, FileSink(path)).dead_letter is None
    assert not dead.exists() and path.exists()


def test_a_list_only_counts_the_dead_letter(world: World) -> None:
    world.ended(lambda i: failure(i, 400, "bad"), 3)
    sink = ListSink()
    assert written(world, sink).n_dead_letter == 3


def test_a_list_too_large_for_xcom_is_refused_with_advice(world: World) -> None:
    world.ended()
    with pytest.raises(InputError, match=r"larger than 100 bytes.*Give output=.*nothing is paid again"):
        written(world, ListSink(max_bytes=100))


def test_rows_that_get_more_nested_keys_on_the_way_are_written(world: World) -> None:
    def rows() -> Any:
        for i in range(4200):
            yield {"id": f"t{i}", "text": "x", "meta": {"b": i} if i < 4150 else {"a": "late", "b": i}}

    world.ended(answer, rows)
    sink = Noting()
    written(world, sink)
    found = sink.rows
    assert (found[0]["meta"], found[4199]["meta"]) == ({"b": 0}, {"a": "late", "b": 4199})


LEAKY = {
    "wrong_type": json.dumps({"kind": "a", "n": SECRET}),
    "not_in_the_enum": json.dumps({"kind": SECRET, "n": 1}),
    "surplus_field": json.dumps({"kind": "a", "n": 1, SECRET: SECRET}),
    "no_object": json.dumps([SECRET]),
    "no_json": f"I think of {SECRET}",
    "cut_json": '{"kind": "' + SECRET,
}


def written_table(world: World, tmp_path: Path) -> tuple[Written, list[dict[str, Any]], str]:
    path = tmp_path / "out.jsonl"
    found = write_results(world.store, world.job, FileSink(UPath(path)))
    return found, [json.loads(text) for text in path.read_text().splitlines()], json.dumps(manifest(found))


@pytest.mark.parametrize("name", LEAKY)
def test_a_broken_schema_is_told_without_the_answer(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    schema = strict(kind={"enum": ["a", "b"], "type": "string"}, n={"type": "integer"})
    world.ended(lambda i: line(i, responses_body(LEAKY[name])), 3, response_model=schema)
    written, table, told = written_table(world, tmp_path)
    assert [row["status"] for row in table] == ["invalid"] * 3
    assert all(row["error_message"] for row in table), "something is said all the same"
    assert table[0]["output"] == LEAKY[name], "the answer itself is delivered"
    has_no_secret(*(row["error_message"] for row in table), told, written.errors, caplog.text)


def test_a_refusal_is_not_in_the_manifest(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    item = {"type": "message", "content": [{"type": "refusal", "refusal": f"I do not talk about {SECRET}."}]}
    world.ended(lambda i: line(i, responses_body() | {"output": [item]}), 3)
    _, table, told = written_table(world, tmp_path)
    assert table[0]["status"] == "refused"
    has_no_secret(told, caplog.text)
