"""What a person may have meant by a key or value of a TOML file that a model refuses. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional, get_args

from pydantic import BaseModel

#: Kind of pydantic's errors -> what the value must be.
NEEDED = {
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
}
YES = ("yes", "on", "true", "1")


def explain(found: Mapping[str, Any], model: Optional[type[BaseModel]]) -> str:
    """Return what is wrong with a key, and what may have been meant. found: as pydantic tells it, with its input."""
    loc, kind = found["loc"], found["type"]
    if kind == "extra_forbidden":
        table = _find_table(model, loc[:-1])
        known = sorted(table.model_fields) if table is not None else ()
        close = difflib.get_close_matches(str(loc[-1]), known, 1)
        return f"unknown key (did you mean {close[0]}?)" if close else "unknown key"
    if kind not in NEEDED:
        return str(found["msg"]).replace("Value error, ", "")
    key = next((part for part in reversed(loc) if isinstance(part, str)), "")
    example = _example(kind, key, found.get("input"), within_list=bool(loc) and isinstance(loc[-1], int))
    return f"must be {NEEDED[kind]}{example and f', such as {example}'}"


def _example(kind: str, key: str, given: Any, within_list: bool) -> str:
    """Return the line that may have been meant, made of the value that was given."""
    if kind in ("dict_type", "model_type"):
        return "" if within_list else f"[{key}]"
    if isinstance(given, (dict, list)) or given is None:
        return ""
    text = str(given).lower() if isinstance(given, bool) else str(given)
    values = {
        "bool_type": str(text.lower() in YES).lower(),
        "string_type": json.dumps(text),
        "int_type": text if text.isdigit() else "4",
        "float_type": text if text.isdigit() else "1.5",
        "tuple_type": json.dumps([text]),
    }
    return f"{key} = [{values[kind]}]" if within_list else f"{key} = {values[kind]}"


def _find_table(model: Optional[type[BaseModel]], loc: Sequence[Any]) -> Optional[type[BaseModel]]:
    """Return the model of the table at a place in a model; None where there is none."""
    for part in loc:
        if model is None or not isinstance(part, str) or part not in model.model_fields:
            continue  # a number in a list, or what pydantic calls a validator
        model = next(_models(model.model_fields[part].annotation), None)
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
