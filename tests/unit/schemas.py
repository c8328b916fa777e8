"""A validator for the part of JSON Schema that the schemas of kmodd use (draft 7); it refuses what it does not know."""

from __future__ import annotations

import re
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "integer": (int,),
    "number": (int, float),
}  # fmt: skip
OF_TABLES = ("properties", "patternProperties", "additionalProperties", "required")
SAID = ("default", "title", "$schema", "$defs")  # which decide nothing


def is_valid(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Tell whether a value is what a schema, a part of a whole one, asks for."""
    return all(_holds(value, key, asked, schema, whole) for key, asked in schema.items() if key not in SAID)


def _holds(value: Any, key: str, asked: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    if key == "$ref":
        return is_valid(value, whole["$defs"][asked.rpartition("/")[2]], whole)
    if key in ("anyOf", "oneOf"):
        count = sum(is_valid(value, one, whole) for one in asked)
        return count >= 1 if key == "anyOf" else count == 1
    if key == "allOf":
        return all(is_valid(value, one, whole) for one in asked)
    if key == "type":
        return isinstance(value, TYPES[asked]) and (asked == "boolean" or not isinstance(value, bool))
    if key in ("enum", "const"):
        return value in (asked if key == "enum" else [asked])
    if isinstance(value, dict):
        return _holds_of_table(value, key, asked, schema, whole)
    if isinstance(value, list) and key in ("items", "minItems"):
        return len(value) >= asked if key == "minItems" else all(is_valid(one, asked, whole) for one in value)
    if isinstance(value, str) and key == "pattern":
        return re.search(asked, value) is not None
    bounds = {"minimum": "__ge__", "maximum": "__le__", "exclusiveMinimum": "__gt__", "exclusiveMaximum": "__lt__"}
    if key in bounds:
        return not isinstance(value, (int, float)) or bool(getattr(float(value), bounds[key])(float(asked)))
    assert key in (
        "properties",
        "patternProperties",
        "additionalProperties",
        "required",
        "items",
        "minItems",
        "pattern",
    )
    return True


def _holds_of_table(value: dict[str, Any], key: str, asked: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    if key == "required":
        return set(asked) <= set(value)
    named = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    if key == "properties":
        return all(is_valid(one, asked[name], whole) for name, one in value.items() if name in asked)
    if key == "patternProperties":
        return all(
            is_valid(one, inner, whole)
            for pattern, inner in asked.items()
            for name, one in value.items()
            if re.search(pattern, name)
        )
    if key == "additionalProperties":
        others = [name for name in value if name not in named and not any(re.search(p, name) for p in patterns)]
        if isinstance(asked, bool):
            return asked or not others
        return all(is_valid(value[name], asked, whole) for name in others)
    assert key in ("items", "minItems", "pattern")
    return True
