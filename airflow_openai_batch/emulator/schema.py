"""A value that satisfies a JSON schema: enough of the standard for structured outputs, and always the same one.

Not covered: `not`, `if`, `patternProperties`, `contains`, references to other documents, difficult patterns.
"""

from __future__ import annotations

import math
import random
from itertools import islice
from typing import Any

from airflow_openai_batch.emulator.pattern import make_match

_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "larch")
_FORMATS = {
    "date-time": "2026-11-22T13:00:00Z",
    "date": "2026-11-22",
    "time": "13:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "uri": "https://example.com/a",
}
_DEEP = 6
_TOO_DEEP = 40
_TRIES = 50


def make_instance(schema: Any, seed: int) -> Any:
    """Return a value that satisfies the schema.

    Raises:
        ValueError: The schema needs what is not covered here.
    """
    rng = random.Random(seed)  # noqa: S311 - no secrets here
    return _Maker(schema, rng).make(schema, 0)


class _Maker:
    def __init__(self, root: Any, rng: random.Random) -> None:
        self._root = root
        self._rng = rng

    def make(self, schema: Any, depth: int) -> Any:
        if depth > _TOO_DEEP:
            raise ValueError("The schema has no finite instance that this emulator can find.")
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._rng.choice(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                rest = {k: v for k, v in schema.items() if k != key}
                return self.make(_merged(rest, self._resolved(self._option(schema[key], depth))), depth + 1)
        return self._of_type(self._kind(schema, depth), schema, depth)

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """Return the schema as one object, references and `allOf` folded in."""
        if not isinstance(schema, dict):
            return {}
        while "$ref" in schema:
            rest = {k: v for k, v in schema.items() if k != "$ref"}
            schema = _merged(self._target(schema["$ref"]), rest)
        parts = schema.get("allOf", [])
        folded = {k: v for k, v in schema.items() if k != "allOf"}
        for part in parts:
            folded = _merged(folded, self._resolved(part))
        return folded

    def _target(self, ref: str) -> dict[str, Any]:
        if not ref.startswith("#"):
            raise ValueError(f"Only references inside the schema are followed, not '{ref}'.")
        node = self._root
        for step in ref[1:].strip("/").split("/"):
            if step:
                node = node[step.replace("~1", "/").replace("~0", "~")]
        return node if isinstance(node, dict) else {}

    def _option(self, options: list[Any], depth: int) -> Any:
        """Choose a branch; deep down the plainest one, so that recursive schemas end."""
        if depth < _DEEP:
            return self._rng.choice(options)
        return min(options, key=lambda option: self._weight(option))

    def _weight(self, option: Any) -> int:
        is_reference = isinstance(option, dict) and "$ref" in option
        kind = self._resolved(option).get("type")
        return {"null": 0, "object": 2, "array": 1}.get(kind if isinstance(kind, str) else "", 1) + 2 * is_reference

    def _kind(self, schema: dict[str, Any], depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            return "null" if depth >= _DEEP and "null" in kind else str(self._rng.choice(kind))
        if kind is None:
            return "object" if "properties" in schema else "array" if "items" in schema else "string"
        return str(kind)

    def _of_type(self, kind: str, schema: dict[str, Any], depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return int(self._number(schema, 1))
            case "number":
                return self._number(schema, 0)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
        return self._string(schema)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        wanted = [name for name in properties if name in required or depth < _DEEP]
        wanted += [name for name in required if name not in properties]
        return {name: self.make(properties.get(name, schema.get("additionalProperties")), depth + 1) for name in wanted}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, 2))
        length = least if depth >= _DEEP else self._rng.randint(min(max(least, 1), most), most)
        fixed = schema.get("prefixItems", [])
        items = [fixed[i] if i < len(fixed) else schema.get("items", {}) for i in range(max(length, len(fixed)))]
        made: list[Any] = []
        for item in items:
            tries = (self.make(item, depth + 1) for _ in range(_TRIES if schema.get("uniqueItems") else 1))
            made += islice((one for one in tries if not schema.get("uniqueItems") or one not in made), 1)
        return made

    def _number(self, schema: dict[str, Any], least_step: float) -> float:
        step = schema.get("multipleOf", least_step)
        low = schema.get("minimum", -math.inf)
        high = schema.get("maximum", math.inf)
        gap = step or 1e-6 * max(1.0, abs(schema.get("exclusiveMinimum", 0)), abs(schema.get("exclusiveMaximum", 0)))
        low = max(low, schema.get("exclusiveMinimum", -math.inf) + gap)
        high = min(high, schema.get("exclusiveMaximum", math.inf) - gap)
        if low == -math.inf:
            low = high - 100 if high < math.inf else 0
        high = min(high, low + 100)
        if not step:
            return float(min(max(round(self._rng.uniform(low, high), 3), low), high))
        first = math.ceil(low / step - 1e-9)
        return float(self._rng.randint(first, max(first, math.floor(high / step + 1e-9))) * step)

    def _string(self, schema: dict[str, Any]) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        if "pattern" in schema:
            return make_match(schema["pattern"], self._rng)
        text = " ".join(self._rng.choices(_WORDS, k=2))
        least = schema.get("minLength", 0)
        while len(text) < least:
            text += " " + self._rng.choice(_WORDS)
        return text[: schema.get("maxLength", len(text))]


def _merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Return both schemas in one: properties and required names add up, the second wins elsewhere."""
    both = {**one, **two}
    if "properties" in one and "properties" in two:
        both["properties"] = {**one["properties"], **two["properties"]}
    if "required" in one and "required" in two:
        both["required"] = [*one["required"], *(n for n in two["required"] if n not in one["required"])]
    return both
