"""Logs what became of targets and kernels. Must not: log a build, which says so itself."""

from __future__ import annotations

import logging
from typing import Optional

from ..log import get_logger
from ..model import Verdict
from ..report import Report

LEVELS = {Verdict.FAILED: logging.ERROR, Verdict.BLOCKED: logging.ERROR, Verdict.WAITING: logging.WARNING}


def log_changes(previous: Optional[Report], now: Report) -> None:
    """Log every verdict that settled otherwise than before."""
    for change in now.changes(previous):
        after = change.after
        if after is None:
            if not change.module:
                get_logger().info("kernel gone", kernel=change.kernel)
        elif change.before is not None or after.verdict is not Verdict.EXCLUDED:
            get_logger().log(
                LEVELS.get(after.verdict, logging.INFO),
                f"{'target' if change.module else 'kernel'} {after.verdict.value}",
                module=change.module,
                kernel=change.kernel,
                problem=after.problem,
                reason=after.reason,
                hint=after.hint,
            )
