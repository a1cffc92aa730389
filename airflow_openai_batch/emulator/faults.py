"""Fault injection: rules that say where, when and how often the emulator fails.

A rule is a small object, in Python (`Rule`) or JSON:

    {"on": "POST /v1/batches", "match": {"nth": 1}, "times": 1, "do": "drop_response"}

`on` is a method and a path (`*` stands for one path segment, `*` alone for any call), `row` or `batch`.
`do` names a fault, alone or with its parameters: `{"delay": 0.2}`, `{"status": {"code": 503, "after": true}}`.
docs/emulator.md lists the faults.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_openai_batch.emulator.file_faults import FORMS
from airflow_openai_batch.emulator.model import JsonObject, Status

# Fault → its parameters; a bare value sets the first.
_CALL_FAULTS: dict[str, tuple[str, ...]] = {
    "drop_response": (),
    "reset": (),
    "delay": ("seconds", "after"),
    "status": ("code", "after", "html", "body", "retry_after", "error", "headers"),
    "malformed_json": (),
    "cut_body": ("fraction",),
    "drip": ("seconds", "bytes"),
    "gzip": ("padding",),
    "redirect": ("loop",),
    "edit": ("set", "drop", "wrap"),
    "listing": ("order", "cursor", "has_more", "lag", "page"),
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
    "late_output_file_id": ("seconds", "error_too", "zero_counts"),
    "listing_lag": ("seconds",),
    "empty_string_ids": (),
    "zero_byte_error_file": (),
    "no_output_file": (),
    "drop_unfinished": (),
    "counts_lie": ("completed", "failed", "total"),
    "queue_limit": ("tokens", "http", "requests"),
    "spoil_file": ("form", "file", "seconds", "fraction", "size"),
    "unwritten_file": ("file",),
    "input_file_gone": (),
    "drop_metadata": (),
    "times": ("form", "zone", "ahead"),
    "rename_status": tuple(Status),
    "relapse": ("seconds", "after"),
}
COMBINABLE = frozenset({"delay", "listing", "edit"})
"""Call faults of which any number apply to a call, beside at most one other."""

_NEED_PARAMETERS = frozenset(
    {"stuck", "late_output_file_id", "listing_lag", "queue_limit", "edit", "listing", "spoil_file", "rename_status"}
)
_MATCHERS = frozenset({"nth", "metadata", "custom_id", "body", "file", "endpoint", "batch"})


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault and the conditions under which it applies.

    Attributes:
        on: `METHOD /path`, `*`, `row` or `batch`.
        do: A fault's name, or an object with the name as its only key and the parameters as its value.
        match: Conditions, all of which must hold: `nth` (number or numbers of the matching call, batch or row,
            from 1), `metadata` (of the batch, a subset), `custom_id`, `body`, `file` (regular expressions, searched
            in the id, the JSON text, the file name), `endpoint`, `batch` (number of the batch, from 1).
        times: How often it fires at most; None is without limit.
        lasts: Seconds after it first fired during which it fires; None is without limit.
        probability: Chance that it fires when the conditions hold, 0 to 1.
        seed: Seed of that chance; None takes the emulator's.

    Raises:
        ValueError: A field does not have such a value.
    """

    on: str
    do: str | Mapping[str, Any]
    match: Mapping[str, Any] = field(default_factory=dict)
    times: int | None = None
    probability: float = 1.0
    seed: int | None = None
    lasts: float | None = None

    def __post_init__(self) -> None:
        allowed = {"row": _ROW_FAULTS, "batch": _BATCH_FAULTS}.get(self.on, _CALL_FAULTS)
        if allowed is _CALL_FAULTS and self.on != "*" and not re.fullmatch(r"(\*|[A-Z]+) /\S*", self.on):
            raise ValueError(f"'on' is 'METHOD /path', '*', 'row' or 'batch', not '{self.on}'.")
        if not isinstance(self.do, str) and len(self.do) != 1:
            raise ValueError(f"'do' names one fault, not {len(self.do)}: {dict(self.do)}.")
        if self.name not in allowed:
            raise ValueError(f"No fault '{self.name}' on '{self.on}'; there are {', '.join(allowed)}.")
        if unknown := [key for key in self.args if key not in allowed[self.name]]:
            raise ValueError(f"Fault '{self.name}' takes {allowed[self.name]}, not {unknown}.")
        if self.name == "spoil_file" and self.args.get("form", "as_is") not in FORMS:
            raise ValueError(f"No form '{self.args['form']}' of a file; there are {', '.join(FORMS)}.")
        if unknown := [key for key in self.match if key not in _MATCHERS]:
            raise ValueError(f"'match' takes {sorted(_MATCHERS)}, not {unknown}.")

    @classmethod
    def from_json(cls, rule: Mapping[str, Any]) -> Rule:
        """Return the rule that a JSON object describes.

        Raises:
            ValueError: The object is not a rule.
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
        """Return the fault's parameters; a bare value is the first of them, `true` is none."""
        if isinstance(self.do, str):
            return {}
        value = next(iter(self.do.values()))
        if isinstance(value, Mapping):
            return dict(value)
        names = {**_CALL_FAULTS, **_ROW_FAULTS, **_BATCH_FAULTS}.get(self.name, ())
        return {names[0]: value} if names and value is not True else {}


@dataclass(frozen=True, slots=True)
class Event:
    """What rules are matched with: a call, a row that is answered or a batch that is created."""

    call: str = ""
    custom_id: str = ""
    body: bytes = b""
    metadata: Mapping[str, Any] | None = None
    file: str = ""
    endpoint: str = ""
    batch: int = 0


@dataclass(slots=True)
class _ActiveRule:
    """A rule and how often it matched and fired."""

    rule: Rule
    rng: random.Random
    salt: str
    path: re.Pattern[str] | None
    patterns: dict[str, re.Pattern[str]]
    matched: int = 0
    fired: int = 0
    first_fired_at: float | None = None

    def fires(self, event: Event, now: float) -> bool:
        """Count a matching event, and return whether the rule applies to it at this time."""
        rule = self.rule
        if (rule.times is not None and self.fired >= rule.times) or not self._matches(event):
            return False
        if rule.lasts is not None and self.first_fired_at is not None and now >= self.first_fired_at + rule.lasts:
            return False
        self.matched += 1
        nth = rule.match.get("nth")
        if nth is not None and self.matched not in (nth if isinstance(nth, list | tuple) else [nth]):
            return False
        if rule.probability < 1.0 and self._draw(event) >= rule.probability:
            return False
        self.fired += 1
        if self.first_fired_at is None:
            self.first_fired_at = now
        return True

    def _draw(self, event: Event) -> float:
        """Return a number in [0, 1); for rows it depends on the row, because threads have no fixed order."""
        if self.rule.on != "row":
            return self.rng.random()
        text = f"{self.salt}:{event.batch}:{event.custom_id}"
        return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest()) / 2**56

    def _matches(self, event: Event) -> bool:
        if self.path is not None and not self.path.fullmatch(event.call):
            return False
        return all(self._holds(key, expected, event) for key, expected in self.rule.match.items() if key != "nth")

    def _holds(self, key: str, expected: Any, event: Event) -> bool:
        if key == "metadata":
            metadata = event.metadata or {}
            return all(name in metadata and metadata[name] == value for name, value in expected.items())
        if key in self.patterns:
            text = event.body.decode("utf-8", "replace") if key == "body" else getattr(event, key)
            return self.patterns[key].search(text) is not None
        actual = getattr(event, key)
        return actual in expected if isinstance(expected, list | tuple) else bool(actual == expected)


class Faults:
    """The active rules. Safe to use from any thread.

    Args:
        seed: The seed of rules that have none.
        now: Returns the emulator's time in epoch seconds.
    """

    def __init__(self, seed: int, now: Callable[[], float]) -> None:
        self._seed = seed
        self._now = now
        self._active: list[_ActiveRule] = []
        self._n_added = 0
        self._lock = threading.Lock()
        self.has_row_rules = False

    def add(self, *rules: Rule | Mapping[str, Any]) -> None:
        """Add rules after those that are active.

        Raises:
            ValueError: One of them is not a rule; none is added.
        """
        parsed = [rule if isinstance(rule, Rule) else Rule.from_json(rule) for rule in rules]
        with self._lock:
            self._active += [self._activate(rule) for rule in parsed]
            self.has_row_rules = any(active.rule.on == "row" for active in self._active)

    def clear(self) -> None:
        """Remove every rule."""
        with self._lock:
            self._active.clear()
            self.has_row_rules = False

    def for_call(self, event: Event) -> list[Rule]:
        """Return the rules that apply to a call: any number that can be combined and at most one other."""
        rules: list[Rule] = []
        has_other = False
        now = self._now()
        with self._lock:
            for active in self._active:
                is_other = active.rule.name not in COMBINABLE
                if active.path is not None and not (is_other and has_other) and active.fires(event, now):
                    has_other |= is_other
                    rules.append(active.rule)
        return rules

    def for_row(self, event: Event) -> Rule | None:
        """Return the first rule that applies to a row, None if none does."""
        now = self._now()
        with self._lock:
            rows = (active for active in self._active if active.rule.on == "row")
            return next((active.rule for active in rows if active.fires(event, now)), None)

    def for_batch(self, event: Event) -> list[Rule]:
        """Return the rules that apply to a batch that is created."""
        now = self._now()
        with self._lock:
            return [active.rule for active in self._active if active.rule.on == "batch" and active.fires(event, now)]

    def to_json(self) -> list[JsonObject]:
        """Return the rules, each with how often it matched and fired."""
        with self._lock:
            return [
                {
                    "on": active.rule.on,
                    "do": active.rule.do,
                    "match": dict(active.rule.match),
                    "times": active.rule.times,
                    "lasts": active.rule.lasts,
                    "probability": active.rule.probability,
                    "matched": active.matched,
                    "fired": active.fired,
                }
                for active in self._active
            ]

    def _activate(self, rule: Rule) -> _ActiveRule:
        self._n_added += 1
        salt = f"{self._seed if rule.seed is None else rule.seed}:{self._n_added}"
        patterns = {k: re.compile(v) for k, v in rule.match.items() if k in ("custom_id", "body", "file")}
        path = None if rule.on in ("row", "batch") else re.compile(_path_pattern(rule.on))
        rng = random.Random(salt)  # noqa: S311 - no secrets here
        return _ActiveRule(rule, rng, salt, path, patterns)


def _path_pattern(on: str) -> str:
    if on == "*":
        return ".*"
    method, path = on.split(" ", 1)
    return (r"[A-Z]+" if method == "*" else method) + " " + re.escape(path).replace(r"\*", "[^/]+")


def chaos(seed: int, rates: Mapping[str, float]) -> list[Rule]:
    """Return rules for random but repeatable faults.

    Args:
        seed: The same seed and rates give the same faults for the same calls and rows.
        rates: Fault name → chance (0 to 1), for faults that need only their name, and for `status` (a 503), `delay`
            (50 ms) and `cut_body` (half). Call faults apply to any call, row and batch faults to any row or batch.

    Raises:
        ValueError: A name is not a fault, or the fault needs parameters.
    """
    values = {"status": 503, "delay": 0.05, "cut_body": 0.5, "expire_at": 0.5, "fail": "cannot_find_file"}
    rules = []
    for name, rate in rates.items():
        on = "row" if name in _ROW_FAULTS else "batch" if name in _BATCH_FAULTS else "*"
        if name in _NEED_PARAMETERS:
            raise ValueError(f"Fault '{name}' needs parameters: write a rule.")
        do: str | dict[str, Any] = {name: values[name]} if name in values else name
        rules.append(Rule(on, do, probability=rate, seed=seed))
    return rules
