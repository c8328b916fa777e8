"""Logs changed verdicts of kernels and targets, each by an event that has a MESSAGE_ID.

Must not: log a build, which does so itself.
"""

from __future__ import annotations

import logging
from typing import Optional

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
    for change in now.changes(previous):
        after = change.after
        if after is None:
            if not change.module:
                get_logger().info("kernel gone", kernel=change.kernel)
        elif change.before is not None or after.verdict is not Verdict.EXCLUDED:
            get_logger().log(
                LEVELS.get(after.verdict, logging.INFO),
                _event(change, after),
                **({"module": change.module} if change.module else {}),
                kernel=change.kernel,
                verdict=after.verdict.value,
                problem=after.problem,
                reason=after.reason,
                hint=after.hint,
                log=_log(change, now) if after.verdict is Verdict.FAILED else "",
            )


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
