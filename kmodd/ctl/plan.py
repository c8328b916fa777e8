"""The plan as lines: what would be done, and why. Renders documents; imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from ..core.documents.choosing import Document
from . import DONE
from .answers import clean, read_plan
from .parser import Command, add_nothing


def _of_target(action: dict[str, Any]) -> str:
    return f"{action['target']['module']} for {action['target']['kernel']}"


def _of_file(action: dict[str, Any]) -> str:
    return "/etc/{kind}.d/kmodd-{module}.conf".format_map(action["dropin"])


def _of_wait(action: dict[str, Any]) -> str:
    until = action["until"]
    return _of_target(action) + (time.strftime(" until %H:%M:%S", time.localtime(until)) if until else "")


#: What actions are about, in words, where it is more than a target or a kernel.
SUBJECTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "write": _of_file,
    "delete": _of_file,
    "reload": lambda action: f"{', '.join(action['objects'])} of {_of_target(action)}",
    "wait": _of_wait,
}


def _subject(action: dict[str, Any]) -> str:
    if action["kind"] in SUBJECTS:
        return SUBJECTS[action["kind"]](action)
    return _of_target(action) if "target" in action else str(action["kernel"])


def run_plan(options: argparse.Namespace) -> int:
    """kmoddctl plan"""
    print_plan(read_plan(options), options.json)
    return DONE


def print_plan(document: Document, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(map(sentence, clean(document)["actions"])) or "nothing to do")


def sentence(action: dict[str, Any]) -> str:
    """Return an action as a line."""
    kind = action["kind"]
    hint = f" → {action['hint']}" if action.get("hint") else ""
    return f"{kind:<8} {_subject(action)}: {action['reason']}{hint}"


COMMANDS = {"plan": Command(add_nothing, run_plan)}
