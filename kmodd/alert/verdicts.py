"""Logs changed verdicts of kernels and targets, each by an event that has a MESSAGE_ID.

One entry at error level for each cause, however many targets it is of: the others, and the kernels that follow from
their targets, are warnings.

Must not: log a build, which does so itself.
"""

from __future__ import annotations

import logging
from typing import Optional

from ..core.documents.grouping import find_cause
from ..core.model import Judgement, Target, Verdict
from ..core.report import Change, Report
from ..core.rootwarnings import find_warnings
from ..system.log import get_logger

LEVELS = {Verdict.FAILED: logging.ERROR, Verdict.BLOCKED: logging.ERROR, Verdict.WAITING: logging.WARNING}
#: Problems that have an event of their own.
EVENTS = {
    "kernel-devel-missing": "target waiting for kernel-devel",
    "signature-untrusted": "key not enrolled",
}


#: What is wrong with how the server boots, by problem.
BOOT_EVENTS = {
    "grubenv-damaged": "boot environment damaged",
    "default-dangling": "boot environment damaged",
    "oneshot-left": "boot environment damaged",
    "default-not-ready": "default not ready",
    "no-proven-kernel": "no proven kernel",
}
GRAVE = ("default not ready", "no proven kernel")


def log_changes(previous: Optional[Report], now: Report) -> None:
    """Log every kernel that came or went, and every verdict that settled otherwise than before."""
    for release in sorted(set(now.kernels) - set(previous.kernels if previous else _remembered(now))):
        get_logger().info("kernel appeared", kernel=release)
    known = find_warnings(previous.snapshot) if previous else ()
    for warning in find_warnings(now.snapshot):
        if warning not in known:
            subject = {name: text for name, text in (("module", warning.module), ("path", warning.file)) if text}
            fault = warning.fault
            get_logger().warning(
                "warning found", problem=fault.problem, reason=fault.message, hint=fault.hint, **subject
            )
    told = {_cause(judgement) for judgement in previous.settled.values()} if previous else set()
    for change in now.changes(previous):
        after = change.after
        if after is None:
            if not change.module:
                get_logger().info("kernel gone", kernel=change.kernel)
        elif change.before is not None or after.verdict is not Verdict.EXCLUDED:
            level = LEVELS.get(after.verdict, logging.INFO)
            if level == logging.ERROR and (not change.module or _cause(after) in told):
                level = logging.WARNING
            told.add(_cause(after))
            get_logger().log(
                level,
                _event(change, after),
                **({"module": change.module} if change.module else {}),
                kernel=change.kernel,
                verdict=after.verdict.value,
                problem=after.problem,
                reason=after.reason,
                hint=after.hint,
                log=_log(change, now) if after.verdict is Verdict.FAILED else "",
            )


def log_boot(previous: Optional[Report], now: Report) -> None:
    """Log what changed in how the server boots: kernels that are held, and what is wrong with the boot loader."""
    before = _boot_events(previous) if previous else set()
    for event, kernel, message, hint in sorted(_boot_events(now) - before):
        level = logging.ERROR if event in GRAVE else logging.WARNING
        get_logger().log(level, event, **({"kernel": kernel} if kernel else {}), reason=message, hint=hint)


def _boot_events(report: Report) -> set[tuple[str, str, str, str]]:
    """Return the events that hold now: event, kernel, message and hint."""
    guarding = report.guarding
    found = {(BOOT_EVENTS[fault.problem], "", fault.message, fault.hint) for fault in guarding.faults()}
    for standing in guarding.standings().values():
        if standing.held is not None:
            hint = f"kmoddctl boot release {standing.release} --force makes it bootable as it is"
            found.add(("kernel held", standing.release, standing.why, hint))
    behind = guarding.find_behind()
    if behind is not None:
        found.add(("older kernel still runs", behind.running, behind.fault.message, behind.fault.hint))
    return found


def _cause(judgement: Judgement) -> tuple[str, str, str]:
    """Return what judgements of the same cause have in common, as they are grouped elsewhere."""
    return find_cause({"verdict": judgement.verdict.value, "problem": judgement.problem, "reason": judgement.reason})


def _remembered(now: Report) -> set[str]:
    """Return the kernels that kmodd worked on before it was started."""
    return {target.kernel for target in now.snapshot.records}


def _event(change: Change, after: Judgement) -> str:
    if not change.module:
        return "kernel ready" if after.verdict is Verdict.READY else "kernel not ready"
    return EVENTS.get(after.problem, f"target {after.verdict.value}")


def _log(change: Change, now: Report) -> str:
    record = now.snapshot.of(Target(change.module, change.kernel)).record
    return record.attempt.log if record and record.attempt else ""
