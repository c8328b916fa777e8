"""status: every module on every kernel, as a matrix of verdicts, and below what to do. Renders documents.

Imports nothing heavy: with a running daemon this is all that starts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.documents.choosing import Document, check_names, choose
from ..core.documents.grouping import group
from . import terminal
from .answers import PENDING, as_shown, clean, exit_code, read_status
from .parser import Command, add_optional_target
from .terminal import paint

WORST_FIRST = ("failed", "blocked", "waiting", "pending", "building", "ready", "excluded")
CELL = max(map(len, WORST_FIRST)) + 2
NOT_READY_WORDS = ("failed", "blocked", "waiting", "pending")
KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PASSED_OVER = ("link-leads-out", "look-interrupted", "release-invalid", "source-name-invalid")  # of no module
MOST = 3  # lines of a reason


def run_status(options: argparse.Namespace) -> int:
    """kmoddctl status [MODULE] [--kernel R]"""
    whole = read_status(options)
    check_names(whole, options.module, options.kernel)
    document = choose(whole, options.module, options.kernel)
    print_status(document, options.module is not None, options.json)
    return exit_code(document["targets"], options.module is not None)


def print_status(document: Document, detailed: bool, as_json: bool) -> None:
    """Print a status: as JSON, in detail (for one module), or as a matrix."""
    if as_json:
        print(json.dumps(document, indent=1))
        return
    document = as_shown(clean(document), document["holder"])
    if not document["kernels"]:
        print("No kernels are installed.")
    if not document["modules"]:
        print("No modules are registered. Register one: kmoddctl add /usr/src/NAME-VERSION")
    parts = [_details(document) if detailed else _matrix(document), [] if detailed else _problems(document)]
    parts.append([_summary(document)] if document["targets"] else [])
    print("\n\n".join("\n".join(part) for part in parts if part))


# -- the matrix ------------------------------------------------------------------------------------------------------
def marks(kernel: Document) -> str:
    """Return what a kernel is besides installed, such as "running, boots next"."""
    words = [word for key, word in (("running", "running"), ("default_boot", "boots next")) if kernel[key]]
    words += ["held"] if kernel.get("held") is not None else ["proven"] if kernel.get("proven") else []
    return ", ".join(words)


def _label(module: Document) -> str:
    version = f" {module['version']}" if module["version"] else ""
    return f"{module['name']}{version}" + ("" if module["required"] else " (optional)")


def _matrix(document: Document) -> list[str]:
    """Return the matrix: kernels down where the modules fit across, else modules down and kernels across by letters."""
    cells = {(t["module"], t["kernel"]): t["verdict"] for t in document["targets"]}
    kernels, columns = document["kernels"], terminal.width()
    modules = [m for m in document["modules"] if any((m["name"], k["release"]) in cells for k in kernels)]
    if not modules or not kernels:
        return []
    labels = [_label(m) for m in modules]
    widths = [max(len(label), CELL - 2) + 2 for label in labels]
    first = max(len(k["release"]) for k in kernels) + 2
    second = max(len(marks(k)) for k in kernels)
    second += 2 if second else 0
    if first + second + sum(widths) - 2 <= columns and len(modules) <= max(3, len(kernels)):
        rows = [f"{'kernel':<{first + second}}" + "".join(f"{lb:<{w}}" for lb, w in zip(labels, widths))]
        for kernel in kernels:
            row = [(cells.get((m["name"], kernel["release"]), ""), w) for m, w in zip(modules, widths)]
            rows.append(f"{kernel['release']:<{first}}{marks(kernel):<{second}}" + _cells(row))
        return [rows[0].rstrip(), *rows[1:]]
    if len(kernels) == 1:
        verdict, mark = kernels[0]["verdict"], marks(kernels[0])
        title = f"{kernels[0]['release']}: {paint(verdict, verdict)}" + (f" ({mark})" if mark else "")
        name_width = min(max(map(len, labels)), columns - CELL - 4) + 2
        rows = [f"  {terminal.clip(label, name_width - 2):<{name_width}}" for label in labels]
        return [title, *(row + _cells([(cells[m["name"], kernels[0]["release"]], 0)]) for row, m in zip(rows, modules))]
    name_width = min(max(map(len, labels)) + 2, max(24, columns - CELL * min(len(kernels), 4)))
    at_once = max(1, (columns - name_width + 2) // CELL)
    lines: list[str] = []
    for start in range(0, len(kernels), at_once):
        some = kernels[start : start + at_once]
        lines += [*([""] if lines else []), *_block(some, start, modules, labels, cells, name_width)]
    return lines


def _block(
    kernels: Sequence[Document],
    start: int,
    modules: Sequence[Document],
    labels: Sequence[str],
    cells: dict[tuple[str, str], str],
    name_width: int,
) -> list[str]:
    """Return a legend of some kernels, and the modules' verdicts on them; start: how many kernels come before."""
    keys = [_key(start + number) for number in range(len(kernels))]
    release_width = max(len(kernel["release"]) for kernel in kernels)
    lines = []
    for key, kernel in zip(keys, kernels):
        release = terminal.clip(kernel["release"], terminal.width() - 35)
        verdict, mark = kernel["verdict"], marks(kernel)
        cell = paint(verdict, verdict) + (f"{'':<{CELL - len(verdict)}}{mark}" if mark else "")
        lines.append(f"{key:<3}{release:<{release_width}}  {cell}")
    lines += ["", f"{'':<{name_width}}" + "".join(f"{key:<{CELL}}" for key in keys).rstrip()]
    for module, label in zip(modules, labels):
        row = [(cells.get((module["name"], kernel["release"]), ""), CELL) for kernel in kernels]
        lines.append(f"{terminal.clip(label, name_width - 2):<{name_width}}" + _cells(row))
    return lines


def _key(number: int) -> str:
    return KEYS[number] if number < len(KEYS) else str(number)


def _cells(row: Iterable[tuple[str, int]]) -> str:
    painted = [(paint(verdict, verdict), width - len(verdict)) for verdict, width in row]
    return "".join(text + " " * more for text, more in painted).rstrip()


# -- what is to be done ----------------------------------------------------------------------------------------------
def _problems(document: Document) -> list[str]:
    """Return one paragraph a problem, whatever number of targets has it."""
    rows = [row for target in document["targets"] for row in _rows(target)]
    lines = []
    for one in group(rows):
        lines += _paragraph("", one.verdict, f"{one.subject}: {one.reason}", one.hint)
        if one.verdict in ("failed", "waiting"):
            lines += [f"    {text}" for text in _next_try(one.rows)]
    for warning in document.get("warnings", ()):
        lines += _paragraph("", "warning", warning["message"], warning["hint"])
    behind = document.get("behind")
    if behind:
        lines += _paragraph("", "warning" if behind["held"] is not None else "note", behind["message"], behind["hint"])
    said = {row["reason"] for row in rows}
    for broken in document["problems"]:
        if broken["message"] not in said:
            level = "warning" if broken["problem"] in PASSED_OVER else "failed"
            lines += _paragraph("", level, broken["message"], broken["hint"])
    return lines


def _rows(target: Document) -> list[Document]:
    """Return what there is to be said of a target, as what is grouped."""
    rows = [{**target, "hint": advice(target)}] if target["verdict"] in NOT_READY_WORDS else []
    stale, refused = target.get("stale_in_memory"), target.get("init_refused")
    said = [("stale", f"stale in memory: {stale['reason']}", stale["hint"])] if stale else []
    said += [("note", refused["reason"], "")] if refused else []
    said += [("warning", warning, "") for warning in target["warnings"]]
    about = {"module": target["module"], "kernel": target["kernel"]}
    return [*rows, *({**about, "verdict": word, "reason": reason, "hint": hint} for word, reason, hint in said)]


def _paragraph(indent: str, verdict: str, text: str, hint: str) -> list[str]:
    first = f"{indent}{verdict:<{CELL}}"
    wrapped = terminal.wrap(first, text, MOST)
    lines = [indent + paint(verdict, verdict) + wrapped[len(indent + verdict) :]]
    if hint:  # on one line of its own, to be copied
        lines.append(f"{indent}    → {hint}")
    return lines


def _next_try(targets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return when the first of some targets is tried again by itself, as a line or none."""
    times = [target["next_try"] for target in targets if target.get("next_try") is not None]
    return [f"tried again at {terminal.moment(min(times))}, or now by kmoddctl sync"] if times else []


def advice(target: Document) -> str:
    """Return what to do about a target; of a failed build, its story says more than its log alone."""
    log, hint = (target["last_attempt"] or {}).get("log", ""), str(target["hint"])
    if target["verdict"] == "failed" and log and (not hint or log in hint):
        return f"kmoddctl explain {target['module']}"
    return hint or ("kmoddctl sync" if target["verdict"] == PENDING else "")


def _summary(document: Document) -> str:
    counts = [(verdict, sum(t["verdict"] == verdict for t in document["targets"])) for verdict in WORST_FIRST]
    said = ", ".join(paint(f"{count} {verdict}", verdict) for verdict, count in counts if count)
    holder = document["holder"]
    if not holder:
        return f"{said}; kmodd is not running"
    does = "runs" if document.get("activity") == "idle" else "is at work"
    return f"{said}; as of {terminal.moment(document['looked'])}, {holder} {does}"


# -- one module ------------------------------------------------------------------------------------------------------
def _details(document: Document) -> list[str]:
    lines = []
    for module in document["modules"]:
        where = f", registered by {module['file']}" if module["file"] else ", no longer registered"
        lines.append(f"{paint(_label(module), 'title')}{where}")
    for warning in document.get("warnings", ()):
        lines += _paragraph("  ", "warning", warning["message"], warning["hint"])
    for kernel in document["kernels"]:
        for target in document["targets"]:
            if target["kernel"] == kernel["release"]:
                lines += ["", *_target(kernel, target)]
    return lines


def _target(kernel: Document, target: Document) -> list[str]:
    mark = f" ({marks(kernel)})" if marks(kernel) else ""
    lines = [f"{paint(kernel['release'], 'title')}{mark}"]
    lines += _paragraph("  ", target["verdict"], target["reason"], advice(target))
    rows = [("next try", text) for text in _next_try([target])]
    rows += [("warning", warning) for warning in target["warnings"]]
    for item in target["objects"]:
        signer = f"signed by {item['signer'][:16]}" if item["signer"] else "unsigned"
        rows.append(("object", f"{item['path']}, {signer}"))
    stale = target.get("stale_in_memory")
    if stale:
        rows += [("stale", f"in memory: {stale['reason']}"), ("", f"→ {stale['hint']}")]
    refused = target.get("init_refused")
    rows += [("note", f"{refused['reason']}, {terminal.moment(refused['when'])}")] if refused else []
    attempt = target["last_attempt"]
    if attempt:
        rows += [("last try", attempt_text(attempt)), *([("log", attempt["log"])] if attempt["log"] else [])]
    return lines + [f"  {name:<{CELL}}{text}" for name, text in rows]


def attempt_text(attempt: dict[str, Any]) -> str:
    """Return an attempt as a phrase, such as "build failed 2026-11-21 10:20:12, took 12.3 s"."""
    took = terminal.span(attempt["ended"] - attempt["began"])
    return f"{attempt['stage']} {attempt['outcome']} {terminal.moment(attempt['ended'])}, took {took}"


COMMANDS = {"status": Command(add_optional_target, run_status)}
