"""What a user allows and demands is checked before anything is paid for."""

from __future__ import annotations

import re

import msgspec

from airflow_openai_batch.engine.durations import duration_text, parse_duration
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import LEDGER_DAYS, Policy, Status, Timing
from airflow_openai_batch.engine.money.prices import parse_prices

_RESERVED_METADATA = 4  # dag_id, run_id, task_id and the nonce, of the 16 pairs that OpenAI allows

MAX_PARALLEL = 256
"""Synchronous requests on their way at once: each has a thread and a connection of its own."""

_MAY_RETRY = (Status.INVALID, Status.REFUSED, Status.TRUNCATED)

_KEY = re.compile(r"[^\x00]{1,64}\Z")


def check_policy(policy: Policy) -> None:
    """Refuse a policy that makes no sense or that OpenAI would refuse.

    Raises:
        InputError: With the setting's name.
    """
    _check_reuse(policy)
    _check_metadata(policy)
    try:
        msgspec.json.decode(msgspec.json.encode(policy), type=Policy)
    except UnicodeEncodeError:
        raise InputError("A setting has a text that is no valid Unicode (half a surrogate pair).") from None
    except (msgspec.MsgspecError, TypeError) as error:
        # What could not be read back must not get into the store, where it would outlive its correction.
        raise InputError(f"A setting has the wrong type: {error}.") from None
    if not 0 <= policy.max_bad_ratio <= 1:
        raise InputError(f"max_bad_ratio must be between 0 and 1, is {policy.max_bad_ratio}.")
    for name in ("max_rounds", "deadline_s", "max_bad_rows", "max_enqueued_tokens"):
        value = getattr(policy, name)
        if value is not None and value < 0:
            raise InputError(f"{name} must not be negative, is {value}.")
    parse_prices(policy.prices, "prices")
    _check_lifetime(policy)
    if policy.pilot_rows is not None and policy.pilot_rows < 1:
        raise InputError(f"pilot_rows must be at least 1, or None for no pilot; is {policy.pilot_rows}.")
    check_parallel(policy.finish_parallel)
    if wrong := sorted(str(status) for status in policy.retry_on if status not in _MAY_RETRY):
        raise InputError(
            f"retry_on takes {', '.join(_MAY_RETRY)}, not {', '.join(wrong)}. What may pass by itself is asked again "
            "anyway (max_rounds), and what succeeded or would fail again is never paid for twice."
        )


def check_parallel(n: int) -> None:
    """Refuse a number of synchronous requests at once that makes no sense.

    Raises:
        InputError: It is not between 1 and ``MAX_PARALLEL``.
    """
    if not 0 < n <= MAX_PARALLEL:
        raise InputError(f"finish_by: parallel must be between 1 and {MAX_PARALLEL}, is {n}.")


def _check_metadata(policy: Policy) -> None:
    if len(policy.metadata) > 16 - _RESERVED_METADATA:
        raise InputError(
            f"metadata may have {16 - _RESERVED_METADATA} pairs besides our own; it has {len(policy.metadata)}."
        )
    for key, value in policy.metadata.items():
        # The parameter comes from a Dag file: its type is not checked yet.
        if type(value) is not str or len(value) > 512 or not _KEY.match(key):
            raise InputError(
                f"metadata[{key!r}]: OpenAI takes texts only, keys up to 64 and values up to 512 characters."
            )


def _check_reuse(policy: Policy) -> None:
    # The parameter comes from a Dag file: its type is not checked yet.
    if policy.reuse is not None and (type(policy.reuse) is not str or not 0 < len(policy.reuse.strip()) <= 100):
        raise InputError(f"reuse must be the name of a ledger, 1 to 100 characters, not {policy.reuse!r}.")
    try:
        (policy.reuse or "").encode()
    except UnicodeEncodeError:
        raise InputError(f"reuse: the name {policy.reuse!r} is no valid Unicode (half a surrogate pair).") from None
    if not 0 < policy.reuse_max_age_s <= LEDGER_DAYS * 24 * 3600:
        raise InputError(f"reuse: max_age must be more than 0 and at most {LEDGER_DAYS} days: no entry is kept longer.")


LEAST_LIFETIME_S, LONGEST_LIFETIME_S = 3_600, 2_592_000
"""OpenAI's API reference: the bounds of `expires_after` and `output_expires_after`, an hour to 30 days after the
creation of the file (anchor `created_at`). Azure's documentation: 14 to 30 days."""


def window_s(policy: Policy) -> float:
    """Return a policy's completion window in seconds; of a word that is no duration OpenAI's 24 hours."""
    try:
        return parse_duration(policy.completion_window, "completion_window")
    except InputError:
        return 24 * 3600.0


def _check_lifetime(policy: Policy) -> None:
    """Refuse a lifetime of files that OpenAI would refuse, or with which paid answers could be gone before we come."""
    lifetime_s = policy.files_expire_after_s
    if lifetime_s is None:
        return
    if not LEAST_LIFETIME_S <= lifetime_s <= LONGEST_LIFETIME_S:
        raise InputError(
            f"files_expire_after must be between 1 hour and 30 days, as OpenAI takes no other; is "
            f"{duration_text(lifetime_s)}."
        )
    # An input file outlives its batch; and an output file every outage that the deadline allows for.
    least_s = max(window_s(policy), policy.deadline_s) + Timing().expiry_margin_s
    if lifetime_s < least_s:
        raise InputError(
            f"files_expire_after={duration_text(lifetime_s)} is too short: answers that were paid for could be deleted "
            f"at OpenAI before they are fetched. With a deadline of {duration_text(policy.deadline_s)} it must be at "
            f"least {duration_text(least_s)} (the deadline or the completion window, whichever is longer, and "
            f"{duration_text(Timing().expiry_margin_s)}). Raise it, or shorten `deadline`; delete_files=True deletes "
            "files as soon as the results are written."
        )
