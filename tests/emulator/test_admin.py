from __future__ import annotations

import httpx
import pytest


@pytest.fixture
def admin(kit):
    with httpx.Client(base_url=kit.emu.admin_url, timeout=10) as client:
        yield client


def test_another_process_can_read_the_ledger(kit, admin):
    batch = kit.ended(2, metadata={"job": "a"})
    ledger = admin.get("/ledger").json()

    assert ledger["batches"][0]["id"] == batch.id and ledger["batches"][0]["status"] == "completed"
    assert ledger["batches"][0]["metadata"] == {"job": "a"}
    assert (ledger["rows_billed"], ledger["rows_billed_twice"], ledger["live_batches"]) == (2, [], [])
    assert {row["custom_id"] for row in admin.get("/ledger?rows=1").json()["rows"]} == {"row-0", "row-1"}


def test_another_process_can_read_the_calls_but_its_own_are_not_among_them(kit, admin):
    kit.client.models.list()

    assert [(call["method"], call["path"]) for call in admin.get("/calls").json()["calls"]] == [("GET", "/v1/models")]


def test_another_process_can_set_and_drop_faults(kit, admin):
    added = admin.post("/faults", json={"on": "GET /v1/models", "do": {"status": 500}}).json()["faults"]
    admin.post("/faults", json=[{"on": "row", "do": "missing"}])
    answer = httpx.get(f"{kit.emu.base_url}/models", timeout=10)

    assert added[0]["fired"] == 0 and answer.status_code == 500
    assert [rule["fired"] for rule in admin.get("/faults").json()["faults"]] == [1, 0]
    assert admin.delete("/faults").json() == {"faults": []}
    response = admin.post("/faults", json={"on": "row", "do": "explode"})
    assert response.status_code == 400 and "explode" in response.json()["error"]["message"]


def test_another_process_can_move_the_clock(kit, admin):
    batch = kit.submit()
    before = admin.get("/health").json()["now"]

    assert admin.post("/clock", json={"advance": 100}).json()["now"] == before + 100
    assert kit.get(batch).status == "completed"
    assert admin.post("/clock", json={"advance": -1}).status_code == 400
    assert admin.post("/clock", content=b"nonsense").status_code == 400


def test_another_process_can_reset(kit, admin):
    kit.submit()

    assert admin.post("/reset").json()["status"] == "ok"
    assert kit.emu.batches == {}
