"""explain: the whole story of a module on its kernels. Renders documents; imports nothing heavy."""

from __future__ import annotations

import argparse
import json
from typing import Any, Optional

from ..core.documents.choosing import Document
from . import terminal
from .answers import as_shown, clean, exit_code, read_story
from .parser import Command, add_target
from .plan import sentence
from .status import attempt_text, marks
from .terminal import paint

INDENT = 14
OTHERS = 5  # earlier attempts that are listed


def run_explain(options: argparse.Namespace) -> int:
    """kmoddctl explain MODULE [--kernel R]"""
    story = read_story(options)
    holder = story.pop("holder", "kmodd")  # the daemon itself says nothing of a holder, and JSON has none
    if options.json:
        print(json.dumps(story, indent=1))
    else:
        shown = as_shown(clean(story), holder)
        print("\n\n".join("\n".join(part) for part in (_module(shown), *map(_target, shown["targets"]))))
    return exit_code(story["targets"], of_module=True)


def _row(name: str, text: str) -> str:
    return terminal.wrap(f"  {name:<{INDENT - 2}}", text)


def _module(story: Document) -> list[str]:
    module = story["module"]
    version = f" {module['version']}" if module["version"] else ""
    lines = [paint(f"{module['name']}{version}", "title")]
    if not module["registered"]:
        return [*lines, _row("registered", "no longer")]
    lines.append(_row("registered", module["file"] + ("" if module["enabled"] else ", disabled")))
    lines += [_row(name, _source(value)) for name, value in module["source"].items()]
    needed = "is required" if module["required"] else "is optional"
    depends = f", needs {', '.join(module['depends'])} to be built first" if module["depends"] else ""
    return [*lines, _row("kernels", f"{needed} for a kernel to be ready{depends}")]


def _source(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _target(target: Document) -> list[str]:
    verdict, facts = target["verdict"], target["kernel_facts"]
    mark = f" ({marks(facts)})" if marks(facts) else ""
    lines = [f"{paint(target['kernel'], 'title')}{mark}: {paint(verdict, verdict)}"]
    lines.append(_row("because", target["reason"]))
    rule = target["rule"]
    if rule["number"]:
        lines.append(_row("rule", f"{rule['number']}: {rule['text']}"))
    log = (target["last_attempt"] or {}).get("log")
    if target["hint"] and not (log and log in target["hint"]):
        lines.append(f"    → {target['hint']}")
    lines += _observed(target, facts)
    lines += _attempts(target)
    lines += _error(target["error"])
    lines += _next(target)
    return lines


def _observed(target: Document, facts: Document) -> list[str]:
    package = f", of {facts['kernel_devel']}" if facts["kernel_devel"] else ""
    lines = [_row("build tree", f"{facts['build_tree']}{package}" if facts["build_tree"] else "none")]
    if facts["compiler"]:
        lines.append(_row("compiler", facts["compiler"]))
    built = target["built"]
    if built:
        names = ", ".join(f"{name}.ko" for name in built["objects"])
        since = f"; since then {', '.join(built['differs'])}" if built["differs"] else ""
        lines.append(_row("built", f"{names} with {built['compiler']}, {terminal.moment(built['ended'])}{since}"))
    for item in target["objects"]:
        signed = f"signed by {item['signer'][:16]}" if item["signer"] else "unsigned"
        memory = "" if item["in_memory"] == "unknown" else f", {item['in_memory']} in memory"
        lines.append(_row("installed", f"{item['path']}, {signed}{memory}"))
    stale = target["stale_in_memory"]
    if stale:
        lines += [_row("stale", f"in memory: {stale['reason']}"), f"    → {stale['hint']}"]
    refused = target["init_refused"]
    if refused:
        lines.append(_row("note", f"{refused['reason']}, {terminal.moment(refused['when'])}"))
    if target["damage"]:
        lines.append(_row("changed", target["damage"]))
    if facts["in_tree"]:
        lines.append(_row("overrides", f"the kernel's own {', '.join(facts['in_tree'])}"))
    lines += [_row("warning", text) for text in target["warnings"]]
    lines += [_row("found", found["message"]) for found in target["findings"] if found["message"] != target["reason"]]
    return lines


def _attempts(target: Document) -> list[str]:
    """Return the last attempt, and in a word those before it whose logs are kept."""
    lines, last = [], target["last_attempt"]
    if last:
        again = f", the {last['failures']}th time in a row" if last["failures"] > 2 else ""
        again = ", for the second time" if last["failures"] == 2 else again
        lines.append(_row("last try", attempt_text(last) + again))
        if last["log"]:
            lines.append(f"  {'log':<{INDENT - 2}}{last['log']}")
    others = [one for one in target["attempts"] if not last or one["log"] != last["log"]]
    for one in others[:OTHERS]:
        when = terminal.moment(one["began"]) if one["began"] is not None else "at an unknown time"
        took = f", took {terminal.span(one['seconds'])}" if one["seconds"] is not None else ""
        said = f"{one['outcome'] or 'unfinished'} {when}{took}, {one['attempt']}"
        lines.append(_row("earlier" if last else "log", said))
    return lines


def _error(error: Optional[Document]) -> list[str]:
    if error is None:
        return []
    return [f"  {'first error':<{INDENT - 2}}".rstrip(), *(f"    {line}".rstrip() for line in error["excerpt"])]


def _next(target: Document) -> list[str]:
    lines = [_row("next", sentence(action)) for action in target["next"] if action["action"] != "Wait"]
    awaits = target["awaits"]
    if awaits and awaits["until"] is not None:
        lines.append(_row("tried again", terminal.moment(awaits["until"])))
    elif awaits and target["verdict"] != "excluded":
        lines.append(_row("waits for", awaits["event"]))
    return lines


COMMANDS = {"explain": Command(add_target, run_explain)}
