"""What one schedule is made of, drawn from its seed: a small job, what goes wrong, and what people do meanwhile."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from schedule_misbehaviours import MISBEHAVIOURS, rules_of

from airflow_openai_batch.emulator import Rule
from airflow_openai_batch.engine.model import Policy, Status, Timing

TIMING = Timing()
LAG_S = 30.0
"""The longest lag of a listing. The grace must outlast a late check, the call, and this."""
PATIENCE_S = TIMING.grace_s - TIMING.post_timeout_s - LAG_S - 1.0
"""How long a process may be frozen between its last look at the clock and the effect of its create."""

SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["label", "score"],
    "additionalProperties": False,
}

_CALLS = (
    "POST /v1/files",
    "POST /v1/batches",
    "GET /v1/batches",
    "GET /v1/batches/*",
    "POST /v1/batches/*/cancel",
    "GET /v1/files/*",
    "GET /v1/files/*/content",
)
_QUEUE = {
    "code": "token_limit_exceeded",
    "message": "Enqueued token limit reached for gpt-6-luna in organization org-x. Limit: 2,000,000 enqueued tokens.",
}
_LOST = {"message": "Cannot find file file-x, or organization org-x does not have access to it.", "param": "file_id"}

# What a call can meet. "after" is what happens once it has taken effect.
_CALL_FAULTS: tuple[Any, ...] = (
    "drop_response",
    "reset",
    "malformed_json",
    {"cut_body": 0.5},
    {"status": {"code": 500}},
    {"status": {"code": 503, "after": True}},
    {"status": {"code": 502, "html": True}},
    {"status": {"code": 504, "html": True, "after": True}},
    {"status": {"code": 429, "retry_after": 90}},
    {"status": {"code": 429}},
    {"status": {"code": 408, "after": True}},
    {"status": {"code": 401}},
    {"status": {"code": 403, "html": True}},
    {"status": {"code": 404}},
)
_CREATE_FAULTS: tuple[Any, ...] = (
    {"status": {"code": 429, "error": _QUEUE}},
    {"status": {"code": 400, "error": _QUEUE}},
    {"status": {"code": 400, "error": _LOST}},
    {"status": {"code": 409, "after": True}},
)
_BATCH_FAULTS: tuple[Any, ...] = (
    {"fail": "token_limit_exceeded"},
    {"fail": "cannot_find_file"},
    {"fail": {"code": "insufficient_quota", "message": "You exceeded your current quota."}},
    {"fail": {"code": "invalid_json_line", "message": "This line is not parseable as valid JSON.", "line": 1}},
    {"expire_at": {"fraction": 0.0}},
    {"expire_at": {"fraction": 0.4, "after": 7200, "lag": 1800}},
    {"expire_at": {"fraction": 0.8, "after": 40}},
    {"expire_at": {"fraction": 1.0, "lag": 600}},
    {"stuck": {"seconds": 5000, "state": "validating"}},
    {"stuck": {"seconds": 9000, "state": "in_progress"}},
    {"stuck": {"seconds": 9000, "state": "cancelling"}},
    {"stuck": {"seconds": inf, "state": "finalizing"}},
    {"stuck": {"seconds": inf, "state": "in_progress"}},
    {"late_output_file_id": 400},
    {"listing_lag": LAG_S},
    {"listing_lag": LAG_S / 3},
    "empty_string_ids",
    "zero_byte_error_file",
    "no_output_file",
    "drop_unfinished",
    "counts_lie",
)
_ROW_FAULTS: tuple[Any, ...] = (
    {"http_error": {"status": 429, "code": "rate_limit_exceeded"}},
    {"http_error": {"status": 500}},
    {"http_error": {"status": 500, "in_output": True}},
    {"http_error": {"status": 0, "in_output": True}},
    {"http_error": {"status": 404, "code": "model_not_found"}},
    "line_error",
    {"line_error": {"code": "server_error"}},
    "refusal",
    "truncated",
    "filtered",
    "fragmented",
    "missing",
    "malformed",
    {"malformed": "\xff\x00not json"},
    "duplicate",
    "both_files",
    "u2028",
)

DISTURBANCES = (
    "dashboard_cancel",
    "new_prompt",
    "old_prompt",
    "new_rows",
    "start_over_marker",
    "start_over_parameter",
    "cancel_command",
    "input_file_deleted",
    "other_policy",
)
_SHARE_OF_DISTURBED = 0.6

NEW = tuple(MISBEHAVIOURS)
"""The misbehaviours that schedules draw beside the faults above."""
_MOST_NEW = 4


MAX_OUTPUT_TOKENS = 16
"""Hardly more than the emulator's answers have, so that a cap which is not kept is passed."""
INPUT_RATE, OUTPUT_RATE = 50_000, 250_000
"""Picodollars for a token of gpt-6-luna in a batch."""
_MOST_A_ROW = 25 * INPUT_RATE + MAX_OUTPUT_TOKENS * OUTPUT_RATE
OTHER_MODEL = "a-model-of-our-own"
PRICE = {OTHER_MODEL: {"input": 0.05, "output": 0.25, "standard": {"input": 0.1, "output": 0.5}}}


@dataclass(frozen=True)
class Money:
    """What the requests of a schedule cost, and what its job may cost."""

    model: str
    prices: dict[str, Any]
    """Those that the person gives from the beginning. Without them the other model has no price."""
    max_cost: int | None
    """Picodollars: from less than the first batch to more than all rows in all rounds."""


@dataclass(frozen=True)
class Plan:
    """A schedule before it runs. The same seed and class give the same plan."""

    seed: int
    is_frozen: bool
    """Whether a process may be frozen for longer than the grace period."""
    n_rows: int
    per_shard: int
    n_poison: int
    has_schema: bool
    policy: Policy
    duration_s: float
    queue_limit: int | None
    rules: tuple[Rule, ...]
    wire_rate: float
    kill_rate: float
    pause_rate: float
    focus: float
    """How much likelier it is to freeze around a create than elsewhere."""
    repeat_rate: float
    n_workers: int
    n_steps: int
    disturbances: tuple[str, ...]
    faults: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    """The misbehaviours that were drawn."""
    misbehaviours: tuple[str, ...] = ()
    """Those and what came along with them."""
    traits: tuple[Rule, ...] = ()
    """Rules that hold until the end."""
    has_ledger: bool = False
    """Whether the job uses answers again."""
    n_texts: int = 1_000_000
    """How many different texts there are."""
    money: Money | None = None
    """None in the schedules of before there was a cap: their bodies have no bound of the answers."""
    finish_after_s: float | None = None
    """How long after a submission what has no answer yet is asked synchronously; None for never."""

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """The rules of the wild times."""
        return self.traits + self.rules

    @property
    def held(self) -> str:
        """With what reasons the job may be held for good; a regular expression."""
        return "|".join(held for name in self.misbehaviours if (held := MISBEHAVIOURS[name].held)) or "(?!)"

    @property
    def hides(self) -> bool:
        """Whether a batch may stay out of every listing for longer than the grace."""
        return any(MISBEHAVIOURS[name].hides for name in self.misbehaviours)


def draw(seed: int, *, is_frozen: bool, new: Sequence[str] = NEW) -> Plan:
    """Return the plan of a seed.

    Args:
        seed: The seed.
        is_frozen: Whether a process may be frozen for longer than the grace period.
        new: The misbehaviours of which a few are drawn; the rest of the plan does not depend on them.
    """
    plan = _draw_old(seed, is_frozen=is_frozen)
    rng = random.Random(f"new:{seed}:{is_frozen}")
    names = rng.sample(list(new), min(len(new), rng.randint(1, _MOST_NEW)))
    drawn = [rules_of(rng, name, seed) for name in names]
    wild = [rule for rules, _ in drawn for rule in rules]
    return replace(
        plan,
        rules=(*wild, *plan.rules),
        traits=tuple(rule for _, rules in drawn for rule in rules),
        drawn=tuple(names),
        misbehaviours=tuple(dict.fromkeys(n for name in names for n in (name, *MISBEHAVIOURS[name].also))),
        money=_money(random.Random(f"money:{seed}:{is_frozen}"), plan.n_rows) if new else None,
        finish_after_s=_finish(random.Random(f"finish:{seed}:{is_frozen}")) if len(new) > 1 else None,
        **(_ledger(random.Random(f"ledger:{seed}:{is_frozen}"), plan.n_rows) if new else {}),
    )


def _finish(rng: random.Random) -> float | None:
    return rng.choice((None, None, 60.0, 1200.0, 7200.0, 30_000.0))


def _ledger(rng: random.Random, n_rows: int) -> dict[str, Any]:
    """Return whether a job has a ledger, and how many different texts its rows have, of which few repeat."""
    if rng.random() < 0.5:
        return {}
    return {"has_ledger": True, "n_texts": rng.choice((1_000_000, max(2, n_rows // 2), max(2, n_rows - 2)))}


def _money(rng: random.Random, n_rows: int) -> Money:
    model = rng.choice(("gpt-6-luna", "gpt-6-luna", OTHER_MODEL))
    return Money(
        model=model,
        prices=PRICE if model == OTHER_MODEL and rng.random() < 0.6 else {},
        max_cost=cap(rng, n_rows),
    )


def cap(rng: random.Random, n_rows: int) -> int | None:
    """Return what a job may cost: anything, less than its rows may cost once, or more."""
    share = rng.choice((None, rng.uniform(0.02, 0.9), rng.uniform(0.02, 0.9), rng.uniform(1.0, 4.0)))
    return None if share is None else int(share * n_rows * _MOST_A_ROW)


def _draw_old(seed: int, *, is_frozen: bool) -> Plan:
    rng = random.Random(f"plan:{seed}:{is_frozen}")
    n_rows = rng.randint(5, 40) if rng.random() < 0.4 else rng.randint(5, 14)
    has_schema = rng.random() < 0.25
    rules = _rules(rng, seed, has_schema)
    return Plan(
        seed=seed,
        is_frozen=is_frozen,
        n_rows=n_rows,
        per_shard=-(-n_rows // rng.randint(1, 4)),
        n_poison=rng.choice((0, 1, 2)),
        has_schema=has_schema,
        policy=policy(rng, has_schema),
        duration_s=rng.choice((0.0, 60.0, 600.0, 3600.0, 20000.0)),
        queue_limit=rng.choice((None, None, 1, 2)),
        rules=rules,
        wire_rate=rng.choice((0.0, 0.02, 0.08)),
        kill_rate=rng.choice((0.0, 0.01, 0.03, 0.08)),
        pause_rate=rng.choice((0.02, 0.06, 0.15)),
        focus=rng.choice((1.0, 1.0, 5.0)),
        repeat_rate=rng.choice((0.0, 0.05)),
        n_workers=rng.choice((1, 2, 2)),
        n_steps=rng.randint(8, 30),
        disturbances=tuple(rng.sample(DISTURBANCES, rng.randint(1, 3))) if rng.random() < _SHARE_OF_DISTURBED else (),
        faults=tuple(rule.name for rule in rules),
    )


def policy(rng: random.Random, has_schema: bool) -> Policy:
    """Return some policy. Thresholds play no part here."""
    return Policy(
        max_rounds=rng.randint(0, 3),
        retry_on=frozenset({Status.INVALID}) if has_schema and rng.random() < 0.6 else frozenset(),
        max_enqueued_tokens=rng.choice((None, None, None, 150, 400)),
        deadline_s=rng.choice((72 * 3600.0, 20 * 86400.0)),
    )


def _rules(rng: random.Random, seed: int, has_schema: bool) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for _ in range(rng.randint(0, 5)):
        rules.append(_rule(rng, seed, rng.choice(_CALLS), rng.choice(_CALL_FAULTS)))
    if rng.random() < 0.35:
        rules.append(_rule(rng, seed, "POST /v1/batches", rng.choice(_CREATE_FAULTS)))
    if rng.random() < 0.35:
        rules.append(_rule(rng, seed, "POST /v1/batches", rng.choice(_CALL_FAULTS)))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        rules.append(_rule(rng, seed, "batch", rng.choice(_BATCH_FAULTS)))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        do = rng.choice((*_ROW_FAULTS, "invalid", "invalid") if has_schema else _ROW_FAULTS)
        # Not the rows that are wrong for ever: their answer is never to change.
        rate = rng.choice((0.1, 0.3, 0.6))
        rules.append(Rule("row", do, match={"body": "ticket"}, probability=rate, seed=seed))
    return tuple(rules)


def _rule(rng: random.Random, seed: int, on: str, do: Any) -> Rule:
    if rng.random() < 0.5:
        return Rule(on, do, times=rng.randint(1, 3), probability=rng.choice((0.5, 1.0)), seed=seed)
    return Rule(on, do, probability=rng.choice((0.1, 0.3, 0.5)), seed=seed)
