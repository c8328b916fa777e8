#!/usr/bin/env python3
"""Writes the JSON Schemas of module files and of kmodd.toml from their models: generate.py [DIRECTORY]

Run it after a change of a key. Editors such as those with taplo check and complete TOML files by them; what only the
models tell, such as which characters a name has, is left to kmoddctl lint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pydantic import BaseModel, BeforeValidator

from kmodd.core import modulefile
from kmodd.core.modulefile import ModuleFile
from kmodd.core.settings import Settings

FILES = {"module.schema.json": (ModuleFile, "a module file"), "kmodd.schema.json": (Settings, "kmodd.toml")}
#: What is said of a value beside its type, by pydantic under names that JSON Schema does not know.
BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
LARGEST = 1 << 53  # beyond which JSON's numbers are not exact
#: Validator before a type -> the text that may be written instead of a number.
TEXTS = {modulefile.seconds: modulefile.SPAN.pattern, modulefile.size: modulefile.SIZE.pattern}
WORDS = {"type": "array", "items": {"type": "string"}}
#: (table, key) -> what is taken besides.
EITHER = {
    ("Build", "command"): {"anyOf": [WORDS, {"type": "array", "items": {**WORDS, "minItems": 1}}]},
    ("Source", "patches"): {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Patch"}]},
    },
}
KINDS = ("path", "archive", "kernel", "dkms")  # of which [source] has exactly one


def schema(model: type[BaseModel], about: str) -> dict[str, Any]:
    """Return the JSON Schema of a file."""
    found = model.model_json_schema()
    models = {one.__name__: one for one in find_models(model)}
    for name, table in found.get("$defs", {}).items():
        for key, value in table.get("properties", {}).items():
            table["properties"][key] = EITHER.get((name, key)) or with_text(value, models[name], key)
    if "Source" in models:
        found["$defs"]["Source"]["oneOf"] = [{"required": [kind]} for kind in KINDS]
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": about}
    return {**head, **{key: value for key, value in tidy(found).items() if key != "title"}}


def find_models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and all that its keys have."""
    yield model
    for field in model.model_fields.values():
        pending = [field.annotation]
        while pending:
            one = pending.pop()
            pending += get_args(one)
            if isinstance(one, type) and not get_args(one) and issubclass(one, BaseModel):
                yield from find_models(one)


def with_text(value: dict[str, Any], model: type[BaseModel], key: str) -> dict[str, Any]:
    """Return the schema of a value that may also be written as a text, such as "30min"."""
    for validator in model.model_fields[key].metadata:
        if isinstance(validator, BeforeValidator) and validator.func in TEXTS:
            text = {"type": "string", "pattern": f"^\\s*{TEXTS[validator.func]}\\s*$"}
            return {"anyOf": [{k: v for k, v in value.items() if k != "default"}, text], "default": value["default"]}
    return value


def tidy(found: Any) -> Any:
    """Return a schema without what TOML does not have, null, and in the words of JSON Schema."""
    if isinstance(found, list):
        return [tidy(one) for one in found]
    if not isinstance(found, dict):
        return found
    if "anyOf" in found and {"type": "null"} in found["anyOf"]:
        (rest,) = [one for one in found["anyOf"] if one != {"type": "null"}]
        found = {**rest, **{key: value for key, value in found.items() if key not in ("anyOf", "default")}}
    made: dict[str, Any] = {}
    for key, value in found.items():
        bound = BOUNDS.get(key, key if key in BOUNDS.values() else "")
        if key in ("properties", "$defs"):  # whose keys are names
            made[key] = {name: tidy(one) for name, one in value.items()}
        elif key == "default":  # of a key; a whole table's are those of its keys
            made.update({} if isinstance(value, dict) else {key: value})
        elif bound:
            made.update({bound: value} if abs(value) < LARGEST else {})
        elif key not in ("title", "description"):  # which are about the code
            made[key] = tidy(value)
    return made


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    for name, (model, about) in FILES.items():
        (directory / name).write_text(json.dumps(schema(model, about), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
