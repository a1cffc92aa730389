from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builders import BODY, EMBEDDINGS, RESPONSES, cut, rows
from upath import UPath

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.identity import digest
from airflow_openai_batch.engine.model import State
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.lines import default_custom_ids
from airflow_openai_batch.engine.requests.sharding import MAX_OPEN, Built, ShardBuilder, build
from airflow_openai_batch.engine.requests.sources import source_of
from airflow_openai_batch.engine.requests.spill import MAX_FILES
from airflow_openai_batch.engine.store.index import read_index
from airflow_openai_batch.engine.store.job_store import JobStore


def built(store: JobStore, data: Any, limits: Limits | None = None, **changes: Any) -> Built:
    asked: dict[str, Any] = {"endpoint": RESPONSES, "body": BODY, "custom_id": None, **changes}
    endpoint, body = asked["endpoint"], asked["body"]
    return build(
        store,
        source_of(data, endpoint=endpoint, ready=body is None),
        bodies_of(body, endpoint),
        endpoint=endpoint,
        custom_id=asked["custom_id"],
        limits=limits or Limits(),
        epoch=asked.get("epoch", 0),
        state=asked.get("state", State.PLANNED),
    )


def requests(store: JobStore, name: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in store.read(name).split(b"\n") if text]


def kept_rows(store: JobStore, found: Built) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    tables = []
    for name in (name for shard in found.shards for name in shard.row_parts):
        with store.open(name) as file:
            tables.append(pq.read_table(file))
    return [row for table in tables for row in table.to_pylist()]


def files(store: JobStore) -> list[str]:
    return sorted(path.name for path in Path(str(store)).rglob("*") if path.is_file())


def test_the_request_file_holds_one_exact_request_a_row(store: JobStore) -> None:
    data = [{"id": 'a"b', "text": "x\u2028\n"}, {"id": "ü", "text": "{id}"}]
    [shard] = built(store, data, custom_id="{id}").shards
    assert requests(store, shard.requests) == [
        {
            "custom_id": row["id"],
            "method": "POST",
            "url": RESPONSES,
            "body": {"model": "gpt-6-luna", "input": row["text"]},
        }
        for row in data
    ]
    assert shard.n_bytes == store.size(shard.requests)
    assert (shard.n_rows, shard.n_requests, shard.state) == (2, 2, State.PLANNED)
    assert kept_rows(store, Built(shards=(shard,), n_rows=2, embeds_many=False)) == data


def test_the_index_names_row_custom_id_and_digest(store: JobStore) -> None:
    found = built(store, rows(3), cut(2))
    index = [read_index(store, shard.index) for shard in found.shards]
    digests = [digest(RESPONSES, canonical({**BODY, "input": row["text"]})) for row in rows(3)]
    assert [i.ordinals for i in index] == [[0, 1], [2]]
    assert [d for i in index for d in i.digests] == digests
    assert [c for i in index for c in i.custom_ids] == default_custom_ids(0, digests)
    assert [(s.id, s.first_row, s.n_rows) for s in found.shards] == [("0-00000", 0, 2), ("0-00001", 2, 1)]


def test_epoch_and_state_are_in_the_shards(store: JobStore) -> None:
    [shard] = built(store, rows(1), epoch=3, state=State.DRAFTED).shards
    assert (shard.id, shard.state) == ("3-00000", State.DRAFTED)
    assert shard.requests.startswith("e3/")


@pytest.mark.parametrize("limit", ["max_bytes", "max_tokens", "max_inputs", "max_requests"])
def test_a_shard_is_filled_to_its_limit_exactly(store: JobStore, limit: str) -> None:
    [whole] = built(store, rows(2)).shards
    full = {"max_bytes": whole.n_bytes, "max_tokens": whole.n_tokens, "max_inputs": 2, "max_requests": 2}[limit]
    exact, less = (built(store, rows(2), Limits(**{limit: n})).shards for n in (full, full - 1))
    assert ([s.n_rows for s in exact], [s.n_rows for s in less]) == ([2], [1, 1])


def by_model(store: JobStore, found: Built) -> list[tuple[str, list[int]]]:
    """The model of each shard, and the rows that it holds, as its index says; all its files agree."""
    shards = []
    for shard in found.shards:
        lines, index = requests(store, shard.requests), read_index(store, shard.index)
        [model] = {line["body"]["model"] for line in lines}
        assert index.custom_ids == [line["custom_id"] for line in lines]
        assert (shard.first_row, shard.n_rows) == (index.ordinals[0], len(index.ordinals))
        shards.append((model, index.ordinals))
    return shards


def test_a_shard_has_one_model_and_a_model_one_shard_while_there_is_room(store: JobStore) -> None:
    found = built(store, [{"m": m} for m in "aabba"], body={"model": "{m}", "input": "x"})
    assert by_model(store, found) == [("a", [0, 1, 4]), ("b", [2, 3])]
    assert kept_rows(store, found) == [{"m": m} for m in "aaabb"]


def test_rows_that_name_their_model_in_turns_are_as_few_shards_as_sorted_ones(store: JobStore) -> None:
    data = [{"text": f"t{i}", "model": ("gpt-a", "gpt-b")[i % 2]} for i in range(200)]
    found = built(store, data, body={"model": "{model}", "input": "{text}"})
    assert by_model(store, found) == [("gpt-a", list(range(0, 200, 2))), ("gpt-b", list(range(1, 200, 2)))]


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("n_models", [MAX_OPEN, MAX_OPEN + 1, MAX_OPEN * (MAX_FILES + 1) + 3])
def test_more_models_than_may_be_open_wait_for_each_other(store: JobStore, n_models: int, chunk: int) -> None:
    data = [{"m": f"m{i % n_models}", "i": i} for i in range(3 * n_models)]
    tables = [pa.Table.from_pylist(data[i : i + chunk]) for i in range(0, len(data), chunk)]
    found = built(store, lambda: iter(tables), cut(2), body={"model": "{m}", "input": "x"})
    expected = {f"m{i}": [[i, i + n_models], [i + 2 * n_models]] for i in range(n_models)}
    shards = by_model(store, found)
    assert len(shards) == 2 * n_models
    for model, its_rows in expected.items():
        assert [ordinals for name, ordinals in shards if name == model] == its_rows
    for shard, (_, ordinals) in zip(found.shards, shards, strict=True):
        assert kept_rows(store, Built(shards=(shard,), n_rows=0, embeds_many=False)) == [data[i] for i in ordinals]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open files")
def test_few_files_are_open_however_many_models_there_are(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watching(ShardBuilder):
        def _add(self, *args: Any) -> None:
            super()._add(*args)
            seen.append(len(list(Path("/proc/self/fd").iterdir())))

    monkeypatch.setattr("airflow_openai_batch.engine.requests.sharding.ShardBuilder", Watching)
    n_before = len(list(Path("/proc/self/fd").iterdir()))
    tables = [pa.table({"m": [f"m{i}" for i in range(300)]})] * 2
    found = built(store, lambda: iter(tables), body={"model": "{m}", "input": "x"})
    assert len(found.shards) == 300
    assert max(seen) <= n_before + 3 * MAX_OPEN + MAX_FILES + 2


@pytest.mark.parametrize("n_models", [3, MAX_OPEN + 3])
@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "c" * 40, "d"], pa.string_view()),
        pa.array([b"a", None, b"c" * 40, b"d"], pa.binary_view()),
        pa.array(["a", None, "c", "a"]).dictionary_encode(),
        pa.array([{"x": "a"}, None, {"x": "b" * 40}, {"x": None}], pa.struct([("x", pa.string_view())])),
        pa.array([1_600_000_000_000_000_001, None, 3, 4], pa.timestamp("ns", "UTC")),
        pa.array([[1.5], None, [], [2.5, None]], pa.list_(pa.float32())),
    ],
    ids=lambda column: str(column.type)[:12],
)
def test_input_columns_of_every_type_are_divided_by_model(store: JobStore, column: pa.Array, n_models: int) -> None:
    n = 12 * n_models
    values = pa.chunked_array([column] * (n // 4)).combine_chunks()
    table = pa.table({"m": [f"m{i % n_models}" for i in range(n)], "v": values, "i": range(n)})
    found = built(store, lambda: iter([table.slice(0, 50), table.slice(50)]), body={"model": "{m}", "input": "x"})
    assert len(found.shards) == n_models
    expected = table.to_pylist()
    assert sorted(kept_rows(store, found), key=lambda row: row["i"]) == expected
    for shard, (_, ordinals) in zip(found.shards, by_model(store, found), strict=True):
        assert [row["i"] for row in kept_rows(store, Built(shards=(shard,), n_rows=0, embeds_many=False))] == ordinals


def test_a_callable_and_ready_made_lines_may_name_a_model_for_each_row(store: JobStore) -> None:
    bodies = [{"model": "ab"[i % 2], "input": str(i)} for i in range(6)]
    found = built(store, [{"i": i} for i in range(6)], body=lambda row: bodies[row["i"]])
    ready = built(
        store, [{"custom_id": f"c{i}", "url": RESPONSES, "body": body} for i, body in enumerate(bodies)], body=None
    )
    for either in (found, ready):
        assert by_model(store, either) == [("a", [0, 2, 4]), ("b", [1, 3, 5])]
        assert [line["body"] for s in either.shards for line in requests(store, s.requests)] == bodies[::2] + bodies[
            1::2
        ]


@pytest.mark.parametrize("models", ["aaa", "aba", "aab", "abc"])
def test_a_custom_id_that_repeats_in_the_shard_of_another_model_is_named_with_both_rows(
    store: JobStore, models: str
) -> None:
    data = [{"id": i, "m": m} for i, m in zip("xyx", models, strict=True)]
    with pytest.raises(InputError, match="Rows 0 and 2 have the same custom_id 'x'"):
        built(store, data, body={"model": "{m}", "input": "x"}, custom_id="{id}")


def test_a_repeated_custom_id_is_named_in_row_order_though_its_rows_waited(store: JobStore) -> None:
    data = [{"id": str(i), "m": f"m{i}"} for i in range(MAX_OPEN)]
    data += [{"id": "same", "m": "late"}, {"id": "same", "m": "m0"}]
    with pytest.raises(InputError, match=f"Rows {MAX_OPEN} and {MAX_OPEN + 1} have the same custom_id 'same'"):
        built(store, data, body={"model": "{m}", "input": "x"}, custom_id="{id}")


def test_rows_among_other_models_are_named_by_their_place_in_the_input(store: JobStore) -> None:
    data = [{"id": "", "m": "ab"[i % 2], "text": "x"} for i in range(6)]
    body = {"model": "{m}", "input": "{text}"}
    for at, changes, message in (
        (3, {"id": ""}, "row 3: the custom_id is empty"),
        (5, {"text": "x" * 500}, "row 5: the request has .* bytes"),
    ):
        rows_ = [{**row, "id": str(i)} | (changes if i == at else {}) for i, row in enumerate(data)]
        with pytest.raises(InputError, match=message):
            built(store, rows_, Limits(max_bytes=300), body=body, custom_id="{id}")


@pytest.mark.parametrize("limit", [cut(2), cut(50_000)], ids=["one shard each", "same shard"])
@pytest.mark.parametrize("ids", [["a", "b", "a"], ["a", "b", "c", "d", "b"]])
def test_a_repeated_custom_id_is_named_with_both_rows(store: JobStore, limit: Limits, ids: list[str]) -> None:
    first = ids.index(ids[-1])
    with pytest.raises(InputError, match=f"Rows {first} and {len(ids) - 1} have the same custom_id '{ids[-1]}'"):
        built(store, [{"id": i} for i in ids], limit, body={"model": "m", "input": "x"}, custom_id="{id}")


def test_an_empty_custom_id_is_named(store: JobStore) -> None:
    with pytest.raises(InputError, match="row 1: the custom_id is empty"):
        built(store, [{"id": "a", "text": ""}, {"id": None, "text": ""}], custom_id="{id}")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_bytes=200), "row 1: the request has .* bytes; a batch input file may have 200"),
        (Limits(max_tokens=30), "row 1: about .* tokens; max_enqueued_tokens is 30"),
    ],
)
def test_a_request_that_never_fits_is_named(store: JobStore, limits: Limits, message: str) -> None:
    with pytest.raises(InputError, match=message):
        built(store, [{"text": "x"}, {"text": "x" * 500}], limits)


def test_a_request_with_too_many_inputs_is_named(store: JobStore) -> None:
    body = {"model": "m", "input": "{v!json}"}
    with pytest.raises(InputError, match="row 1: 3 inputs; a batch may have 2"):
        built(store, [{"v": ["a"]}, {"v": ["a"] * 3}], Limits(max_inputs=2), body=body, endpoint=EMBEDDINGS)


def test_a_job_knows_whether_a_request_embeds_many(store: JobStore) -> None:
    one = built(store, [{"v": ["a"]}], body={"model": "m", "input": "{v!json}"}, endpoint=EMBEDDINGS)
    many = built(
        store, [{"v": ["a"]}, {"v": ["a", "b"]}], body={"model": "m", "input": "{v!json}"}, endpoint=EMBEDDINGS
    )
    assert (one.embeds_many, many.embeds_many) == (False, True)


def test_no_rows_are_an_error(store: JobStore) -> None:
    with pytest.raises(InputError, match=r"There are no rows\. Nothing was uploaded"):
        built(store, [])


def test_an_unknown_column_is_said_before_anything_is_written(store: JobStore) -> None:
    with pytest.raises(InputError, match=r"custom_id uses \{nr\}.*Columns: id, text"):
        built(store, rows(2), custom_id="{nr}")
    with pytest.raises(InputError, match=r"body uses \{nr\}"):
        built(store, rows(2), body={"model": "m", "input": "{nr}"})
    assert files(store) == []


def test_after_an_error_nothing_of_the_open_shard_is_there(store: JobStore) -> None:
    def data() -> Iterator[dict[str, str]]:
        yield from rows(3)
        raise OSError("the database went away")

    with pytest.raises(OSError, match="went away"):
        built(store, data)
    with pytest.raises(InputError, match="row 1"):
        built(store, [{"text": "x"}, {"text": "x" * 500}], Limits(max_bytes=200))
    # What is there are whole files of finished shards, which no snapshot names.
    assert [name for name in files(store) if name.endswith(".jsonl")] == [
        name for name in files(store) if name.startswith("0-00000") and name.endswith(".jsonl")
    ]
    for path in Path(str(store)).rglob("*.jsonl"):
        assert [json.loads(text)["custom_id"] for text in path.read_bytes().splitlines()]


# -- columns that change from chunk to chunk -------------------------------------------------------------------------


def chunks(*frames: pa.Table) -> Any:
    return lambda: iter(frames)


def test_a_column_may_be_null_first_and_text_later(store: JobStore) -> None:
    found = built(store, chunks(pa.table({"text": pa.nulls(2)}), pa.table({"text": ["a"]})))
    [shard] = found.shards
    assert [r["body"]["input"] for r in requests(store, shard.requests)] == ["", "", "a"]
    assert kept_rows(store, found) == [{"text": None}, {"text": None}, {"text": "a"}]
    assert len(shard.row_parts) == 2


def test_a_column_may_be_whole_numbers_first_and_fractions_later(store: JobStore) -> None:
    found = built(store, chunks(pa.table({"text": [1]}), pa.table({"text": [1.5]})))
    assert kept_rows(store, found) == [{"text": 1}, {"text": 1.5}]


def test_numbers_first_and_texts_later_are_refused(store: JobStore) -> None:
    with pytest.raises(InputError, match="From row 2 on, column 'text' changes its type from int64 to string"):
        built(store, chunks(pa.table({"text": [1, 2]}), pa.table({"text": ["a"]})))


def test_a_key_that_later_rows_lack_is_null_there(store: JobStore) -> None:
    data = [{"id": str(i), "text": "x"} for i in range(BATCH_ROWS)] + [{"id": "last"}]
    found = built(store, lambda: iter(data))
    assert [r["body"]["input"] for r in requests(store, found.shards[0].requests)][-2:] == ["x", ""]


def test_two_columns_of_one_name_are_refused(store: JobStore) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(InputError, match="several columns named 'text'"):
        built(store, table)


def test_columns_that_parquet_cannot_hold_are_refused_by_name(store: JobStore) -> None:
    table = pa.table({"text": ["a"], "extra": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(InputError, match="Column 'extra' has the type month_day_nano_interval"):
        built(store, table)


# -- ready-made lines ------------------------------------------------------------------------------------------------


def test_ready_made_lines_keep_their_ids_and_bodies(store: JobStore) -> None:
    data = [
        {"custom_id": f"c{i}", "method": "POST", "url": RESPONSES, "body": {"model": "m", "input": str(i), "a": {}}}
        for i in range(3)
    ]
    found = built(store, data, body=None)
    assert requests(store, found.shards[0].requests) == data
    assert found.shards[0].row_parts == ()


def test_ready_made_lines_that_would_fail_the_batch_are_named(store: JobStore) -> None:
    data = [{"custom_id": "a", "url": RESPONSES, "body": {"model": "m", "input": "x"}}]
    with pytest.raises(InputError, match="row 1: the body lacks 'model'"):
        built(store, [*data, {"custom_id": "b", "url": RESPONSES, "body": {"input": "x"}}], body=None)
    with pytest.raises(InputError, match="Rows 0 and 1 have the same custom_id"):
        built(store, data * 2, body=None)


@pytest.mark.parametrize("names", [("custom_id", "body"), ("body", "custom_id")])
def test_users_columns_named_custom_id_and_body_are_ordinary_columns(store: JobStore, names: tuple[str, str]) -> None:
    data = [dict(zip(names, row, strict=True)) for row in (("a", "b"), ("a", "c"))]
    found = built(store, data, body={"model": "m", "input": "{body}"})
    assert kept_rows(store, found) == data
    assert [r["body"]["input"] for r in requests(store, found.shards[0].requests)] == [row["body"] for row in data]


def test_a_store_in_memory_takes_the_same_files() -> None:
    from builders import KEY

    memory = JobStore(UPath("memory://test-shard"), KEY)
    found = built(memory, rows(3), cut(2))
    assert [len(requests(memory, s.requests)) for s in found.shards] == [2, 1]
    assert kept_rows(memory, found) == rows(3)
