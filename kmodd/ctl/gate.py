"""kmoddctl gate: tells whether a kernel may be booted, and waits until it may.

It relies on its own snapshot alone: a kernel may have been installed a moment ago, and the daemon may have made no pass
since. An rpm transaction that runs may leave a kernel half installed, so that nothing is ready during one.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Optional

from ..control.client import Client
from ..core import versions
from ..core.actions import Wait
from ..core.documents.choosing import check_kernel
from ..core.documents.grouping import group
from ..core.errors import Problem
from ..core.model import Judgement, Snapshot, Target, Verdict
from ..core.modulefile import seconds
from ..core.planner import judge_kernel
from ..core.sysroot import Sysroot
from ..watch.transaction import transaction_holder
from . import DONE, FAILED, NOT_READY
from .answers import as_row, read_warnings, word
from .connection import PATIENCE, connect
from .inprocess import Observed, observe
from .parser import Command, add_choice_of_kernel
from .terminal import clean

PAUSE = 2.0  # seconds between two observations at least; and five times as long as one takes
LONG_PAUSE = 30.0  # where the daemon would report that something happened
TELLING = ("activity", "ended", "verdict")  # events after which the root is read again


@dataclass(frozen=True)
class Finding:
    """Whether a kernel may be booted. chosen: by option, default-boot or newest."""

    kernel: str
    chosen: str
    judgement: Judgement
    lacking: tuple[tuple[Target, Judgement], ...]  # required, and not ready
    transaction: Optional[int]  # pid of whoever is in an rpm transaction
    hopeless: bool  # waiting does not help
    holder: Optional[str]
    warnings: tuple[dict[str, Any], ...] = ()  # of the whole root, as JSON has them; they hold up nothing
    behind: str = ""  # that a newer kernel is held

    @property
    def is_open(self) -> bool:
        return self.transaction is None and self.judgement.verdict is Verdict.READY


def choose_kernel(snapshot: Snapshot, release: Optional[str]) -> tuple[str, str]:
    """Return a kernel and why that one: the one asked for, else the one that boots next, else the newest.

    Of several flavours, the newest is one of the running kernel's. Raises Problem kernel-unknown.
    """
    present = {r: kernel for r, kernel in snapshot.kernels.items() if kernel.present}
    if release is not None:
        check_kernel(release, present)
        return release, "option"
    for name, kernel in present.items():
        if kernel.default_boot:
            return name, "default-boot"
    if not present:
        raise Problem("kernel-missing", "no kernel is installed", "install one")
    flavours = {kernel.flavour for kernel in present.values() if kernel.running}
    alike = [name for name, kernel in present.items() if kernel.flavour in flavours]
    return max(alike or present, key=functools.cmp_to_key(versions.compare)), "newest"


def required_targets(snapshot: Snapshot, judgements: dict[Target, Judgement]) -> dict[Target, Judgement]:
    """Return the targets of required modules; a broken module file counts as one."""
    modules = snapshot.modules
    return {t: j for t, j in judgements.items() if t.module not in modules or modules[t.module].required}


def examine(options: argparse.Namespace) -> Finding:
    """Observe between two checks of rpm's lock: a transaction that begins meanwhile counts, too. Raises Problem."""
    sysroot = Sysroot.at(options.root)
    before = transaction_holder(sysroot)
    seen = observe(options)
    after = transaction_holder(sysroot)
    found = find(seen, options.kernel, before if after is None else after)
    return replace(found, warnings=read_warnings(options.root, seen))


def find(seen: Observed, release: Optional[str], transaction: Optional[int]) -> Finding:
    """Return what an observation means. Raises Problem kernel-unknown."""
    kernel, chosen = choose_kernel(seen.snapshot, release)
    required = {t: j for t, j in required_targets(seen.snapshot, seen.judgements).items() if t.kernel == kernel}
    lacking = tuple((t, j) for t, j in sorted(required.items()) if j.verdict not in (Verdict.READY, Verdict.EXCLUDED))
    return Finding(
        kernel,
        chosen,
        judge_kernel(kernel, seen.snapshot, seen.judgements),
        lacking,
        transaction,
        transaction is None and _is_hopeless(kernel, lacking, seen),
        seen.holder,
        behind=_find_held(seen) if chosen == "default-boot" else "",
    )


def _find_held(seen: Observed) -> str:
    """Return that a newer kernel than the running one is held, "" where none is."""
    behind = seen.guarding.find_behind()
    return behind.fault.message if behind is not None and behind.held is not None else ""


def _is_hopeless(kernel: str, lacking: tuple[tuple[Target, Judgement], ...], seen: Observed) -> bool:
    """Tell whether a required module is failed or blocked in a way that only a human can change.

    A failure that is tried again by itself may pass, and what blocks a module may be another one that is being built.
    """
    retried = {action.target for action in seen.actions if isinstance(action, Wait) and action.until is not None}
    building = any(t.kernel == kernel and j.verdict is Verdict.BUILDING for t, j in seen.judgements.items())
    return any(
        (judgement.verdict is Verdict.FAILED and target not in retried)
        or (judgement.verdict is Verdict.BLOCKED and not building)
        for target, judgement in lacking
    )


class DaemonEvents:
    """The daemon's events while the gate waits: hints that something changed, so that it reads the root seldom."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._client: Optional[Client] = None
        self._events: Iterator[dict[str, Any]] = iter(())

    def listen(self) -> None:
        """Listen from now on, if the daemon can be reached."""
        if self._client is None:
            try:
                self._client = connect(self.root, PATIENCE)
                self._events = self._client.stream("Subscribe")
                next(self._events)
            except Problem:
                self._hang_up()

    def wait(self, least: float, most: float) -> bool:
        """Wait for least seconds, then for an event, for most seconds in all; tell whether there was one.

        Without a daemon there are none, and only least seconds are waited.
        """
        time.sleep(least)
        end = time.monotonic() + most - least
        try:
            while self._client is not None and self._client.wait(max(0.0, end - time.monotonic())):
                if next(self._events)["event"]["event"] in TELLING:
                    return True
        except (Problem, StopIteration):
            self._hang_up()
        return False

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


def run_gate(options: argparse.Namespace) -> int:
    """kmoddctl gate [--kernel R | --default] [--wait T]"""
    began = time.monotonic()
    end = began + _span(options.wait)
    told: set[str] = set()
    events = DaemonEvents(options.root)
    while True:
        if options.wait is not None:
            events.listen()
        started = time.monotonic()
        finding = examine(options)
        now = time.monotonic()
        for line in _remarks(finding, waits=options.wait is not None):
            if line not in told:
                told.add(line)
                print(f"kmoddctl: {line}", file=sys.stderr, flush=True)
        if finding.is_open or finding.hopeless or now >= end:
            break
        least = min(max(PAUSE, 5 * (now - started)), end - now)
        events.wait(least, max(least, min(LONG_PAUSE, end - now)))
    print(json.dumps(_document(finding, time.monotonic() - began), indent=1) if options.json else clean(_text(finding)))
    if finding.is_open:
        return DONE
    return FAILED if finding.judgement.verdict is Verdict.FAILED else NOT_READY


def _span(text: Optional[str]) -> float:
    try:
        return float(str(seconds(text if text is not None else "0")))
    except ValueError as error:
        raise Problem("usage-wait", f"--wait {error}, not {text!r}", "see kmoddctl(8)") from error


def _remarks(finding: Finding, waits: bool) -> list[str]:
    """Return what a reader should know besides the answer."""
    remarks = []
    if finding.chosen == "newest":
        remarks.append(f"which kernel boots next cannot be determined; this is the newest, {finding.kernel}")
    if finding.behind:
        remarks.append(finding.behind)
    if waits and finding.transaction is not None:
        remarks.append(f"waiting for the rpm transaction of pid {finding.transaction}")
    elif waits and not finding.is_open and not finding.hopeless:
        groups = group(as_row(target, found, finding.holder) for target, found in finding.lacking)
        names = ", ".join(f"{one.modules} ({one.verdict})" for one in groups)
        remarks.append(f"waiting for {names or 'depmod'} on {finding.kernel}")
    for warning in finding.warnings:
        remarks.append(f"warning: {warning['message']}" + (f" -> {warning['hint']}" if warning["hint"] else ""))
    if not finding.is_open and not finding.hopeless and finding.holder is None:
        remarks.append("kmodd is not running, so that nothing is built: systemctl start kmodd")
    return remarks


def _text(finding: Finding) -> str:
    judgement = finding.judgement
    if finding.transaction is not None:
        return f"{finding.kernel}: not ready, an rpm transaction is running (pid {finding.transaction})"
    if finding.is_open:
        return f"{finding.kernel}: ready, {judgement.reason}"
    lines = [f"{finding.kernel}: not ready, {word(judgement.verdict.value, finding.holder)}"]
    for one in group(as_row(target, found, finding.holder) for target, found in finding.lacking):
        lines.append(f"  {one.modules}: {one.verdict}, {one.reason}")
        lines += [f"      → {one.hint}"] if one.hint else []
    return "\n".join(lines)


def _document(finding: Finding, waited: float) -> dict[str, Any]:
    return {
        "schema": 1,
        "kernel": finding.kernel,
        "chosen": finding.chosen,
        "ready": finding.is_open,
        "verdict": finding.judgement.verdict.value,
        "reason": finding.judgement.reason,
        "transaction": finding.transaction,
        "hopeless": finding.hopeless,
        "waited": round(waited, 1),
        "warnings": list(finding.warnings),
        "lacking": [
            {"module": t.module, "verdict": j.verdict.value, "reason": j.reason, "problem": j.problem, "hint": j.hint}
            for t, j in finding.lacking
        ],
    }


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_choice_of_kernel(parser)
    parser.add_argument("--wait", metavar="SPAN", help="wait for so long, such as 30min")


COMMANDS = {"gate": Command(_add_arguments, run_gate)}
