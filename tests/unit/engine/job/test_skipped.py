from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import BODY, CHAT, EMBEDDINGS, RESPONSES, TIMING, World, answer, cut, failure, line
from upath import UPath

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.summary import check_thresholds
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Policy, State, Status
from airflow_openai_batch.engine.progress.compute import progress_of
from airflow_openai_batch.engine.progress.shards import shards_of
from airflow_openai_batch.engine.results.error_counts import skipped_rows
from airflow_openai_batch.engine.results.sinks import FileSink, ListSink
from airflow_openai_batch.engine.results.writer import Written, manifest, write_results

S = Status


def data(texts: str, **columns: Any) -> list[dict[str, Any]]:
    """Rows whose text is null where there is a dot."""
    return [{"id": f"t{i}", "text": None if c == "." else c, **columns} for i, c in enumerate(texts)]


def table(world: World) -> list[dict[str, Any]]:
    sink = ListSink()
    write_results(world.store, world.job, sink)
    return sink.rows


def statuses(world: World) -> str:
    return "".join(row["status"][1] for row in table(world))  # succeeded: u, skipped: k, failed: a


def asked(world: World) -> Counter[str]:
    return Counter(line["custom_id"] for name in world.api.made for line in world.api.requests(name))


@pytest.mark.parametrize("texts", [".ab", "a.b..c", "ab.", "a...............b", "..a"])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_skipped_rows_are_not_sent_and_come_back_in_their_places(world: World, texts: str, n: int) -> None:
    world.ended(data=data(texts), limits=cut(n))
    found = table(world)
    assert [(row["id"], row["custom_id"]) for row in found] == [(f"t{i}", f"t{i}") for i in range(len(texts))]
    assert [row["status"] for row in found] == ["skipped" if c == "." else "succeeded" for c in texts]
    assert asked(world) == {f"t{i}": 1 for i, c in enumerate(texts) if c != "."}
    assert {row["error_code"] for row in found if row["status"] == "skipped"} == {"null_prompt"}


def test_counts_add_up_everywhere_and_a_skipped_row_is_no_bad_one(world: World) -> None:
    world.ended(data=data("a." * 10))
    summary = world.done().summary
    assert summary.by_status == {S.SUCCEEDED: 10, S.SKIPPED: 10} and summary.n_rows == 20
    assert check_thresholds(summary, Policy(max_bad_ratio=0, max_bad_rows=0)) is None
    written: Written = write_results(world.store, world.job, ListSink())
    told = manifest(written)
    assert told["by_status"] == {"skipped": 10, "succeeded": 10} and told["errors"] == [] and told["rows"] == 20


def test_skipped_rows_are_no_shard_of_those_that_are_counted_or_shown(world: World) -> None:
    world.submit(data("a.b."))
    progress = progress_of(world.job, world.clock(), TIMING)
    assert (progress.n_shards, progress.n_settled) == (1, 0)
    shown = shards_of(world.job, world.clock())
    assert shown["n_shards"] == 1 and [shard["n_rows"] for shard in shown["shards"]] == [2]
    assert progress.by_status == {"skipped": 2}


def test_skipped_rows_are_told_with_their_reason_and_examples(world: World) -> None:
    world.ended(data=data("." * 5 + "a"))
    told = skipped_rows(world.store, world.job)
    assert told is not None and (told.n, told.status, told.code) == (5, "skipped", "null_prompt")
    assert told.custom_ids == ("t0", "t1", "t2") and "null or blank" in (told.message or "")


def test_without_skipped_rows_nothing_is_told_of_them(world: World) -> None:
    world.ended(data=data("ab"))
    assert skipped_rows(world.store, world.job) is None


def test_the_share_of_bad_rows_is_that_of_the_rows_that_were_asked(world: World) -> None:
    world.ended(
        lambda i: failure(i, 400) if i == "t0" else answer(i), data("abcd" + "." * 96), policy=Policy(max_rounds=0)
    )
    problem = check_thresholds(world.done().summary, world.job.policy)
    assert problem is not None and "of 4 rows" in problem


def test_a_job_that_has_nothing_to_ask_is_done_at_once_and_red(world: World) -> None:
    world.submit(data("..."))
    summary = world.done().summary
    assert not world.api.calls["upload"] and summary.by_status == {S.SKIPPED: 3}
    assert "all 3 rows were skipped" in (check_thresholds(summary, Policy()) or "")
    assert [row["status"] for row in table(world)] == ["skipped"] * 3


def test_models_in_turns_with_skipped_rows_between_them(world: World) -> None:
    rows = [{"id": f"t{i}", "m": m, "text": None if m == "." else "x"} for i, m in enumerate("ab.ba..ab.cab")]
    world.ended(data=rows, body={"model": "{m}", "input": "{text}"}, limits=cut(2))
    found = table(world)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["status"] == "skipped" for row in found] == [row["text"] is None for row in rows]
    sent = [{request["body"]["model"] for request in world.api.requests(name)} for name in world.api.made]
    assert all(len(models) == 1 for models in sent)


def test_more_models_than_may_be_open_with_skipped_rows(world: World) -> None:
    rows = [{"id": f"t{i}", "m": f"m{i % 40}", "text": None if i % 7 == 0 else "x"} for i in range(120)]
    world.ended(data=rows, body={"model": "{m}", "input": "{text}"})
    assert [row["id"] for row in table(world)] == [row["id"] for row in rows]
    assert world.done().summary.by_status == {S.SUCCEEDED: 102, S.SKIPPED: 18}


def test_embeddings_skip_too_and_their_vectors_are_null(world: World) -> None:
    def vector(custom_id: str) -> bytes:
        body = {"model": "e", "data": [{"index": 0, "embedding": [0.5, 1.0]}], "usage": {"prompt_tokens": 1}}
        return line(custom_id, body)

    world.ended(vector, data("a.b"), endpoint=EMBEDDINGS, body={"model": "e", "input": "{text}"})
    assert [row["output"] for row in table(world)] == [[0.5, 1.0], None, [0.5, 1.0]]


def test_ready_made_lines_skip_too(world: World) -> None:
    def ready(i: int, content: str) -> dict[str, Any]:
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        return {"custom_id": f"c{i}", "method": "POST", "url": CHAT, "body": body}

    world.submit([ready(0, "a"), ready(1, " "), ready(2, "c")], endpoint=CHAT, body=None, custom_id=None)
    world.advance()
    assert sorted(asked(world)) == ["c0", "c2"] and world.job.n_rows == 3


# -- retries and clears --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [lambda rows: rows, lambda rows: lambda: iter(rows)])
def test_the_same_rows_take_up_the_job(world: World, source: Any) -> None:
    rows = data("a.b.")
    made = world.submit(source(rows))
    assert world.submit(source(rows)) == made and world.number == 0
    world.ended(data=source(rows))
    assert world.job.epoch == 0 and statuses(world) == "ukuk"


def test_a_row_that_is_filled_later_is_asked_and_the_others_are_carried_over(world: World) -> None:
    world.ended(data=data("a.b."))
    world.ended(data=data("a.bX"))
    assert world.job.epoch == 1 and statuses(world) == "ukuu"
    assert asked(world) == {"t0": 1, "t2": 1, "t3": 1}


def test_a_row_that_became_null_is_skipped_then(world: World) -> None:
    world.ended(data=data("abc"))
    world.ended(data=data("a.c"))
    assert statuses(world) == "uku" and sum(asked(world).values()) == 3


def test_another_on_null_is_another_request_only_for_null_rows(world: World) -> None:
    world.ended(data=data("ab"))
    world.submit(data("ab"), on_null="fail")
    assert world.job.epoch == 0 and world.job.spec.on_null == "fail"  # nothing to compare the next time
    world.ended(data=data("a."), start_over="1")
    world.ended(data=data("a."), on_null="send")
    assert statuses(world) == "uu" and asked(world)["t1"] == 2
    with pytest.raises(InputError, match=r"row 1: .*on_null='fail'"):
        world.submit(data("a."), on_null="fail")


def test_rows_that_fail_are_asked_again_and_skipped_ones_are_not(world: World) -> None:
    tries: Counter[str] = Counter()

    def at_second(custom_id: str) -> bytes | None:
        tries[custom_id] += 1
        return answer(custom_id) if tries[custom_id] > 1 else line(custom_id, error={"code": "batch_expired"})

    world.ended(at_second, data("a.b"))
    assert statuses(world) == "uku" and tries == {"t0": 2, "t2": 2}


def test_a_job_of_an_earlier_version_sent_null_prompts_and_says_so(world: World) -> None:
    world.submit(data("a."), on_null="send")
    stored = json.loads(next(Path(str(world.store)).rglob("state/*.json")).read_bytes())
    assert "on_null" not in stored["spec"] and world.job.spec.on_null == "send"


# -- no rows -------------------------------------------------------------------------------------------------------


def empty_files(folder: Path) -> list[Any]:
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    pq.write_table(schema.empty_table(), folder / "rows.parquet")
    (folder / "rows.csv").write_text("id,text\n")
    (folder / "many").mkdir()
    pq.write_table(schema.empty_table(), folder / "many" / "part.parquet")
    frame = pd.DataFrame({"id": pd.Series([], dtype="str"), "text": pd.Series([], dtype="str")})
    return [UPath(folder / "rows.parquet"), UPath(folder / "rows.csv"), UPath(folder / "many" / "*.parquet"), frame]


@pytest.mark.parametrize("number", range(4), ids=["parquet", "csv", "pattern", "frame"])
@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_no_rows_may_make_an_empty_file_with_its_columns(
    world: World, tmp_path: Path, number: int, ending: str
) -> None:
    world.submit(empty_files(tmp_path)[number], on_empty="succeed")
    summary = world.done().summary
    assert (summary.n_rows, check_thresholds(summary, Policy())) == (0, None) and not world.api.calls["upload"]
    path = tmp_path / f"out.{ending}"
    written = write_results(world.store, world.job, FileSink(UPath(path)))
    assert list(written.columns) == ["id", "text", *RESULT_COLUMNS] and written.n_rows == 0
    if ending == "parquet":
        assert pq.read_table(path).schema.names == list(written.columns)
        # An empty column of pandas 2 is of objects, which may be anything.
        assert pq.read_schema(path).field("id").type in (pa.string(), pa.large_string(), pa.null())
    else:
        assert path.read_text().strip().replace('"', "") == (",".join(written.columns) if ending == "csv" else "")


@pytest.mark.parametrize("rows", [[], lambda: iter(())])
def test_no_rows_without_columns_make_an_empty_table_of_the_fixed_columns(world: World, rows: Any) -> None:
    world.submit(rows, on_empty="skip")
    assert world.done().summary.n_rows == 0 and table(world) == []


def test_no_rows_fail_unless_that_is_allowed_and_the_message_says_how(world: World) -> None:
    with pytest.raises(InputError, match=r"There are no rows\..*on_empty='skip' or 'succeed'"):
        world.submit([])
    with pytest.raises(InputError, match="on_empty must be one of 'fail', 'skip', 'succeed', is 'ignore'"):
        world.submit([], on_empty="ignore")


@pytest.mark.parametrize("source", [lambda rows: rows, lambda rows: lambda: iter(rows)])
def test_an_empty_job_takes_the_rows_that_came_later(world: World, source: Any) -> None:
    world.submit(source([]), on_empty="succeed")
    world.done()
    world.ended(data=source(data("ab")), on_empty="succeed")
    assert world.job.n_rows == 2 and statuses(world) == "uu"


def test_rows_that_vanished_are_no_longer_asked(world: World) -> None:
    world.submit(data("ab"))
    world.waits()
    world.submit([], on_empty="succeed")
    world.waits()
    assert world.api.calls["cancel"] == 1 and world.job.n_rows == 0
    world.api.finish("batch_0", status="cancelled")
    assert world.done().summary.n_rows == 0
    assert [shard.state for shard in world.job.shards] == [State.SETTLED] * len(world.job.shards)


def test_rows_whose_columns_are_unknown_still_need_those_of_the_body(world: World) -> None:
    with pytest.raises(InputError, match="no such column"):
        world.submit([{"id": "t0"}], body={**BODY, "input": "{text}"}, endpoint=RESPONSES)
