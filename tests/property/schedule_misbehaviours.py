"""Servers, gateways and proxies that misbehave, as rules of the emulator, and with what reason they may hold a job.

Each was seen, or is a relative of one that was. Some are over when the wild times are, some belong to a batch, some are
how the server is (a trait) and never end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf
from typing import Any

from airflow_openai_batch.emulator import Rule

CREATE, LISTING, POLL = "POST /v1/batches", "GET /v1/batches", "GET /v1/batches/*"
FILE, CONTENT = "GET /v1/files/*", "GET /v1/files/*/content"

LATE = r"The deadline of"
HIDDEN = r"had no clear answer"
GONE = r"are gone at OpenAI|cannot be fetched"
UNKNOWN = r"does not know batch"
"""Why a job may be held: it waited for nothing; or the server hides what it creates, or names what it does not have."""


@dataclass(frozen=True)
class Misbehaviour:
    """One way to misbehave.

    Attributes:
        on: Where, as in a rule of the emulator.
        dos: What, one of which is drawn.
        match: Conditions of the rule.
        lasts: How long after the first time, in seconds, one of which is drawn; for ever or a few times without.
        is_trait: Whether the server is so until the end.
        also: Names of others that come along.
        held: With what reasons the job may be held for good because of it.
        hides: Whether a batch may stay out of every listing for longer than the grace period, or have another id.
    """

    on: str
    dos: tuple[Any, ...]
    match: dict[str, Any] | None = None
    lasts: tuple[float, ...] = ()
    is_trait: bool = False
    also: tuple[str, ...] = ()
    held: str = ""
    hides: bool = False


def _spoilt(*forms: str, **params: Any) -> Misbehaviour:
    sizes = ("actual", "whole", None)
    return Misbehaviour(
        "batch", tuple({"spoil_file": {"form": form, "size": size, **params}} for form in forms for size in sizes)
    )


def _status(code: int, **params: Any) -> dict[str, Any]:
    return {"status": {"code": code, **params}}


def _set(**fields: Any) -> dict[str, Any]:
    return {"edit": {"set": fields}}


_REQUESTS = {
    "code": None,
    "message": "Enqueued request limit reached for text-embedding-3-small in organization org-x. "
    "Limit: 1,000,000 enqueued requests.",
}
_PENDING = {
    "code": "invalidPayload",
    "message": "The input file is in 'pending' state. Only files with status 'Processed' are accepted for batch "
    "inferencing.",
}
_WITHOUT_ENVELOPE = tuple(
    _status(code, after=after, **text)
    for code, text in (
        (402, {"body": "Payment required"}),
        (405, {"body": '{"detail": "Method Not Allowed"}'}),
        (418, {"html": True}),
        (425, {"body": ""}),
        (499, {"body": "client closed request"}),
        (400, {"body": ""}),
        (400, {"html": True}),
        (403, {"html": True}),
        (404, {"html": True}),
        (422, {"body": '{"detail": [{"loc": ["body"], "msg": "timeout"}]}'}),
        (429, {"html": True}),
    )
    for after in (False, True)
)
_RETRY_AFTER = ("inf", "nan", "-5", "1e999", "99999999", "Wed, 21 Oct 2026 07:28:00 GMT", "soon")
_NONSENSE: tuple[Any, ...] = (
    {"status": None},
    {"status": ["completed"]},
    {"status": "a" * 10_000},
    {"status": "ended"},
    {"request_counts": {"total": 10**30, "completed": 1e300, "failed": -1}},
    {"request_counts": [1, 2]},
    {"expires_at": 1e300},
    {"expires_at": "9999-12-31T00:00:00"},
    {"created_at": True},
    {"created_at": -(10**15)},
    {"errors": "boom"},
    {"errors": {"data": [None, {"code": 7, "message": "half a pair: \ud83d", "line": "x"}]}},
    {"metadata": [1]},
    {"metadata": "none"},
    {"usage": []},
    {"endpoint": "\udc00"},
)

MISBEHAVIOURS: dict[str, Misbehaviour] = {
    # Result files
    "file_never_named": Misbehaviour("batch", ({"late_output_file_id": inf},)),
    "file_named_late": Misbehaviour(
        "batch",
        (
            {"late_output_file_id": {"seconds": 400, "error_too": True, "zero_counts": True}},
            {"late_output_file_id": {"seconds": 10_000, "error_too": True}},
        ),
    ),
    "file_empty_for_a_while": Misbehaviour(
        "batch",
        tuple(
            {"spoil_file": {"form": form, "seconds": seconds, "size": size}}
            for form in ("empty", "html", "cut_at_line", "cut_in_line", "ids_null")
            for seconds in (60, 900, 5000)
            for size in ("actual", "whole", None)
        ),
    ),
    "file_empty": _spoilt("empty"),
    "file_gzip": _spoilt("gzip"),
    "file_html": _spoilt("html"),
    "file_json_array": _spoilt("json_array"),
    "file_pretty": _spoilt("pretty"),
    "file_line_ends": _spoilt("crlf", "cr", "no_last_newline"),
    "file_encoding": _spoilt("utf16", "bom"),
    "file_ids_changed": _spoilt("ids_upper", "ids_cut", "ids_spaced"),
    "file_ids_lost": _spoilt("ids_integer", "ids_null"),
    "file_cut_at_line": _spoilt("cut_at_line"),
    "file_cut_in_line": _spoilt("cut_in_line"),
    "file_lines_repeated": _spoilt("duplicated", "foreign"),
    "error_file_spoilt": _spoilt("empty", "html", "cut_at_line", "gzip", file="error"),
    "file_size_wrong": Misbehaviour(
        "batch", ({"spoil_file": {"size": 17, "file": "both"}}, {"spoil_file": {"size": 10**9, "file": "both"}})
    ),
    "files_route_fails": Misbehaviour(
        FILE,
        (_status(500), _status(405, body=""), _status(403), _status(403, html=True), _set(bytes="many")),
        match={"file": "_(output|error)"},
        is_trait=True,
    ),
    "content_elsewhere": Misbehaviour(CONTENT, ("redirect",), is_trait=True),
    "content_packed": Misbehaviour(CONTENT, ("gzip",), is_trait=True),
    "content_gone_for_a_while": Misbehaviour(
        CONTENT, (_status(404), _status(404, html=True), _status(403), _status(401)), lasts=(5, 60, 300)
    ),
    "files_never_written": Misbehaviour(
        "batch", tuple({"unwritten_file": file} for file in ("output", "error", "both")), held=GONE
    ),
    "all_rows_fail": Misbehaviour(
        "row", ({"http_error": {"status": 400, "code": "model_error"}}, "line_error"), also=("files_never_written",)
    ),
    "counts_of_zero": Misbehaviour("batch", ("counts_lie",)),
    # Create
    "create_without_envelope": Misbehaviour(CREATE, _WITHOUT_ENVELOPE),
    "create_without_id": Misbehaviour(
        CREATE, ({"edit": {"drop": ["id"]}}, _set(id=None), _set(id=["x"]), _set(id="")), is_trait=True
    ),
    "create_with_wrong_id": Misbehaviour(
        CREATE, (_set(id=7), _set(id="batch_of_the_gateway")), held=f"{UNKNOWN}|{LATE}", hides=True
    ),
    "create_wrapped": Misbehaviour(CREATE, ({"edit": {"wrap": "job"}},), is_trait=True, also=("metadata_dropped",)),
    "create_busy": Misbehaviour(CREATE, tuple(_status(429, retry_after=text) for text in _RETRY_AFTER)),
    "create_queue_of_requests": Misbehaviour(CREATE, (_status(429, error=_REQUESTS), _status(400, error=_REQUESTS))),
    "batch_queue_of_requests": Misbehaviour("batch", ({"fail": "request_limit_exceeded"},)),
    "create_file_pending": Misbehaviour(CREATE, (_status(400, error=_PENDING),), lasts=(20, 90, 400)),
    "create_drips": Misbehaviour(CREATE, ({"drip": {"seconds": 0.0, "bytes": 7}},)),
    "metadata_dropped": Misbehaviour("batch", ("drop_metadata",), is_trait=True),
    # Listing
    "listing_oldest_first": Misbehaviour(
        LISTING, ({"listing": {"order": "oldest"}}, {"listing": {"order": "oldest", "page": 1}}), is_trait=True
    ),
    "listing_unsorted": Misbehaviour(
        LISTING, ({"listing": {"order": "unsorted"}}, {"listing": {"order": "unsorted", "page": 2}}), is_trait=True
    ),
    "listing_cursor_ignored": Misbehaviour(
        LISTING,
        ({"listing": {"cursor": "ignored"}}, {"listing": {"cursor": "ignored", "has_more": True}}),
        is_trait=True,
    ),
    "listing_more_for_ever": Misbehaviour(LISTING, ({"listing": {"has_more": True}},), is_trait=True),
    "listing_never_more": Misbehaviour(LISTING, ({"listing": {"has_more": False}},), is_trait=True),
    "listing_small_pages": Misbehaviour(LISTING, ({"listing": {"page": 1}},), is_trait=True),
    "listing_lags": Misbehaviour(LISTING, ({"listing": {"lag": 30.0}},), is_trait=True),
    "listing_hides": Misbehaviour(LISTING, ({"listing": {"lag": 4000.0}},), is_trait=True, held=HIDDEN, hides=True),
    "listing_missing": Misbehaviour(
        LISTING, (_status(404), _status(405, body=""), _status(501, html=True)), is_trait=True, held=f"{LATE}|{HIDDEN}"
    ),
    "listing_nonsense": Misbehaviour(
        LISTING, tuple(_set(**fields) for fields in _NONSENSE if "metadata" not in fields), lasts=(60, 600)
    ),
    "times_odd": Misbehaviour(
        "batch",
        tuple(
            {"times": form}
            for form in (
                {"form": "ms"},
                {"form": "text"},
                {"form": "iso"},
                {"form": "iso", "zone": 19_800},
                {"form": "iso_without_zone", "zone": -28_800},
                {"zone": 7200},
                {"zone": -18_000},
                {"ahead": 5400},
                {"ahead": -5400},
            )
        ),
        is_trait=True,
    ),
    # Polls
    "poll_refused_for_a_while": Misbehaviour(
        POLL,
        tuple(_status(code, **how) for code in (401, 403, 404) for how in ({}, {"html": True}, {"body": ""})),
        lasts=(5, 60, 300, 1000),
    ),
    "poll_nonsense": Misbehaviour(POLL, tuple(_set(**fields) for fields in _NONSENSE), lasts=(60, 600)),
    "poll_ids_nonsense": Misbehaviour(
        POLL,
        (
            _set(id=7),
            _set(id=None),
            _set(input_file_id=5),
            _set(output_file_id=5),
            _set(output_file_id=["x"]),
            _set(error_file_id={"id": "x"}),
            _set(output_file_id="../../etc"),
            _set(output_file_id="https://storage.example/output.jsonl"),
        ),
        lasts=(60, 600),
    ),
    "poll_busy": Misbehaviour(POLL, tuple(_status(429, retry_after=text) for text in _RETRY_AFTER), lasts=(60, 600)),
    "status_unknown": Misbehaviour(
        "batch",
        (
            {"rename_status": {"completed": "finished"}},
            {"rename_status": {"in_progress": "queued", "validating": "pre_schedule"}},
            {"rename_status": {"cancelled": "canceled", "completed": "SUCCEEDED"}},
        ),
        held=LATE,
    ),
    "goes_back": Misbehaviour(
        "batch", tuple({"relapse": {"seconds": s, "after": a}} for s in (60, 900) for a in (0, 30, 400))
    ),
    "cancelling_for_ever": Misbehaviour("batch", ({"stuck": {"state": "cancelling", "seconds": inf}},), held=LATE),
    # Input files
    "input_file_gone": Misbehaviour("batch", ("input_file_gone",)),
    "batch_fails_oddly": Misbehaviour(
        "batch",
        (
            {"fail": {"code": "token_limit_exceeded", "message": "The queue is full \ud83d"}},
            {"fail": {"errors": [{"code": "x", "message": "no text \x00 \udc00", "line": 10**30, "param": "y"}]}},
        ),
    ),
}


def rules_of(rng: random.Random, name: str, seed: int) -> tuple[list[Rule], list[Rule]]:
    """Draw the rules of a misbehaviour: those that end with the wild times, and those that are traits."""
    it = MISBEHAVIOURS[name]
    wild: list[Rule] = []
    traits: list[Rule] = []
    do, lasts, times, probability = rng.choice(it.dos), None, None, 1.0
    if it.lasts:
        lasts = rng.choice(it.lasts)
    elif not it.is_trait and rng.random() < 0.5:
        times = rng.randint(1, 3)
    elif not it.is_trait:
        probability = rng.choice((0.3, 0.6, 1.0))
    # Not the rows that are wrong for ever: their answer is never to change.
    match = {**(it.match or {}), **({"body": "ticket"} if it.on == "row" else {})}
    rule = Rule(it.on, do, match=match, times=times, probability=probability, seed=seed, lasts=lasts)
    (traits if it.is_trait else wild).append(rule)
    for other in it.also:
        more = rules_of(rng, other, seed)
        wild += more[0]
        traits += more[1]
    return wild, traits
