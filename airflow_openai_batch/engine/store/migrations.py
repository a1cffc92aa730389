"""Snapshots of older formats, brought to today's: a job that runs while the package is upgraded goes on."""

from __future__ import annotations

from typing import Any

import msgspec

OLD_COMMANDS_FOLDER = "wishes"
"""Where format 1 kept commands."""


def upgraded(data: bytes) -> dict[str, Any]:
    """Return a snapshot of format 1 as one of format 2, decoded.

    Format 2 nests what belongs together in a shard, so that a new try is one replacement.
    """
    state: dict[str, Any] = msgspec.json.decode(data)
    state["format_version"] = 2
    state["acknowledged"] = state.pop("granted", [])
    for name in ("shards", "earlier"):
        state[name] = [_shard_of_1(shard) for shard in state.get(name, [])]
    return state


def _shard_of_1(old: dict[str, Any]) -> dict[str, Any]:
    shard = {name: value for name, value in old.items() if name not in _MOVED}
    shard["upload"] = {name: old[name] for name in ("file_id", "n_uploads", "n_refused", "n_misses") if name in old}
    shard["backoff"] = {name: old[name] for name in ("not_before", "n_waits") if name in old}
    if old.get("nonce") is not None:
        shard["intent"] = {"nonce": old["nonce"], "at": old["intent_at"], "n_looks": old.get("n_looks", 0)}
    if old.get("doubt") is not None:
        shard["doubt"] = {"nonce": old["doubt"], "at": old.get("doubt_at") or 0.0}
    if old.get("carried") is not None:
        shard["carried"] = {"name": old["carried"], "n_rows": old["n_carried"], "row_index": old["row_index"]}
    if old.get("outcomes") is not None:
        part = {name: old[name] for name in ("tally", "retryable", "usage") if name in old}
        shard["outcomes"] = {"name": old["outcomes"], "unmatched": old.get("strays"), **part}
    return shard


_MOVED = frozenset(
    {
        *("file_id", "n_uploads", "n_refused", "n_misses", "not_before", "n_waits"),
        *("nonce", "intent_at", "n_looks", "doubt", "doubt_at"),
        *("carried", "n_carried", "row_index", "outcomes", "strays", "tally", "retryable", "usage"),
    }
)
