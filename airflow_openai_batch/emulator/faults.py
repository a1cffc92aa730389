"""Scripted misbehaviour: rules that say where, when and how often the emulator goes wrong.

A rule is a small object, in Python (`Rule`) or JSON:

    {"on": "POST /v1/batches", "match": {"nth": 1}, "times": 1, "do": "drop_response"}

`on` is a method and a path (`*` stands for one path segment, `*` alone for any call), `row` or `batch`.
`do` names a fault, alone or with what it needs: `{"delay": 0.2}`, `{"status": {"code": 503, "after": true}}`.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_openai_batch.emulator.model import JsonObject

# Fault → its parameters; the first is the one that a bare value stands for.
_CALL_FAULTS: dict[str, tuple[str, ...]] = {
    "drop_response": (),
    "reset": (),
    "delay": ("seconds", "after"),
    "status": ("code", "after", "html", "retry_after", "error", "headers"),
    "malformed_json": (),
    "cut_body": ("fraction",),
}
_ROW_FAULTS: dict[str, tuple[str, ...]] = {
    "http_error": ("status", "code", "message", "type", "in_output"),
    "line_error": ("code", "message"),
    "refusal": ("text",),
    "truncated": ("fraction",),
    "filtered": (),
    "fragmented": (),
    "invalid": ("text",),
    "missing": (),
    "malformed": ("data",),
    "duplicate": (),
    "both_files": (),
    "u2028": (),
}
_BATCH_FAULTS: dict[str, tuple[str, ...]] = {
    "fail": ("reason", "code", "message", "param", "line", "errors"),
    "expire_at": ("fraction", "after", "lag"),
    "stuck": ("seconds", "state"),
    "late_output_file_id": ("seconds",),
    "listing_lag": ("seconds",),
    "empty_string_ids": (),
    "zero_byte_error_file": (),
    "no_output_file": (),
    "drop_unfinished": (),
    "counts_lie": ("completed", "failed", "total"),
    "queue_limit": ("tokens", "http"),
}
_MATCHERS = frozenset({"nth", "metadata", "custom_id", "body", "file", "endpoint", "batch"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of misbehaviour.

    Attributes:
        on: `METHOD /path`, `row` or `batch`.
        do: A fault's name, or an object with the name as its one key.
        match: Conditions, all of which must hold: `nth` (number or numbers of the matching call, batch or row,
            from 1), `metadata` (of the batch, a subset), `custom_id`, `body`, `file` (regular expressions, found
            anywhere in the id, the JSON text, the file name), `endpoint`, `batch` (number of the batch, from 1).
        times: How often it fires; None is for ever.
        probability: Chance that it fires when it could.
        seed: Makes the chance repeatable on its own; by default the emulator's seed does.
    """

    on: str
    do: str | Mapping[str, Any]
    match: Mapping[str, Any] = field(default_factory=dict)
    times: int | None = None
    probability: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        known = {"row": _ROW_FAULTS, "batch": _BATCH_FAULTS}.get(self.on, _CALL_FAULTS)
        if known is _CALL_FAULTS and self.on != "*" and not re.fullmatch(r"(\*|[A-Z]+) /\S*", self.on):
            raise ValueError(f"'on' is 'METHOD /path', '*', 'row' or 'batch', not '{self.on}'.")
        if not isinstance(self.do, str) and len(self.do) != 1:
            raise ValueError(f"'do' names one fault, not {len(self.do)}: {dict(self.do)}.")
        if self.name not in known:
            raise ValueError(f"No fault '{self.name}' on '{self.on}'; there are {', '.join(known)}.")
        if unknown := [key for key in self.args if key not in known[self.name]]:
            raise ValueError(f"Fault '{self.name}' takes {known[self.name]}, not {unknown}.")
        if unknown := [key for key in self.match if key not in _MATCHERS]:
            raise ValueError(f"'match' takes {sorted(_MATCHERS)}, not {unknown}.")

    @classmethod
    def from_json(cls, rule: Mapping[str, Any]) -> Rule:
        """Return the rule that a JSON object describes.

        Raises:
            ValueError: It describes none.
        """
        try:
            return cls(**rule)
        except TypeError as error:
            raise ValueError(f"Not a fault rule: {rule} ({error}).") from error

    @property
    def name(self) -> str:
        """Return the fault's name."""
        return self.do if isinstance(self.do, str) else next(iter(self.do))

    @property
    def args(self) -> dict[str, Any]:
        """Return the fault's parameters; a bare value is the first of them, `true` is none at all."""
        if isinstance(self.do, str):
            return {}
        value = next(iter(self.do.values()))
        if isinstance(value, Mapping):
            return dict(value)
        names = {**_CALL_FAULTS, **_ROW_FAULTS, **_BATCH_FAULTS}.get(self.name, ())
        return {names[0]: value} if names and value is not True else {}


@dataclass(frozen=True, slots=True)
class Occasion:
    """What is about to happen: a call, a row being answered or a batch being created."""

    call: str = ""
    custom_id: str = ""
    body: bytes = b""
    metadata: Mapping[str, Any] | None = None
    file: str = ""
    endpoint: str = ""
    batch: int = 0


@dataclass(slots=True)
class _Armed:
    """A rule and how often it matched and fired."""

    rule: Rule
    dice: random.Random
    salt: str
    path: re.Pattern[str] | None
    patterns: dict[str, re.Pattern[str]]
    matched: int = 0
    fired: int = 0

    def fires(self, now: Occasion) -> bool:
        """Count the occasion, and say whether the rule acts on it."""
        rule = self.rule
        if (rule.times is not None and self.fired >= rule.times) or not self._matches(now):
            return False
        self.matched += 1
        nth = rule.match.get("nth")
        if nth is not None and self.matched not in (nth if isinstance(nth, list | tuple) else [nth]):
            return False
        if rule.probability < 1.0 and self._draw(now) >= rule.probability:
            return False
        self.fired += 1
        return True

    def _draw(self, now: Occasion) -> float:
        """Return a number in [0, 1); for rows it depends on the row, as threads have no fixed order."""
        if self.rule.on != "row":
            return self.dice.random()
        text = f"{self.salt}:{now.batch}:{now.custom_id}"
        return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest()) / 2**56

    def _matches(self, now: Occasion) -> bool:
        if self.path is not None and not self.path.fullmatch(now.call):
            return False
        return all(self._holds(key, wanted, now) for key, wanted in self.rule.match.items() if key != "nth")

    def _holds(self, key: str, wanted: Any, now: Occasion) -> bool:
        if key == "metadata":
            have = now.metadata or {}
            return all(name in have and have[name] == value for name, value in wanted.items())
        if key in self.patterns:
            text = now.body.decode("utf-8", "replace") if key == "body" else getattr(now, key)
            return self.patterns[key].search(text) is not None
        have_value = getattr(now, key)
        return have_value in wanted if isinstance(wanted, list | tuple) else bool(have_value == wanted)


class Faults:
    """The rules in force. Safe to use from any thread."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._armed: list[_Armed] = []
        self._n_added = 0
        self._lock = threading.Lock()
        self.has_row_rules = False

    def add(self, *rules: Rule | Mapping[str, Any]) -> None:
        """Put rules into force, after those that are.

        Raises:
            ValueError: One of them is no rule; none is added.
        """
        made = [rule if isinstance(rule, Rule) else Rule.from_json(rule) for rule in rules]
        with self._lock:
            self._armed += [self._arm(rule) for rule in made]
            self.has_row_rules = any(armed.rule.on == "row" for armed in self._armed)

    def clear(self) -> None:
        """Drop every rule."""
        with self._lock:
            self._armed.clear()
            self.has_row_rules = False

    def for_call(self, now: Occasion) -> list[Rule]:
        """Return the rules that act on a call: any delays, then at most one other."""
        return list(self._at_most_one(now, besides="delay"))

    def for_row(self, now: Occasion) -> Rule | None:
        """Return the rule that acts on a row."""
        with self._lock:
            return next((a.rule for a in self._armed if a.rule.on == "row" and a.fires(now)), None)

    def for_batch(self, now: Occasion) -> list[Rule]:
        """Return the rules that act on a batch that is being created."""
        with self._lock:
            return [armed.rule for armed in self._armed if armed.rule.on == "batch" and armed.fires(now)]

    def to_json(self) -> list[JsonObject]:
        """Return the rules with how often each matched and fired."""
        with self._lock:
            return [
                {
                    "on": a.rule.on,
                    "do": a.rule.do,
                    "match": dict(a.rule.match),
                    "times": a.rule.times,
                    "probability": a.rule.probability,
                    "matched": a.matched,
                    "fired": a.fired,
                }
                for a in self._armed
            ]

    def _at_most_one(self, now: Occasion, besides: str) -> Iterator[Rule]:
        has_acted = False
        with self._lock:
            for armed in self._armed:
                is_free = armed.rule.name == besides
                if armed.path is not None and (is_free or not has_acted) and armed.fires(now):
                    has_acted |= not is_free
                    yield armed.rule

    def _arm(self, rule: Rule) -> _Armed:
        self._n_added += 1
        salt = f"{self._seed if rule.seed is None else rule.seed}:{self._n_added}"
        patterns = {k: re.compile(v) for k, v in rule.match.items() if k in ("custom_id", "body", "file")}
        path = None if rule.on in ("row", "batch") else re.compile(_path_pattern(rule.on))
        dice = random.Random(salt)  # noqa: S311 - no secrets here
        return _Armed(rule, dice, salt, path, patterns)


def _path_pattern(on: str) -> str:
    if on == "*":
        return ".*"
    method, path = on.split(" ", 1)
    return (r"[A-Z]+" if method == "*" else method) + " " + re.escape(path).replace(r"\*", "[^/]+")


def chaos(seed: int, rates: Mapping[str, float]) -> list[Rule]:
    """Return rules for random but repeatable trouble.

    Args:
        seed: The same seed and rates make the same trouble for the same calls and rows.
        rates: Fault name → chance, for faults that need no more than their name, and for `status` (a 503),
            `delay` (50 ms) and `cut_body` (half). Call faults hit any call, row and batch faults any row or batch.

    Raises:
        ValueError: A name is no fault or cannot do without parameters.
    """
    plain = {"status": 503, "delay": 0.05, "cut_body": 0.5, "expire_at": 0.5, "fail": "cannot_find_file"}
    rules = []
    for name, rate in rates.items():
        on = "row" if name in _ROW_FAULTS else "batch" if name in _BATCH_FAULTS else "*"
        if name in ("stuck", "late_output_file_id", "listing_lag", "queue_limit"):
            raise ValueError(f"Fault '{name}' needs parameters: write a rule.")
        do: str | dict[str, Any] = {name: plain[name]} if name in plain else name
        rules.append(Rule(on, do, probability=rate, seed=seed))
    return rules
