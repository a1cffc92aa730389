"""What answers were like in the last job of a task is what the next one expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders as make
import msgspec
import pytest
from builders import KEY, World
from upath import UPath

from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.history import FOLDER
from airflow_openai_batch.engine.model import Job, JobKey
from airflow_openai_batch.engine.money.estimate import estimate_of
from airflow_openai_batch.engine.money.prices import Prices
from airflow_openai_batch.engine.store.job_store import JobStore

BODY: dict[str, Any] = {"model": "gpt-6-luna", "input": "{text}", "max_output_tokens": 100}


class Nights:
    """Jobs of one storage, one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.n = 0

    def world(self, owner: str = "", **key: Any) -> World:
        self.n += 1
        night: JobKey = msgspec.structs.replace(KEY, **{"run_id": f"night {self.n}", **key})
        world = World(JobStore(UPath(self.root), night, owner))
        world.clock.now += 86_400 * self.n
        return world

    def ended(self, n_rows: int = 25, output: int = 12, body: dict[str, Any] | None = None, **key: Any) -> World:
        """A night whose answers have a length."""
        world = self.world(**key)
        usage = {"input_tokens": 9, "output_tokens": output}
        world.ended(
            lambda i: make.line(i, make.responses_body("good", usage=usage)), make.rows(n_rows), body=body or BODY
        )
        return world

    def planned(self, body: dict[str, Any] | None = None, endpoint: str = make.RESPONSES, **key: Any) -> Job:
        return self.world(**key).submit(10, body=body or BODY, endpoint=endpoint)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in (self.root / FOLDER).rglob("*.json"))


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path / "store")


def expected(job: Job) -> tuple[int | None, str]:
    told = estimate_of(job, Prices())
    return told.output_tokens, told.basis


def test_the_next_night_expects_answers_as_long_as_those_of_the_last(nights: Nights) -> None:
    assert expected(nights.planned()) == (1000, "bound")
    nights.ended(output=12)
    assert expected(nights.planned()) == (120, "earlier")
    nights.ended(output=30)
    assert expected(nights.planned()) == (300, "earlier")


def test_what_is_expected_is_in_the_plan_and_does_not_change(nights: Nights) -> None:
    nights.ended(output=12)
    world = nights.world()
    world.submit(10, body=BODY)
    nights.ended(output=30)
    assert expected(world.job) == (120, "earlier")


@pytest.mark.parametrize(
    "other",
    [
        {"body": {**BODY, "model": "gpt-6-sol"}},
        {"body": {"model": "gpt-6-luna", "input": "{text}", "encoding_format": "float"}, "endpoint": make.EMBEDDINGS},
        {"dag_id": "another"},
        {"task_id": "another"},
        {"map_index": 3},
        {"owner": "another deployment"},
    ],
)
def test_another_model_endpoint_task_or_deployment_tells_nothing(nights: Nights, other: dict[str, Any]) -> None:
    nights.ended(output=12, owner="this deployment")
    assert expected(nights.planned(**other))[1] == "bound"


def test_an_older_night_tells_of_a_model_that_the_last_did_not_ask(nights: Nights) -> None:
    nights.ended(output=12)
    nights.ended(output=30, body={**BODY, "model": "gpt-6-sol"})
    assert expected(nights.planned()) == (120, "earlier")


def test_a_few_answers_are_not_kept(nights: Nights) -> None:
    nights.ended(n_rows=19)
    assert nights.names == []


def test_a_deleted_run_and_a_cleaned_store_leave_what_is_known(nights: Nights) -> None:
    import shutil

    world = nights.ended(output=12)
    shutil.rmtree(str(world.store))
    assert expected(nights.planned()) == (120, "earlier")


def test_only_the_newest_are_kept_and_each_night_once(nights: Nights) -> None:
    for _ in range(23):
        world = nights.ended(n_rows=20)
        advance(world.engine)
    assert len(nights.names) == 20
    assert len(set(nights.names)) == 20


@pytest.mark.parametrize("content", [b"", b"{", b'{"run_id": 3}'])
def test_a_file_that_cannot_be_read_holds_nobody_up(nights: Nights, content: bytes) -> None:
    nights.ended(output=12)
    nights.ended(output=30)
    older, newer = sorted((nights.root / FOLDER).rglob("*.json"))
    newer.write_bytes(content)
    assert expected(nights.planned()) == (120, "earlier")
    older.write_bytes(content)
    assert expected(nights.planned())[1] == "bound"


def test_a_storage_that_lets_nothing_be_written_there_holds_nobody_up(nights: Nights) -> None:
    nights.root.mkdir()
    (nights.root / FOLDER).write_text("a file where the folder should be")
    assert nights.ended().job.shards
    assert expected(nights.planned())[1] == "bound"


def test_no_prompt_and_no_answer_is_kept(nights: Nights) -> None:
    nights.ended(body={**BODY, "instructions": make.SECRET})
    (path,) = (nights.root / FOLDER).rglob("*.json")
    make.has_no_secret(path.read_text())
    assert msgspec.json.decode(path.read_bytes())["output_tokens"] == {"gpt-6-luna": 12.0}
