from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_openai_batch.engine.encoding import Pieces, canonical, rows_of
from airflow_openai_batch.engine.identity import digest, job_path, nonce, parse_nonce
from airflow_openai_batch.engine.model import JobKey
from airflow_openai_batch.engine.requests.lines import default_custom_ids, digests

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
names = st.text(st.sampled_from(list("aB_.-=~m1:/ ü\\")), max_size=8) | st.text(max_size=20)
keys = st.builds(JobKey, dag_id=names, run_id=names, task_id=names, map_index=st.integers(-1, 12))
hexes = st.from_regex(r"([0-9a-f]{12})?", fullmatch=True)


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        entries = [(key, shuffled(entry, rng)) for key, entry in value.items()]
        rng.shuffle(entries)
        return dict(entries)
    return [shuffled(entry, rng) for entry in value] if isinstance(value, list) else value


@given(st.integers(0, 10**9), st.lists(st.binary(min_size=16, max_size=16), max_size=5))
def test_default_custom_ids_name_each_row_and_its_digest(first: int, digests: list[bytes]) -> None:
    names = [f"r{first + i:07d}-{digest.hex()[:8]}" for i, digest in enumerate(digests)]
    assert default_custom_ids(first, digests) == names


@given(st.lists(st.binary(max_size=5) | st.lists(st.binary(max_size=5), min_size=3, max_size=3), max_size=5))
def test_the_digests_of_many_are_the_digests_of_each(pieces: Pieces) -> None:
    expected = (
        [digest("/v1/responses", body) for body in rows_of(pieces, 3)] if pieces else [digest("/v1/responses", b"")] * 3
    )
    assert digests("/v1/responses", pieces, 3) == expected


@given(keys, st.integers(0, 99), st.from_regex(r"\d-\d{5}(\.\d)?", fullmatch=True), st.uuids(), hexes)
def test_a_nonce_is_read_as_it_was_written(key: JobKey, epoch: int, shard: str, unique: Any, content: str) -> None:
    found = parse_nonce(nonce(key, epoch, shard, unique.hex, content))
    assert found is not None and found[1:] == (epoch, shard, unique.hex, content)


@given(keys, keys)
def test_two_jobs_have_two_nonces_and_two_folders(one: JobKey, other: JobKey) -> None:
    assert (nonce(one, 0, "s", "u") == nonce(other, 0, "s", "u")) is (one == other)
    assert (job_path(one) == job_path(other)) is (one == other)


@given(keys)
def test_every_folder_is_one_safe_name(key: JobKey) -> None:
    for folder in job_path(key):
        assert folder not in ("", ".", "..") and folder.isascii()
        assert not set(folder) & set('/\\:?*"<>| ')


@given(st.dictionaries(st.text(), values), st.randoms(use_true_random=False))
def test_digest_ignores_key_order(body: dict[str, Any], rng: random.Random) -> None:
    assert digest("/v1/responses", canonical(shuffled(body, rng))) == digest("/v1/responses", canonical(body))


@given(values, values)
def test_digest_ignores_nothing_else(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest("/v1/responses", canonical(one)) == digest("/v1/responses", canonical(other))) is same
