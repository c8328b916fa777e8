"""The commands that only read: status, plan, explain, verify, logs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from dataclasses import asdict
from typing import Any

from ..errors import Problem
from ..model import (
    Action,
    BuildModule,
    InstallModule,
    Judgement,
    RemoveDropin,
    RemoveModule,
    RunDepmod,
    Target,
    Verdict,
    WriteDropin,
)
from ..planner import judge_kernel
from ..report import status_document, summary
from . import DONE, FAILED, NOT_READY
from .look import Look, check_kernel, check_module, look

COLOURS = {"ready": "32", "failed": "31;1", "blocked": "31", "waiting": "33", "building": "36", "excluded": "2"}


def paint(text: str, verdict: str) -> str:
    """Return a text in its verdict's colour, where stdout is a terminal and NO_COLOR is not set (no-color.org)."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        return f"\x1b[{COLOURS.get(verdict, '0')}m{text}\x1b[0m"
    return text


def width() -> int:
    """Return the columns to use: the terminal's where there is one, else 80."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else 80


def exit_code(judgements: list[Judgement]) -> int:
    """Return the exit code that some verdicts of required modules mean."""
    verdicts = {j.verdict for j in judgements}
    if Verdict.FAILED in verdicts:
        return FAILED
    return NOT_READY if verdicts & {Verdict.BLOCKED, Verdict.WAITING, Verdict.BUILDING} else DONE


def _is_required(seen: Look, target: Target) -> bool:
    module = seen.snapshot.modules.get(target.module)
    return module is None or module.required


def run_status(options: argparse.Namespace) -> int:
    """kmoddctl status [MODULE] [--kernel R]"""
    seen = look(options)
    if options.module:
        check_module(seen, options.module)
    check_kernel(seen, options.kernel)
    chosen = {
        target: judgement
        for target, judgement in sorted(seen.judgements.items())
        if options.module in (None, target.module) and options.kernel in (None, target.kernel)
    }
    required = [j for t, j in chosen.items() if options.module or _is_required(seen, t)]
    if options.json:
        document = status_document(seen.snapshot, chosen)
        if options.kernel:
            document["kernels"] = [k for k in document["kernels"] if k["release"] == options.kernel]
        print(json.dumps(document, indent=1))
    else:
        _print_status(seen, chosen)
    return exit_code(required)


def _print_status(seen: Look, chosen: dict[Target, Judgement]) -> None:
    releases = sorted({target.kernel for target in chosen})
    if not seen.snapshot.kernels:
        print(f"No kernels under {seen.sysroot.inside(seen.sysroot.modules)}.")
    if not seen.snapshot.modules and not seen.snapshot.broken:
        print("No modules are registered. Register one: kmoddctl add /usr/src/NAME-VERSION")
    for release in releases:
        kernel = seen.snapshot.kernels[release]
        judgement = judge_kernel(release, seen.snapshot, seen.judgements)
        mark = " (running)" if kernel.running else ""
        print(f"{release}{mark}: {paint(judgement.verdict.value, judgement.verdict.value)}")
        for target, found in chosen.items():
            if target.kernel != release:
                continue
            module = seen.snapshot.modules.get(target.module)
            label = target.module + (f" {module.file.module.version}" if module and module.file.module.version else "")
            if module and not module.required:
                label += " (optional)"
            verdict = paint(f"{found.verdict.value:<9}", found.verdict.value)
            text = "" if found.verdict is Verdict.READY and found.reason.startswith("built, inst") else found.reason
            _print_wrapped(f"  {label:<24} {verdict} ", 36, text)
            if found.hint:  # on one line of its own, to be copied
                print(f"      → {found.hint}")
            record = seen.snapshot.records.get(target)
            where = record.attempt.log if record and record.attempt else ""
            if found.verdict is Verdict.FAILED and where and where not in found.hint:
                print(f"      → the whole log: {where}")
            for warning in record.built.warnings if record and record.built else ():
                print(f"      warning: {warning}")
    for broken in seen.snapshot.broken:
        print(f"{paint('broken', 'failed')} {broken.fault.message}")
        if broken.fault.hint:
            print(f"       → {broken.fault.hint}")
    if chosen:
        print(f"\n{summary(chosen)}" + (f"; {seen.holder} is at work" if seen.holder else "; kmodd is not running"))


def _print_wrapped(first: str, indent: int, text: str) -> None:
    room = max(30, width() - indent - 1)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    print((first + lines[0]).rstrip())
    for line in lines[1:]:
        print(f"{'':<{indent + 1}}{line}")


def sentence(action: Action) -> str:
    """Return an action as a line to print."""
    if isinstance(action, BuildModule):
        return f"build    {action.target}: {action.reason}"
    if isinstance(action, InstallModule):
        return f"install  {action.target}: {action.reason}"
    if isinstance(action, RemoveModule):
        return f"remove   {action.target}: {action.reason}"
    if isinstance(action, WriteDropin):
        return f"write    /etc/{action.dropin.kind}.d/kmodd-{action.dropin.module}.conf: {action.reason}"
    if isinstance(action, RemoveDropin):
        return f"delete   /etc/{action.dropin.kind}.d/kmodd-{action.dropin.module}.conf: {action.reason}"
    if isinstance(action, RunDepmod):
        return f"depmod   {action.kernel}: {action.reason}"
    when = time.strftime(" until %H:%M:%S", time.localtime(action.until)) if action.until else ""
    hint = f" → {action.hint}" if action.hint else ""
    return f"wait     {action.target}{when}: {action.reason}{hint}"


def as_json(actions: tuple[Action, ...]) -> str:
    """Return a plan as JSON."""
    items: list[dict[str, Any]] = [{"action": type(a).__name__, **asdict(a)} for a in actions]
    return json.dumps({"schema": 1, "actions": items}, indent=1)


def run_plan(options: argparse.Namespace) -> int:
    """kmoddctl plan"""
    seen = look(options)
    if options.json:
        print(as_json(seen.actions))
    else:
        print("\n".join(sentence(a) for a in seen.actions) or "nothing to do")
    return DONE


def run_verify(options: argparse.Namespace) -> int:
    """kmoddctl verify [MODULE] [--kernel R]"""
    return run_status(options)


def run_explain(options: argparse.Namespace) -> int:
    """kmoddctl explain MODULE [--kernel R]"""
    seen = look(options)
    check_module(seen, options.module)
    check_kernel(seen, options.kernel)
    targets = [t for t in sorted(seen.judgements) if t.module == options.module and options.kernel in (None, t.kernel)]
    if options.json:
        print(json.dumps(status_document(seen.snapshot, {t: seen.judgements[t] for t in targets}), indent=1))
        return exit_code([seen.judgements[t] for t in targets])
    module = seen.snapshot.modules.get(options.module)
    if module:
        print(f"{module.name}: registered by {module.path}, source {module.file.source.place}")
    for target in targets:
        judgement, kernel = seen.judgements[target], seen.snapshot.kernels[target.kernel]
        record = seen.snapshot.records.get(target)
        print(f"\n{target.kernel}: {paint(judgement.verdict.value, judgement.verdict.value)}, {judgement.reason}")
        if judgement.hint:
            print(f"  do:         {judgement.hint}")
        package = f" ({kernel.devel_package})" if kernel.devel_package else ""
        print(f"  build tree: {kernel.build_tree or 'none'}{package}")
        if record and record.built:
            names = ", ".join(f"{item.name}.ko" for item in record.built.objects)
            print(f"  built:      {names} with {record.built.compiler}, {_when(record.built.ended)}")
        for item in record.installed.objects if record and record.installed else ():
            print(f"  installed:  {item.path}" + (f", signed by {item.signer[:16]}" if item.signer else ", unsigned"))
        attempt = record.attempt if record else None
        if attempt:
            took = f"{attempt.ended - attempt.began:.1f} s" + (f": {attempt.message}" if attempt.message else "")
            print(f"  attempt:    {attempt.stage} {attempt.outcome} {_when(attempt.ended)}, took {took}")
            if attempt.log:
                print(f"  log:        {attempt.log}")
        for action in seen.actions:
            if getattr(action, "target", None) == target:
                print(f"  next:       {sentence(action)}")
    return exit_code([seen.judgements[t] for t in targets])


def _when(stamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp))


def run_logs(options: argparse.Namespace) -> int:
    """kmoddctl logs MODULE [--kernel R]"""
    seen = look(options)
    check_module(seen, options.module)
    check_kernel(seen, options.kernel)
    found = [
        (record.attempt.began, record.attempt.log)
        for target, record in seen.snapshot.records.items()
        if target.module == options.module and options.kernel in (None, target.kernel)
        if record.attempt and record.attempt.log
    ]
    if not found:
        raise Problem("log-missing", f"{options.module} was not built yet", "kmoddctl explain tells why")
    _, inside = max(found)
    path = seen.sysroot.resolve(inside)
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise Problem("log-missing", f"{inside} cannot be read: {error.strerror}") from error
    if options.json:
        print(json.dumps({"schema": 1, "log": inside, "text": text}))
    else:
        sys.stdout.write(text)
    return DONE
