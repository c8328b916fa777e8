"""TOML files: parsed, and validated by a frozen model, else refused with the table and key that are wrong. Pure."""

from __future__ import annotations

import json
import re
import sys
from typing import Optional, TypeVar

from pydantic import BaseModel, ValidationError

from .tomlhints import explain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

M = TypeVar("M", bound=BaseModel)


def describe(error: ValidationError, model: Optional[type[BaseModel]] = None) -> str:
    """Return what is wrong with a file, by table and key. model: knows the keys that may have been meant."""
    lines = []
    for found in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in found["loc"] if not str(part).startswith(("function-", "tuple[")))
        lines.append(f"{where or 'file'}: {explain(found, model)}")
    return "; ".join(lines)


def parse(model: type[M], text: str) -> M:
    """Return a file's content as a model. Raises ValueError whose text names the line, or the table and key."""
    try:
        # By way of JSON, whose arrays a strict model takes for tuples.
        return model.model_validate_json(json.dumps(tomllib.loads(text), default=str))
    except RecursionError as error:
        raise ValueError("not valid TOML: nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not valid TOML: {error}") from error
    except ValidationError as error:
        raise ValueError(describe(error, model)) from error


def set_value(text: str, table: str, key: str, value: object) -> str:
    """Return a file with a key of a table set, everything else as it was written; value: what JSON writes as TOML does.

    Takes values on one line, in tables that are headed by their names; what it comes to is for the caller to check.
    """
    line = f"{key} = {json.dumps(value)}"
    found = re.search(rf"^\[{re.escape(table)}\][^\n]*\n((?:(?!\[)[^\n]*\n?)*)", text, re.MULTILINE)
    if found is None:
        return f"[{table}]\n{line}\n\n{text}" if table == "module" else f"{text.rstrip()}\n\n[{table}]\n{line}\n"
    body, count = re.subn(
        rf"^(\s*){re.escape(key)}\s*=\s*(?:\[[^\]\n]*\]|\"[^\"\n]*\"|'[^'\n]*'|[\w.+-]+)",
        lambda match: match[1] + line,
        found[1],
        flags=re.MULTILINE,
    )
    if not count:
        body = f"{line}\n{found[1]}"
    return text[: found.start(1)] + body + text[found.end(1) :]
