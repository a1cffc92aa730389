"""The answers against OpenAI's own description of the routes, where a copy of it is at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

CONTRACT = Path(
    os.environ.get("OPENAI_CONTRACT", Path(__file__).parents[3] / "shared" / "contract" / "openai-files-batches.json")
)

pytestmark = pytest.mark.skipif(not CONTRACT.exists(), reason="set OPENAI_CONTRACT to the OpenAPI file")


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    return json.loads(CONTRACT.read_text())


def without_nulls(value: Any) -> Any:
    """Seen: absent fields are null in every response, which the contract does not allow for."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture
def check(kit, contract):
    def _check(method: str, path: str, route: str, **request: Any) -> dict[str, Any]:
        headers = {"authorization": "Bearer x"}
        answer = httpx.request(method, kit.emu.base_url + path, headers=headers, timeout=10, **request)
        assert answer.status_code == 200, answer.text
        operation = contract["paths"][route][method.lower()]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(without_nulls(answer.json()), {**schema, "components": contract["components"]})
        documented = resolved(schema, contract).get("properties", {})
        assert set(answer.json()) <= set(documented)
        return answer.json()

    return _check


def resolved(schema: dict[str, Any], contract: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return contract["components"]["schemas"][name] if name else schema


def test_files_answer_as_described(kit, check):
    upload = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}")}}
    created = check("POST", "/files", "/files", **upload)
    check("GET", "/files", "/files")
    check("GET", f"/files/{created['id']}", "/files/{file_id}")
    check("DELETE", f"/files/{created['id']}", "/files/{file_id}")


def test_batches_answer_as_described_in_every_state(kit, check):
    params = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"a": "b"}}
    file_id = kit.upload(kit.lines(10))
    created = check("POST", "/batches", "/batches", json={"input_file_id": file_id, **params})
    statuses = set()
    for _ in range(12):
        statuses.add(check("GET", f"/batches/{created['id']}", "/batches/{batch_id}")["status"])
        kit.emu.clock.advance(10)
    check("GET", "/batches", "/batches")
    assert statuses == {"validating", "in_progress", "finalizing", "completed"}


def test_batches_that_end_otherwise_answer_as_described(kit, check):
    kit.emu.faults.add({"on": "batch", "match": {"nth": 1}, "do": {"expire_at": 0.5}})
    expired, cancelled, failed = kit.submit(4), kit.submit(4), kit.submit([{"bad": 1}])
    kit.emu.clock.advance(50)
    status = check("POST", f"/batches/{cancelled.id}/cancel", "/batches/{batch_id}/cancel")["status"]
    kit.emu.complete_all()
    batches = [expired, cancelled, failed]
    ends = [check("GET", f"/batches/{batch.id}", "/batches/{batch_id}")["status"] for batch in batches]

    assert (status, ends) == ("cancelling", ["expired", "cancelled", "failed"])


def test_every_endpoint_of_the_contract_is_accepted(kit, contract):
    endpoints = contract["components"]["schemas"]["CreateBatchRequest"]["properties"]["endpoint"]["enum"]
    file_id = kit.upload(kit.lines(1))

    assert len(endpoints) == 8
    for endpoint in endpoints:
        assert kit.create(file_id, endpoint).endpoint == endpoint
