"""logs: what builds printed, through a pager on a terminal. Reads the logs alone, and observes nothing.

Imports nothing heavy. A log is what code of others printed: no control character of it reaches a terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from typing import Any

from ..core.documents.choosing import check_kernel, check_module
from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..kbuild.logfiles import LogReader, is_ended, permitted
from . import DONE, terminal
from .answers import read_status
from .parser import Command, add_target

PAUSE = 0.2  # seconds between two readings of a log that grows
PATIENCE = 5.0  # seconds without growth until it is checked whether a build runs


def run_logs(options: argparse.Namespace) -> int:
    """kmoddctl logs MODULE [--kernel R] [--list | --attempt N | --follow]"""
    sysroot = Sysroot.at(options.root)
    reader = LogReader(sysroot)
    attempts = _attempts(options, reader)
    if options.list:
        _print_list(attempts, options.json)
        return DONE
    log = _choose(attempts, options.attempt)["log"]
    if options.json:
        print(json.dumps({"schema": 1, "log": log, "text": reader.read(log)}))
    elif options.follow:
        _follow(sysroot, log)
    else:
        _page(reader.read(log))
    return DONE


def _attempts(options: argparse.Namespace, reader: LogReader) -> list[dict[str, Any]]:
    """Return the attempts at a module, newest first. Raises Problem, also log-missing."""
    releases = [options.kernel] if options.kernel else reader.kernels(options.module)
    found = [one for release in releases for one in reader.attempts(options.module, release)]
    if not found:
        known = read_status(options)
        check_module(options.module, {module["name"] for module in known["modules"]})
        if options.kernel:
            check_kernel(options.kernel, {kernel["release"] for kernel in known["kernels"]})
        raise Problem("log-missing", f"{options.module} was not built yet", f"kmoddctl explain {options.module}")
    return sorted(found, key=lambda one: one["began"] or 0, reverse=True)


def _choose(attempts: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    """Return an attempt by its number in the list, or its name. Raises Problem usage-attempt."""
    if wanted is None:
        return attempts[0]
    for number, attempt in enumerate(attempts, 1):
        if wanted in (str(number), attempt["attempt"]):
            return attempt
    raise Problem("usage-attempt", f"there is no attempt {wanted}", "kmoddctl logs MODULE --list shows them")


def _print_list(attempts: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"schema": 1, "attempts": attempts}, indent=1))
        return
    release_width = max(len(attempt["kernel"]) for attempt in attempts)
    for number, attempt in enumerate(attempts, 1):
        began = "" if attempt["began"] is None else terminal.moment(attempt["began"])
        took = "" if attempt["seconds"] is None else terminal.span(attempt["seconds"])
        outcome = attempt["outcome"] or "unfinished"
        painted = terminal.paint(f"{outcome:<11}", {"succeeded": "ready"}.get(outcome, outcome))
        print(f"{number:>3}  {attempt['kernel']:<{release_width}}  {painted}{began:<21}{took:>8}")


def _page(text: str) -> None:
    """Print a text, on a terminal through $PAGER or less, which stays away where the text fits."""
    words = shlex.split(os.environ.get("PAGER", "less -FRX"))
    if terminal.is_terminal() and words and words != ["cat"]:
        from ..system.run import feed

        if feed(words, terminal.clean(text).encode(errors="replace"), {"LESSSECURE": "1"}):
            return
    _write(text)


def _write(text: str) -> None:
    """Write what a build printed: on a terminal made fit to be shown, elsewhere as it is stored."""
    if terminal.is_terminal():
        sys.stdout.write(text)
    else:
        terminal.write_bare(text)


def _follow(sysroot: Sysroot, log: str) -> None:
    """Print a log while it grows, until its last line is there or no build runs any more."""
    idle, tail = 0.0, ""
    try:
        with permitted(log):
            stream = sysroot.resolve(log).open(errors="replace")
    except OSError as error:
        raise Problem("log-missing", f"{log} cannot be read: {error.strerror}") from error
    with stream:
        while True:
            text = stream.read()
            if text:
                _write(text)
                sys.stdout.flush()
                idle, tail = 0.0, (tail + text)[-200:]
            if is_ended(tail) or (idle >= PATIENCE and not _is_busy(sysroot)):
                return
            idle += PAUSE
            time.sleep(PAUSE)


def _is_busy(sysroot: Sysroot) -> bool:
    from ..system.lock import Lock

    return Lock(sysroot).holder() is not None


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--list", action="store_true", help="list the attempts whose logs are kept")
    which.add_argument("--attempt", metavar="N", help="one that --list shows; default: 1, the last")
    which.add_argument("--follow", action="store_true", help="print on while the build runs")


COMMANDS = {"logs": Command(_add_arguments, run_logs)}
