"""Generation of a value that satisfies a JSON schema: enough of the standard for structured outputs, repeatable.

Not supported: `not`, `if`, `patternProperties`, `contains`, references to other documents, difficult patterns.
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
_SIMPLIFY_DEPTH = 6  # from here on the simplest choices, so that recursive schemas end
_MAX_DEPTH = 40
_TRIES = 50  # to find an item that is unique


def make_instance(schema: Any, seed: int) -> Any:
    """Return a value that satisfies the schema.

    Args:
        schema: The JSON schema.
        seed: The same schema and seed give the same value.

    Raises:
        ValueError: The schema uses what is not supported here.
    """
    rng = random.Random(seed)  # noqa: S311 - no secrets here
    return _InstanceGenerator(schema, rng).make(schema, 0)


class _InstanceGenerator:
    def __init__(self, root: Any, rng: random.Random) -> None:
        self._root = root
        self._rng = rng

    def make(self, schema: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
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
        return self._of_type(self._type_name(schema, depth), schema, depth)

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """Return the schema as one object, with references and `allOf` merged into it."""
        if not isinstance(schema, dict):
            return {}
        while "$ref" in schema:
            rest = {k: v for k, v in schema.items() if k != "$ref"}
            schema = _merged(self._target(schema["$ref"]), rest)
        resolved = {k: v for k, v in schema.items() if k != "allOf"}
        for part in schema.get("allOf", []):
            resolved = _merged(resolved, self._resolved(part))
        return resolved

    def _target(self, ref: str) -> dict[str, Any]:
        if not ref.startswith("#"):
            raise ValueError(f"Only references inside the schema are followed, not '{ref}'.")
        node = self._root
        for step in ref[1:].strip("/").split("/"):
            if step:
                node = node[step.replace("~1", "/").replace("~0", "~")]
        return node if isinstance(node, dict) else {}

    def _option(self, options: list[Any], depth: int) -> Any:
        """Return one of the options, from `_SIMPLIFY_DEPTH` on the simplest."""
        if depth < _SIMPLIFY_DEPTH:
            return self._rng.choice(options)
        return min(options, key=lambda option: self._weight(option))

    def _weight(self, option: Any) -> int:
        is_reference = isinstance(option, dict) and "$ref" in option
        type_name = self._resolved(option).get("type")
        return {"null": 0, "object": 2}.get(str(type_name), 1) + 2 * is_reference

    def _type_name(self, schema: dict[str, Any], depth: int) -> str:
        type_name = schema.get("type")
        if isinstance(type_name, list):
            return "null" if depth >= _SIMPLIFY_DEPTH and "null" in type_name else str(self._rng.choice(type_name))
        if type_name is None:
            return "object" if "properties" in schema else "array" if "items" in schema else "string"
        return str(type_name)

    def _of_type(self, type_name: str, schema: dict[str, Any], depth: int) -> Any:
        match type_name:
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
        names = [name for name in properties if name in required or depth < _SIMPLIFY_DEPTH]
        names += [name for name in required if name not in properties]
        return {name: self.make(properties.get(name, schema.get("additionalProperties")), depth + 1) for name in names}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        minimum = schema.get("minItems", 0)
        maximum = schema.get("maxItems", max(minimum, 2))
        length = minimum if depth >= _SIMPLIFY_DEPTH else self._rng.randint(min(max(minimum, 1), maximum), maximum)
        prefix = schema.get("prefixItems", [])
        items = [*prefix, *[schema.get("items", {})] * (length - len(prefix))]
        is_unique = schema.get("uniqueItems")
        values: list[Any] = []
        for item in items:
            candidates = (self.make(item, depth + 1) for _ in range(_TRIES if is_unique else 1))
            values += islice((value for value in candidates if not is_unique or value not in values), 1)
        return values

    def _number(self, schema: dict[str, Any], default_step: float) -> float:
        step = schema.get("multipleOf", default_step)
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
        min_length = schema.get("minLength", 0)
        while len(text) < min_length:
            text += " " + self._rng.choice(_WORDS)
        return text[: schema.get("maxLength", len(text))]


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return two schemas as one: their properties and required names are united, elsewhere the second wins."""
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        merged["required"] = [*first["required"], *(n for n in second["required"] if n not in first["required"])]
    return merged
