"""OpenAI's strict mode: the JSON Schemas that it takes, and what to write in place of those that it refuses.

Sources: OpenAI's guide "Structured outputs", section "Supported schemas" (November 2026), and refusals that users have
seen; each rule names its own. A schema that breaks a rule would fail the request of every row, hours later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from airflow_openai_batch.engine.errors import InputError

_REFUSED = {
    # Seen: "'oneOf' is not permitted" (openai-agents-python #474). The guide lists `anyOf` only.
    "oneOf": "write `anyOf`",
    # The guide: "not supported".
    "allOf": "write out one object with all the properties",
    "not": "say in the description what is not wanted, and check the results",
    "if": "write `anyOf` with a schema for each case",
    "then": "write `anyOf` with a schema for each case",
    "else": "write `anyOf` with a schema for each case",
    "dependentRequired": "write `anyOf` with a schema for each case",
    "dependentSchemas": "write `anyOf` with a schema for each case",
    # Seen: "'uniqueItems' is not permitted", as of a Pydantic `set` (mastra #23321).
    "uniqueItems": "leave it out; a Pydantic class declares `list[...]` in place of a set",
    "prefixItems": "write an object with a property for each place; a Pydantic class declares a model in place of a "
    "tuple",
    "additionalItems": "leave it out",
    "unevaluatedItems": "leave it out",
    "contains": "leave it out",
    "minContains": "leave it out",
    "maxContains": "leave it out",
    # Seen: "'propertyNames' is not permitted" (oh-my-pi #209).
    "propertyNames": "name the properties in `properties`, or write an array of objects with a name and a value",
    "patternProperties": "name the properties in `properties`, or write an array of objects with a name and a value",
    "unevaluatedProperties": 'write "additionalProperties": false',
    "minProperties": "leave it out: every property is required",
    "maxProperties": "leave it out: every property is required",
    # Only references into the schema itself have a meaning at OpenAI.
    "$dynamicRef": "write `$ref` with a place in `$defs`",
    "$recursiveRef": "write `$ref` with a place in `$defs`",
    "$id": "leave it out",
}
"""Keywords that strict mode refuses, and what to do instead."""

_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
"""The guide's list. Seen for another one: "'uri' is not a valid format" (forgecode #2974)."""

_LITERAL = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""What is no group in a pattern: an escaped character, and a set of characters."""

_LOOK_AROUND = re.compile(r"\(\?<?[=!]")

_KINDS = ("type", "$ref", "anyOf", "enum", "const")
"""Keywords of which a schema must have one. Seen: "schema must have a 'type' key"."""

_BESIDE_REF = frozenset({"$ref", "$defs", "definitions"})

MAX_PROPERTIES = 5000
"""The guide: properties of all objects of a schema."""

MAX_ENUM_VALUES = 1000
"""The guide: values of all enumerations of a schema."""

MAX_CHARACTERS = 120_000
"""The guide: the names of properties and definitions, and the values of `enum` and `const`, together."""


def check_strict(schema: dict[str, Any], name: str) -> None:
    """Check a schema against the rules of strict mode.

    Args:
        schema: The JSON Schema.
        name: What to call it in error messages.

    Raises:
        InputError: OpenAI would refuse it; the message names the place in the schema, and what to write instead.
    """
    if schema.get("type") != "object" or "anyOf" in schema:
        raise InputError(
            f"{name}: OpenAI's structured output needs an object at the top of the schema. Put a list, a union or a "
            "single value into a property of an object."
        )
    n_properties = n_values = n_characters = 0
    for where, entry in _schemas_in(schema, name):
        _check_entry(entry, where, schema)
        properties, definitions = entry.get("properties") or {}, entry.get("$defs") or entry.get("definitions") or {}
        values = [*(entry.get("enum") or ()), *([entry["const"]] if "const" in entry else ())]
        n_properties += len(properties)
        n_values += len(entry.get("enum") or ())
        n_characters += sum(len(str(text)) for text in (*properties, *definitions, *values))
    for n, most, what in (
        (n_properties, MAX_PROPERTIES, "properties"),
        (n_values, MAX_ENUM_VALUES, "values in its enumerations"),
        (n_characters, MAX_CHARACTERS, "characters in its names and values"),
    ):
        if n > most:
            raise InputError(f"{name}: the schema has {n:,} {what}; OpenAI takes at most {most:,}. Divide it.")


def _schemas_in(schema: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a schema and all schemas in it, each with its place.

    Raises:
        InputError: One of them is no object.
    """
    if not isinstance(schema, dict):
        raise InputError(f"{where}: strict structured output needs a schema with a type here, not {schema!r}.")
    yield where, schema
    for key in ("properties", "$defs", "definitions"):
        entries = schema.get(key)
        if isinstance(entries, dict):
            for name, entry in entries.items():
                yield from _schemas_in(entry, f"{where}.{name}")
    if "items" in schema:
        yield from _schemas_in(schema["items"], f"{where}.items")
    if isinstance(schema.get("anyOf"), list):
        for i, entry in enumerate(schema["anyOf"]):
            yield from _schemas_in(entry, f"{where}.anyOf[{i}]")


def _check_entry(schema: dict[str, Any], where: str, root: dict[str, Any]) -> None:
    """Check one schema, without those in it."""
    for keyword in schema:
        if keyword in _REFUSED:
            raise InputError(f"{where}: strict structured output refuses {keyword!r}; {_REFUSED[keyword]}.")
    if not any(keyword in schema for keyword in _KINDS) and "properties" not in schema:
        raise InputError(
            f"{where}: strict structured output needs a type. Write one, or `anyOf` with several; a Pydantic class "
            "declares a type in place of Any or object, and list[...] in place of list."
        )
    if "$ref" in schema:
        _check_reference(schema, where, root)
    types = schema.get("type")
    types = types if isinstance(types, list) else [types]
    if "object" in types or isinstance(schema.get("properties"), dict):
        _check_object(schema, where)
    if "array" in types and "items" not in schema:
        raise InputError(f"{where}: strict structured output needs `items` for an array: the schema of its entries.")
    if (text_format := schema.get("format")) is not None and "string" in types and text_format not in _FORMATS:
        raise InputError(
            f"{where}: strict structured output refuses the format {text_format!r}; leave it out, or take one of "
            f"{', '.join(_FORMATS)}."
        )
    if isinstance(schema.get("pattern"), str) and _LOOK_AROUND.search(_LITERAL.sub("", schema["pattern"])):
        # Seen: HTTP 500 for about a third of the requests; OpenAI's support named the cause (pydantic-ai #5508).
        raise InputError(
            f"{where}: strict structured output takes no pattern with look-ahead or look-behind; write a simpler one. "
            "(Some versions of Pydantic give one to a Decimal: declare float or str.)"
        )


def _check_reference(schema: dict[str, Any], where: str, root: dict[str, Any]) -> None:
    reference = schema["$ref"]
    if not is_local(reference):
        raise InputError(
            f"{where}: `$ref` may only name a place in the schema itself, such as '#/$defs/Name', not {reference!r}; "
            "nothing is fetched. Copy that schema into `$defs`."
        )
    if _resolved(reference, root) is None:
        raise InputError(f"{where}: `$ref` names {reference!r}, which the schema does not have.")
    if beside := sorted(set(schema) - _BESIDE_REF):
        # Seen: "$ref cannot have keywords {'description'}" (camel #3001).
        raise InputError(
            f"{where}: strict structured output takes nothing beside `$ref`; move {', '.join(map(repr, beside))} into "
            "the schema that it names."
        )


def is_local(reference: Any) -> bool:
    """Return whether a reference names a place in its own schema."""
    return isinstance(reference, str) and (reference == "#" or reference.startswith("#/"))


def _resolved(reference: str, root: dict[str, Any]) -> dict[str, Any] | None:
    place: Any = root
    for step in reference.split("/")[1:]:
        place = place.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(place, dict) else None
    return place if isinstance(place, dict) else None


def _check_object(schema: dict[str, Any], where: str) -> None:
    if schema.get("additionalProperties") is not False:
        raise InputError(
            f'{where}: strict structured output needs "additionalProperties": false on every object. For names that '
            "are not known before (a dict in a Pydantic class), write an array of objects with a name and a value."
        )
    names = set(schema.get("properties") or {})
    if missing := sorted(names - set(schema.get("required") or ())):
        raise InputError(
            f"{where}: strict structured output needs every property in `required`; add {', '.join(missing)} "
            "(make a field optional by allowing null)."
        )


def accepted_form(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a Pydantic class in the form that strict mode takes. The class itself stays the judge.

    A discriminated union is written as `anyOf`: the field that tells its members apart is a constant in each, so that
    no answer fits two. Defaults are left out: every field is required, so they never apply. Seen: "'default' is not
    permitted" (instructor #1074).
    """
    form = {key: entry for key, entry in schema.items() if key not in ("oneOf", "discriminator", "default")}
    for key in ("properties", "$defs", "definitions"):
        if isinstance(form.get(key), dict):
            form[key] = {name: _accepted(entry) for name, entry in form[key].items()}
    if "oneOf" in schema:
        form["anyOf"] = schema["oneOf"]
    for key in ("anyOf", "allOf"):
        if isinstance(form.get(key), list):
            form[key] = [_accepted(entry) for entry in form[key]]
    for key in ("items", "additionalProperties"):
        if key in form:
            form[key] = _accepted(form[key])
    return form


def _accepted(schema: Any) -> Any:
    return accepted_form(schema) if isinstance(schema, dict) else schema


def is_pydantic(response_model: Any) -> bool:
    """Return whether a response model is a Pydantic class."""
    return isinstance(response_model, type) and hasattr(response_model, "model_json_schema")
