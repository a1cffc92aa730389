"""What a user allows and demands is checked before anything is paid for."""

from __future__ import annotations

import re

import msgspec

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Policy, Status
from airflow_openai_batch.engine.money.prices import parse_prices

_RESERVED_METADATA = 4  # dag_id, run_id, task_id and the nonce, of the 16 pairs that OpenAI allows

_MAY_RETRY = (Status.INVALID, Status.REFUSED, Status.TRUNCATED)

_KEY = re.compile(r"[^\x00]{1,64}\Z")


def check_policy(policy: Policy) -> None:
    """Refuse a policy that makes no sense or that OpenAI would refuse.

    Raises:
        InputError: With the setting's name.
    """
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
    try:
        msgspec.json.decode(msgspec.json.encode(policy), type=Policy)
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
    if policy.pilot_rows is not None and policy.pilot_rows < 1:
        raise InputError(f"pilot_rows must be at least 1, or None for no pilot; is {policy.pilot_rows}.")
    if wrong := sorted(str(status) for status in policy.retry_on if status not in _MAY_RETRY):
        raise InputError(
            f"retry_on takes {', '.join(_MAY_RETRY)}, not {', '.join(wrong)}. What may pass by itself is asked again "
            "anyway (max_rounds), and what succeeded or would fail again is never paid for twice."
        )
