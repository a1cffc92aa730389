from __future__ import annotations

import pytest
from openai import NotFoundError

from airflow_openai_batch.emulator import ManualClock


@pytest.fixture
def named(kit):
    """A kit with six batches, and their ids in the order of creation."""
    created = []
    for _ in range(6):
        created.append(kit.submit(1).id)
        kit.emu.clock.advance(10)
    return kit, created


def listing(kit, **fault):
    kit.emu.faults.add({"on": "GET /v1/batches", "do": {"listing": fault}})


def test_a_listing_may_be_oldest_first(named):
    kit, created = named
    listing(kit, order="oldest")

    assert [batch.id for batch in kit.client.batches.list(limit=2)] == created


def test_a_listing_may_have_no_order(named):
    kit, created = named
    listing(kit, order="unsorted")
    shown = [batch.id for batch in kit.client.batches.list(limit=2)]

    assert sorted(shown) == sorted(created) and shown not in (created, created[::-1])


def test_a_listing_may_ignore_the_cursor(named):
    kit, created = named
    listing(kit, cursor="ignored")
    first = kit.client.batches.list(limit=2)
    second = kit.client.batches.list(limit=2, after=first.data[-1].id)

    assert [batch.id for batch in second.data] == [batch.id for batch in first.data] == created[:3:-1]


@pytest.mark.parametrize("has_more", [True, False])
def test_a_listing_may_lie_about_a_next_page(named, has_more):
    kit, _ = named
    listing(kit, has_more=has_more)

    assert kit.client.batches.list(limit=2).has_more is has_more
    assert kit.client.batches.list(limit=100).has_more is has_more


def test_a_page_may_be_smaller_than_asked_for(named):
    kit, created = named
    listing(kit, page=2)

    assert len(kit.client.batches.list(limit=100).data) == 2
    assert [batch.id for batch in kit.client.batches.list(limit=100)] == created[::-1]


def test_a_listing_may_lag(named):
    kit, created = named
    listing(kit, lag=25)

    assert [batch.id for batch in kit.client.batches.list()] == created[3::-1]


def test_faults_of_a_listing_and_edits_add_up(named):
    kit, created = named
    listing(kit, order="oldest")
    listing(kit, lag=25)
    kit.emu.faults.add({"on": "GET /v1/batches", "do": {"edit": {"drop": ["metadata"]}}})
    page = kit.client.batches.list()

    assert [batch.id for batch in page.data] == created[:4]
    assert all("metadata" not in batch.model_fields_set for batch in page.data)


def test_a_listing_may_have_no_route(named):
    kit, _ = named
    listing(kit, order="oldest")
    kit.emu.faults.add({"on": "GET /v1/batches", "do": {"status": 404}})
    with pytest.raises(NotFoundError):
        kit.client.batches.list()


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"form": "ms"}, 1_700_000_000_000),
        ({"form": "text"}, "1700000000"),
        ({"form": "iso"}, "2023-11-14T22:13:20+00:00"),
        ({"form": "iso", "zone": 19_800}, "2023-11-15T03:43:20+05:30"),
        ({"form": "iso_without_zone", "zone": -3600}, "2023-11-14 21:13:20"),
        ({"zone": 7200}, 1_700_007_200),
        ({"ahead": 3600}, 1_700_003_600),
    ],
)
def test_times_may_have_another_form_zone_or_clock(start, form, expected):
    kit = start(clock=ManualClock(1.7e9), faults=[{"on": "batch", "do": {"times": form}}])
    batch = kit.submit(1)
    raw = kit.client.batches.with_raw_response.retrieve(batch.id).http_response.json()
    (listed,) = kit.client.batches.with_raw_response.list().http_response.json()["data"]

    assert raw["created_at"] == listed["created_at"] == expected
    assert raw["cancelled_at"] is None


def test_metadata_may_be_dropped(kit):
    kit.emu.faults.add({"on": "batch", "do": "drop_metadata"})
    created = kit.submit(1, metadata={"nonce": "n"})

    assert created.metadata is None and kit.get(created).metadata is None
    assert [batch.metadata for batch in kit.client.batches.list()] == [None]
    assert kit.emu.ledger.batches[0].metadata == {"nonce": "n"}
