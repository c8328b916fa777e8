"""What the daemon does, as it happens: watch, the progress of sync, and reload.

On a terminal, lines for what happened and below them bars for the builds that run; elsewhere the lines alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, Optional, TextIO

from ..control.client import Client
from ..core.errors import Problem
from . import DONE
from .connection import connect
from .parser import Command, add_nothing
from .terminal import clean, clip, paint, span, steer, width

TICK = 1.0  # seconds between two drawings of what only grows older
BAR = 24  # columns
TAIL = 12  # lines of a failed build's log
FRAME = re.compile(r"\[kmodd: |make(\[\d+\])?: |  [A-Z]+ +\[M\] ")  # lines of a log that say nothing about the error
OUTCOMES = {"succeeded": "ready", "failed": "failed"}


class Progress:
    """Shows events on a stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self._builds: dict[tuple[str, str], dict[str, Any]] = {}
        self._drawn = 0

    def show(self, event: dict[str, Any], tail: str = "") -> None:
        """Show an event. tail: the end of the log that it is about."""
        target = event.get("module", ""), event.get("kernel", "")
        if event["event"] == "started":
            self._builds[target] = event
        elif event["event"] == "compiled" and target in self._builds:
            self._builds[target].update(compiled=event["compiled"], total=event["total"])
        elif event["event"] == "ended":
            self._builds.pop(target, None)
        self._erase()
        text = sentence({key: clean(value) if isinstance(value, str) else value for key, value in event.items()})
        if text:
            print(f"{time.strftime('%H:%M:%S', time.localtime(event['time']))}  {text}", file=self.stream)
        for line in [line for line in tail.splitlines() if not FRAME.match(line)][-TAIL:]:
            print(f"          | {clean(line)}", file=self.stream)
        self.draw()

    def draw(self) -> None:
        """Draw the builds that run anew."""
        self._erase()
        if self.live:
            for (module, kernel), build in sorted(self._builds.items()):
                elapsed = span(max(0.0, time.time() - build["time"]))
                print(clip(f"  {bar(build)}  {module} for {kernel}, {elapsed}", width() - 1), file=self.stream)
            self._drawn = len(self._builds)
        self.stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            self.stream.write(steer(f"{self._drawn}F") + steer("J"))  # to the first of the lines, and clear to the end
            self._drawn = 0


def bar(build: dict[str, Any]) -> str:
    """Return how far a build is: a bar where it can be estimated, and the count of compiled files."""
    done, total = build.get("compiled") or 0, build.get("total")
    if not total:
        return f"{'compiled ' + str(done):<{BAR + 2}}"
    filled = min(BAR, BAR * done // total)
    return f"[{'#' * filled}{'-' * (BAR - filled)}] {done}/{total}"


def sentence(event: dict[str, Any]) -> str:
    """Return an event as a line, "" where it is none of its own."""
    kind, module, kernel = event["event"], event.get("module"), event.get("kernel")
    target = f"{module} for {kernel}" if module else f"kernel {kernel}"
    if kind == "activity":
        return str(event["text"])
    if kind == "started":
        return f"{target}: {paint('building', 'building')}"
    if kind == "ended":
        outcome = event["outcome"]
        return f"{target}: build {paint(outcome, OUTCOMES.get(outcome, ''))} after {span(event['seconds'])}"
    if kind == "verdict":
        verdict = event["verdict"]
        if verdict is None:
            return f"{target}: gone"
        hint = f" → {event['hint']}" if module and event.get("hint") else ""
        return f"{target}: {paint(verdict, verdict)}, {event['reason']}{hint}"
    return ""


def _ticking(client: Client, replies: Iterator[dict[str, Any]], progress: Progress) -> Iterator[dict[str, Any]]:
    """Yield replies, and draw while none come."""
    for reply in replies:
        yield reply
        while progress.live and not client.wait(TICK):
            progress.draw()


def run_watch(options: argparse.Namespace) -> int:
    """kmoddctl watch"""
    progress = Progress(sys.stdout)
    with connect(options.root) as client:
        for reply in _ticking(client, client.stream("Subscribe"), progress):
            event = reply["event"]
            if options.json:
                print(json.dumps(event), flush=True)
            else:
                progress.show(event, _tail(options.root, event))
    return DONE


def _tail(root: str, event: dict[str, Any]) -> str:
    """Return the end of the log of a build that failed."""
    if event["event"] != "ended" or event["outcome"] != "failed":
        return ""
    try:
        with connect(root) as client:
            return str(client.call("Logs", module=event["module"], kernel=event["kernel"])["text"])
    except Problem:
        return ""


def sync_by_daemon(root: str, verbose: bool) -> Optional[dict[str, Any]]:
    """Have the daemon sync; return the status it leaves, None where no daemon runs. Raises Problem.

    Progress goes to standard error, if that is a terminal or verbose asks for it.
    """
    try:
        client = connect(root)
    except Problem:
        return None
    progress = Progress(sys.stderr)
    with client:
        if not (progress.live or verbose):
            return _synced(client.call("Sync"))
        for reply in _ticking(client, client.stream("Sync"), progress):
            if reply.get("status"):
                return _synced(reply)
            progress.show(reply["event"])
    raise Problem("call-refused", "kmodd ended the sync without a status", "do versions differ?")


def _synced(reply: dict[str, Any]) -> dict[str, Any]:
    """Return the status that a sync left, with the steps that failed."""
    return {**reply["status"], "failures": reply.get("failures") or []}


def run_reload(options: argparse.Namespace) -> int:
    """kmoddctl reload"""
    with connect(options.root) as client:
        client.call("Reload")
    print(json.dumps({"schema": 1, "done": "reload"}) if options.json else "kmodd takes over its settings")
    return DONE


COMMANDS = {"watch": Command(add_nothing, run_watch), "reload": Command(add_nothing, run_reload)}
