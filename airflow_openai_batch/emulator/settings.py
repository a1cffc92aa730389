"""Settings of an emulator, and the timetable and faults of a batch that follow from them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from airflow_openai_batch.emulator.answers import Answer, default_answer
from airflow_openai_batch.emulator.dialect import Dialect
from airflow_openai_batch.emulator.faults import Rule
from airflow_openai_batch.emulator.file_faults import FileFault
from airflow_openai_batch.emulator.model import DAY_S, BatchError, Quirks, Timetable
from airflow_openai_batch.emulator.validate import Limits

_DEFAULT_SHARE = 0.1  # of the duration, for each of validating and finalizing

_FAILURES = {
    "token_limit_exceeded": (
        "Enqueued token limit reached for this model in organization org-emulator. Limit: 2,000,000 enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    ),
    "request_limit_exceeded": (
        "Enqueued request limit reached for this model in organization org-emulator. "
        "Limit: 1,000,000 enqueued requests."
    ),
    "cannot_find_file": "Cannot find file, or organization org-emulator does not have access to it.",
}


@dataclass(slots=True)
class Settings:
    """The settings of an emulator; times in seconds of its clock. May be changed while it runs.

    Attributes:
        answer: The function that answers requests.
        duration: From creation to completed. With zero a batch has ended when it is first retrieved.
        validating: Seconds of it spent validating; None is a tenth.
        finalizing: Seconds of it spent finalizing, and seconds a cancel takes; None is a tenth.
        window: In place of the 24 hours after which a batch expires.
        seed: Determines the order of lines, the random faults and, unless None, the ids.
        limits: The limits of a batch.
        queue_limit: Enqueued tokens per model; None is no limit.
        requests_per_minute: Synchronous requests in a minute; None is no limit.
        tokens_per_minute: Their tokens in a minute, of which one is 4 bytes; None is no limit.
        api_keys: The keys that are accepted; None accepts any.
        concurrency: Requests of one batch answered at the same time, for answer functions that wait.
        patience: Real seconds a call waits for due work before it returns the state before.
        pending: Seconds for which an uploaded file is pending; None is what is usual in the dialect.
        dialect: How the API is spoken.
    """

    answer: Answer = default_answer
    duration: float = 0.0
    validating: float | None = None
    finalizing: float | None = None
    window: float = DAY_S
    seed: int | None = None
    limits: Limits = field(default_factory=Limits)
    queue_limit: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    api_keys: Collection[str] | None = None
    concurrency: int = 1
    patience: float = 1.0
    pending: float | None = None
    dialect: Dialect = field(default_factory=Dialect)

    @property
    def finalizing_s(self) -> float:
        """Return the seconds spent finalizing."""
        return self.duration * _DEFAULT_SHARE if self.finalizing is None else self.finalizing

    @property
    def pending_s(self) -> float:
        """Return the seconds for which an uploaded file is pending."""
        return self.dialect.pending_s(self.duration) if self.pending is None else self.pending

    def timetable(self, now: float, quirks: Quirks) -> Timetable:
        """Return the timetable of a new batch.

        Args:
            now: The time of creation, in epoch seconds.
            quirks: The batch's faults.
        """
        validating_s = self.duration * _DEFAULT_SHARE if self.validating is None else self.validating
        stuck = {quirks.stuck_state: quirks.stuck_s}
        expires_at = now + (self.window if quirks.window_s is None else quirks.window_s)
        validated_at = now + validating_s + stuck.get("validating", 0.0)
        worked_at = validated_at + max(0.0, self.duration - validating_s - self.finalizing_s)
        finalizing_at = worked_at + stuck.get("in_progress", 0.0)
        completed_at = finalizing_at + self.finalizing_s + stuck.get("finalizing", 0.0)
        ceiling = 1.0
        if quirks.expire_at is not None:
            validated_at, worked_at = min(validated_at, expires_at), min(worked_at, expires_at)
            finalizing_at = completed_at = inf
            ceiling = quirks.expire_at
        return Timetable(
            created_at=now,
            validated_at=validated_at,
            worked_at=worked_at,
            finalizing_at=finalizing_at,
            completed_at=completed_at,
            expires_at=expires_at,
            expired_at=expires_at + quirks.expiry_lag_s,
            ceiling=ceiling,
            is_cut_off=not quirks.never_expires or quirks.expire_at is not None,
        )


def quirks_from_rules(rules: Sequence[Rule], usual: Quirks) -> Quirks:
    """Return the faults of a batch from the rules that apply to it; of one fault the last rule counts.

    Every rule of the fault `spoil_file` counts: the file is spoiled by one after the other.

    Args:
        rules: The rules that apply.
        usual: What is so of any batch of this server.
    """
    fields: dict[str, Any] = {}
    for rule in rules:
        fields.update(_quirk_fields(rule.name, rule.args))
    file_faults = tuple(FileFault(**rule.args) for rule in rules if rule.name == "spoil_file")
    return replace(usual, **fields, file_faults=file_faults)


# Fault → parameter → the field of `Quirks` that it sets, and its default.
_FIELDS: dict[str, dict[str, tuple[str, Any]]] = {
    "expire_at": {"fraction": ("expire_at", 0.0), "after": ("window_s", None), "lag": ("expiry_lag_s", 0.0)},
    "stuck": {"state": ("stuck_state", "in_progress"), "seconds": ("stuck_s", inf)},
    "listing_lag": {"seconds": ("listing_lag_s", 60.0)},
    "late_output_file_id": {
        "seconds": ("late_output_file_id_s", 60.0),
        "error_too": ("is_error_file_id_late", False),
        "zero_counts": ("has_zero_counts_meanwhile", False),
    },
    "queue_limit": {
        "tokens": ("queue_limit", None),
        "requests": ("queue_requests", None),
        "http": ("queue_http", None),
    },
    "spoil_file": {},
    "unwritten_file": {"file": ("unwritten_file", "both")},
    "times": {"form": ("time_form", "epoch"), "zone": ("time_zone_s", 0.0), "ahead": ("clock_ahead_s", 0.0)},
    "relapse": {"seconds": ("relapse_s", 60.0), "after": ("relapse_after_s", 60.0)},
}


def _quirk_fields(name: str, args: dict[str, Any]) -> dict[str, Any]:
    if name == "fail":
        return {"fail": _failures(args)}
    if name == "counts_lie":
        return {"counts": args or {"completed": 0, "failed": 0}}
    if name == "rename_status":
        return {"status_names": tuple(args.items())}
    if name in _FIELDS:
        return {field: args.get(parameter, default) for parameter, (field, default) in _FIELDS[name].items()}
    return {name: True}


def _failures(args: dict[str, Any]) -> tuple[BatchError, ...]:
    if "errors" in args:
        return tuple(BatchError(**error) for error in args["errors"])
    if args.get("reason") == "cannot_find_file":
        # Seen: this code and param, whether the file exists or not (tobert/kaibo #169).
        return (BatchError("invalid_request", _FAILURES["cannot_find_file"], "file_id"),)
    code = args.get("code") or args.get("reason") or "invalid_request"
    message = args.get("message") or _FAILURES.get(code, "The batch failed.")
    return (BatchError(code, message, args.get("param"), args.get("line")),)
