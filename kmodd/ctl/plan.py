"""The plan as lines: what would be done, and why. Renders documents; imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from . import DONE
from .documents import Document, clean, read_plan

VERBS = {"BuildModule": "build", "InstallModule": "install", "RemoveModule": "remove"}
FILE_VERBS = {"WriteDropin": "write", "RemoveDropin": "delete"}


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
    kind, reason = action["action"], action["reason"]
    target = f"{action['target']['module']} for {action['target']['kernel']}" if "target" in action else ""
    if kind in VERBS:
        return f"{VERBS[kind]:<8} {target}: {reason}"
    if kind in FILE_VERBS:
        dropin = action["dropin"]
        return f"{FILE_VERBS[kind]:<8} /etc/{dropin['kind']}.d/kmodd-{dropin['module']}.conf: {reason}"
    if kind == "RunDepmod":
        return f"depmod   {action['kernel']}: {reason}"
    if kind == "ReloadModule":
        return f"reload   {', '.join(action['objects'])} of {target}: {reason}"
    when = time.strftime(" until %H:%M:%S", time.localtime(action["until"])) if action["until"] else ""
    return f"wait     {target}{when}: {reason}" + (f" → {action['hint']}" if action["hint"] else "")
