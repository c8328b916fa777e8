"""verify: every check of every installed object, made anew. Renders documents; imports nothing heavy."""

from __future__ import annotations

import argparse
import json

from ..core.documents.choosing import Document
from . import terminal
from .answers import exit_code, forget, read_verification
from .parser import Command, add_optional_target
from .terminal import paint

#: What is printed for an outcome, in the colour of a verdict.
OUTCOMES = {"passed": ("ok", "ready"), "failed": ("FAILED", "failed"), "warning": ("warning", "warning"),
            "untold": ("cannot tell", "warning"), "skipped": ("not checked", "waiting"),
            "interrupted": ("interrupted", "waiting")}  # fmt: skip
MOST_BARE = 3  # targets of which nothing is installed that the summary names
NAMED = max(map(len, ("dependencies", "not checked")))


def run_verify(options: argparse.Namespace) -> int:
    """kmoddctl verify [MODULE] [--kernel R]"""
    document = read_verification(options)
    forget(options.root)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        parts = [_target(target) for target in document["targets"] if target["verdict"] != "excluded"]
        print("\n\n".join("\n".join(part) for part in [*parts, [_summary(document)]]))
    return exit_code([as_checked(target) for target in document["targets"]], options.module is not None)


def as_checked(target: Document) -> Document:
    """Return a target with the verdict that its checks have: what could not be built is no fault of what is installed.

    A target of which nothing is installed that could be checked is not ready.
    """
    if target["verdict"] != "failed" or any(check["outcome"] == "failed" for check in target["checks"]):
        return target
    return {**target, "verdict": "ready" if target["checks"] else "waiting"}


def _target(target: Document) -> list[str]:
    verdict = target["verdict"]
    lines = [f"{paint(target['module'], 'title')} on {target['kernel']}: {paint(verdict, verdict)}"]
    said = {check["message"] for check in target["checks"]}
    if verdict != "ready" and target["reason"] not in said:
        lines.append(terminal.wrap("  ", target["reason"]))
        lines += [f"    → {target['hint']}"] if target["hint"] else []
    for name in dict.fromkeys(check["object"] for check in target["checks"]):
        lines.append(f"  {name}")
        for check in target["checks"]:
            if check["object"] == name:
                lines += _check(check)
    return lines


def _check(check: Document) -> list[str]:
    word, colour = OUTCOMES[check["outcome"]]
    first = f"    {check['check']:<{NAMED + 2}}{word:<{NAMED + 2}}"
    wrapped = terminal.wrap(first, check["message"])
    lines = [wrapped.replace(word, paint(word, colour), 1)]
    return [*lines, f"{'':<{len(first)}}→ {check['hint']}"] if check["hint"] else lines


def _summary(document: Document) -> str:
    checks = [check for target in document["targets"] for check in target["checks"]]
    wanted = [target for target in document["targets"] if target["verdict"] != "excluded"]
    bare = [f"{target['module']} on {target['kernel']}" for target in wanted if not target["checks"]]
    more = f" and {len(bare) - MOST_BARE} more" if len(bare) > MOST_BARE else ""
    missing = f"nothing is installed of {', '.join(bare[:MOST_BARE])}{more}" if bare else ""
    if not checks:
        return f"Nothing is installed that could be checked{missing and f': {missing}'}."
    counts = {outcome: sum(check["outcome"] == outcome for check in checks) for outcome in OUTCOMES}
    names = {
        "passed": "passed",
        "failed": "failed",
        "warning": "warned of",
        "untold": "cannot tell",
        "skipped": "could not be made",
        "interrupted": "interrupted",
    }
    said = ", ".join(f"{n} {names[o]}" for o, n in counts.items() if n)
    return f"{len(checks)} checks: {said}{missing and f'; {missing}'}"


COMMANDS = {"verify": Command(add_optional_target, run_verify)}
