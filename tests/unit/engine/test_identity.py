from __future__ import annotations

import re

import pytest
from builders import KEY, shard

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.identity import (
    child_id,
    digest,
    job_hash,
    job_path,
    nonce,
    parse_nonce,
    parse_upload_name,
    place_hash,
    shard_id,
    spec_digest,
    upload_name,
)
from airflow_openai_batch.engine.model import JobKey, Spec, State, root_id


def test_digest_ignores_key_order() -> None:
    assert digest("/v1/responses", canonical({"a": 1, "b": [{"x": 1, "y": 2}]})) == digest(
        "/v1/responses", canonical({"b": [{"y": 2, "x": 1}], "a": 1})
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": "1"}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": None}, {}),
        ({"a": "x"}, {"a": "x "}),
        ({"a": True}, {"a": 1}),
    ],
)
def test_digest_ignores_nothing_else(one: object, other: object) -> None:
    assert digest("/v1/responses", canonical(one)) != digest("/v1/responses", canonical(other))


def test_the_same_body_at_another_endpoint_is_another_request() -> None:
    assert digest("/v1/responses", b"{}") != digest("/v1/completions", b"{}")


@pytest.mark.parametrize("text", ["", "a/b", "a/b/c/d", "a/1/c/d/e/f", "a/-1/c/d"])
def test_other_texts_are_no_nonces(text: str) -> None:
    assert parse_nonce(text) is None


def test_two_tries_of_one_shard_have_nonces_that_differ_in_their_unique_part_only() -> None:
    one, other = parse_nonce(nonce(KEY, 0, "0-00003.1", "aa")), parse_nonce(nonce(KEY, 0, "0-00003.1", "bb"))
    assert one is not None and other is not None
    assert one[:3] == other[:3] and one[1:3] == (0, "0-00003.1") and (one[3], other[3]) == ("aa", "bb")


def test_a_nonce_fits_into_openais_metadata() -> None:
    key = JobKey(dag_id="d" * 250, run_id="r" * 250, task_id="t" * 250, map_index=9999)
    assert len(nonce(key, 99, shard_id(99, 99_999) + ".99", "u" * 12)) <= 512


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../../etc", "manual__2026-01-01T00:00:00+00:00", "x" * 240, "a b", "ä", "a\\b", "…"]
)
def test_any_run_id_is_one_safe_folder_name(name: str) -> None:
    for folder in job_path(JobKey(dag_id=name, run_id=name, task_id=name)):
        assert folder and folder not in (".", "..") and "/" not in folder and "\\" not in folder
        assert folder.isascii() and len(folder) <= 255


def test_a_plain_name_stays_readable() -> None:
    assert job_path(JobKey(dag_id="tickets", run_id="run-1", task_id="g.ask", map_index=3)) == (
        "tickets",
        "run-1",
        "g.ask~m3",
    )


def test_a_mapped_task_and_a_task_named_alike_have_two_folders() -> None:
    names = [("ask", 1), ("ask~m1", -1), ("ask", -1), ("ask", 11), ("ask~m1", 1), ("ask_m1", -1)]
    paths = {job_path(JobKey(dag_id="d", run_id="r", task_id=task, map_index=i)) for task, i in names}
    assert len(paths) == len(names)


def test_names_that_differ_in_replaced_characters_only_have_two_folders() -> None:
    names = ["a:b", "a/b", "a_b", "a b", "a+b", ".a:b", "a:b."]
    assert len({job_path(JobKey(dag_id="d", run_id=name, task_id="t")) for name in names}) == len(names)


def test_children_are_numbered_below_their_root() -> None:
    child = child_id(shard_id(2, 3))
    assert (child, child_id(child), root_id(child_id(child))) == ("2-00003.1", "2-00003.2", "2-00003")
    assert shard(State.PLANNED, child).id == "2-00003.1"


def test_uploaded_files_have_the_ending_that_openai_demands_and_say_whose_they_are() -> None:
    key = JobKey(dag_id="d", run_id="r", task_id="t")
    name = upload_name(key, "production", "s3://lake/jobs/", "0-00001.2", "ab/c d")
    assert re.fullmatch(r"airflow-openai-batch-[0-9a-f]{12}-[0-9a-f]{16}-0-00001\.2-ab-c-d\.jsonl", name)
    parsed = parse_upload_name(name)
    assert parsed == (place_hash("production", "s3://lake/jobs"), job_hash(key, "production"))
    assert place_hash("staging", "s3://lake/jobs") != parsed.place != place_hash("production", "s3://lake/other")
    for other in ("airflow-openai-batch-0-00001-0123456789ab.jsonl", "batch_1_output.jsonl", name[1:], name + "x"):
        assert parse_upload_name(other) is None


def test_spec_digest_tells_specs_apart() -> None:
    spec = Spec(endpoint="/v1/responses", body="{}", schema={"a": 1, "b": 2})
    assert spec_digest(spec) == spec_digest(Spec(endpoint="/v1/responses", body="{}", schema={"b": 2, "a": 1}))
    others = [
        Spec(endpoint="/v1/responses", body="{}"),
        Spec(endpoint="/v1/responses", body="{}", schema={"a": 1, "b": 2}, custom_id="{id}"),
        Spec(endpoint="/v1/completions", body="{}", schema={"a": 1, "b": 2}),
    ]
    assert len({spec_digest(other) for other in [spec, *others]}) == 4
