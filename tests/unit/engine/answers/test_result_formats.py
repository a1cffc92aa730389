"""Result files that are not JSON lines: what is certain is read, and what is not proves nothing of a row."""

from __future__ import annotations

import contextlib
import gzip
import json
import tempfile

import pytest
from builders import World, answer, cut

from airflow_openai_batch.engine.answers import result_formats
from airflow_openai_batch.engine.answers.result_formats import as_json_lines
from airflow_openai_batch.engine.model import Status

S = Status
IDS = ["t0", "t1", "t2"]
LINES = [answer(i, f"good \u2028 {i}") for i in IDS]
WHOLE = b"\n".join(LINES) + b"\n"
OBJECTS = [json.loads(line) for line in LINES]

CERTAIN = {
    "lines": WHOLE,
    "no last line end": WHOLE[:-1],
    "windows line ends": WHOLE.replace(b"\n", b"\r\n"),
    "old mac line ends": WHOLE.replace(b"\n", b"\r"),
    "byte order mark": b"\xef\xbb\xbf" + WHOLE,
    "UTF-16": WHOLE.decode().encode("utf-16"),
    "UTF-16, the other way round": b"\xfe\xff" + WHOLE.decode().encode("utf-16-be"),
    "gzip": gzip.compress(WHOLE),
    "gzip of an array": gzip.compress(json.dumps(OBJECTS).encode()),
    "an array": json.dumps(OBJECTS).encode(),
    "a pretty array": json.dumps(OBJECTS, indent=2).encode(),
    "pretty objects": b"\n".join(json.dumps(value, indent=1).encode() for value in OBJECTS),
    "objects in one line": b"".join(json.dumps(value).encode() for value in OBJECTS),
    "repeated lines": WHOLE * 2,
    "with blank lines": WHOLE.replace(b"\n", b"\n\n"),
}
DOUBTFUL = {
    "HTML": b"<html>\n<body>maintenance</body>\n</html>\n",
    "empty": b"",
    "half of the lines": LINES[0] + b"\n",
    "cut in a line": WHOLE[: len(WHOLE) // 2],
    "gzip, cut": gzip.compress(WHOLE)[:-20],
    "an array, cut": json.dumps(OBJECTS).encode()[:-9],
    "ids in upper case": WHOLE.replace(b'"t', b'"T'),
    "ids with a space": WHOLE.replace(b'"custom_id": "t', b'"custom_id": " t'),
    "ids dropped": WHOLE.replace(b'"custom_id"', b'"id_custom"'),
    "ids null": b"".join(json.dumps({**value, "custom_id": None}).encode() + b"\n" for value in OBJECTS),
    "lines of another job": b"".join(answer(f"x{i}") + b"\n" for i in range(3)),
}


def served(world: World, data: bytes, **counts: int) -> None:
    """Let the batch end with a result file of these bytes."""
    world.submit(3)
    world.waits()
    world.api.finish("batch_0")
    file_id = world.api.made["batch_0"].output_file_id or ""
    world.api.files[file_id] = data
    world.api.change("batch_0", n_total=3, n_completed=3, n_failed=0, **counts)


def outputs(world: World) -> list[str | None]:
    from airflow_openai_batch.engine.results.sinks import ListSink
    from airflow_openai_batch.engine.results.writer import write_results

    sink = ListSink()
    write_results(world.store, world.job, sink)
    return [row["output"] for row in sink.rows]


@pytest.mark.parametrize("form", CERTAIN)
def test_answers_in_another_form_are_read(world: World, form: str) -> None:
    served(world, CERTAIN[form])
    assert world.done().summary.by_status == {S.SUCCEEDED: 3}
    assert outputs(world) == [f"good \u2028 {i}" for i in IDS]
    assert len(world.api.made) == 1


@pytest.mark.parametrize("form", DOUBTFUL)
def test_a_file_that_proves_nothing_is_fetched_again_and_then_for_a_person(world: World, form: str) -> None:
    served(world, DOUBTFUL[form])
    hours = 0.0
    while not isinstance(reached := world.advance(), type(None)) and hasattr(reached, "wake_at"):
        pause_s = max(reached.wake_at - world.clock(), 1.0)
        world.later(pause_s)
        hours += pause_s / 3600
        assert hours < 12, "neither held nor done"
    assert "not whole, or not all there" in reached.reason and "accept-missing" in reached.reason
    assert hours >= 6 and len(world.api.made) == 1, "nothing is asked again"
    evidence = world.job.shards[0].evidence
    assert evidence is not None and len(evidence.raw) == (1 if DOUBTFUL[form] else 0)
    assert [world.store.read(name) for name in evidence.raw] == [DOUBTFUL[form]] * len(evidence.raw)
    assert world.api.calls["download"] < 80
    # It was a bad day of the server's: the next look, after a clear, finds all there is.
    world.api.files[world.api.made["batch_0"].output_file_id or ""] = WHOLE
    world.later(1800)
    assert world.done().summary.by_status == {S.SUCCEEDED: 3}
    assert len(world.api.made) == 1


def test_what_arrived_at_one_look_counts_at_the_next(world: World) -> None:
    served(world, LINES[0] + b"\n" + LINES[1] + b"\n")
    world.later(world.waits().wake_at - world.clock())
    world.api.files[world.api.made["batch_0"].output_file_id or ""] = LINES[2] + b"\n"
    assert world.done().summary.by_status == {S.SUCCEEDED: 3}
    assert len(world.api.made) == 1


def test_a_file_that_is_named_late_is_found(world: World) -> None:
    served(world, WHOLE)
    named = world.api.made["batch_0"].output_file_id
    world.api.change("batch_0", output_file_id=None)
    while world.job.shards[0].evidence is None:  # past the time that a late id is waited for without doubt
        world.later(max(world.waits().wake_at - world.clock(), 60.0))
        assert world.clock() < 1_000_000 + 7200
    world.api.change("batch_0", output_file_id=named)
    world.later(1800)
    assert world.done().summary.by_status == {S.SUCCEEDED: 3}


@pytest.mark.parametrize("command", ["accept_missing", "ask_missing"])
def test_a_person_decides_of_the_rest_and_only_of_what_was_in_doubt_then(world: World, command: str) -> None:
    world.store.command(command, at=world.clock())  # type: ignore[arg-type] # of before: about something else
    world.later(1)
    served(world, LINES[0] + b"\n")
    world.later(world.waits().wake_at - world.clock())
    world.later(world.waits().wake_at - world.clock())
    world.store.command(command, at=world.clock())  # type: ignore[arg-type]
    if command == "accept_missing":
        assert world.done().summary.by_status == {S.SUCCEEDED: 1, S.MISSING: 2}
        assert len(world.api.made) == 1
        return
    world.waits()
    assert [request["custom_id"] for request in world.api.requests("batch_1")] == ["t1", "t2"]
    world.api.finish("batch_1")
    world.later(60)
    assert world.done().summary.by_status == {S.SUCCEEDED: 3}


def test_ids_of_digits_may_come_as_numbers(world: World) -> None:
    world.submit([{"id": f"{i}", "text": "x"} for i in range(3)])
    world.waits()
    world.api.finish("batch_0")
    data = b"".join(json.dumps({**json.loads(answer("x")), "custom_id": i}).encode() + b"\n" for i in range(3))
    world.api.files[world.api.made["batch_0"].output_file_id or ""] = data
    assert world.done().summary.by_status == {S.SUCCEEDED: 3}


def test_the_output_file_was_never_written_and_all_rows_failed(world: World) -> None:
    from builders import failure

    world.submit(3)
    world.waits()
    world.api.finish("batch_0", None, lambda i: failure(i, 400, "invalid_value"))
    world.api.change("batch_0", output_file_id="file-never-written")
    assert world.done().summary.by_status == {S.FAILED: 3}


def test_another_shard_goes_on_meanwhile(world: World) -> None:
    world.submit(4, limits=cut(2))
    world.waits()
    for batch_id in world.api.running:
        world.api.finish(batch_id)
    world.api.files[world.api.made["batch_0"].output_file_id or ""] = b""
    world.waits()
    assert [shard.state.value for shard in world.job.shards] == ["ended", "settled"]


def test_what_unpacks_to_too_much_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_formats, "_MAX_CONVERTED_BYTES", 1000)
    monkeypatch.setattr(result_formats, "_COPY_BYTES", 100)
    with contextlib.ExitStack() as stack, tempfile.TemporaryFile() as file:
        file.write(gzip.compress(b" " * 100_000))
        assert as_json_lines(stack, file) is file
