"""Unexpected errors in the daemon: each cause is logged once, and the work is tried again after a pause.

Must not: end the daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Callable, Optional

from ..core.errors import Problem
from ..reconcile.unexpected import as_problem
from ..system.log import get_logger

FIRST, LONGEST = 5.0, 60.0  # seconds until a pass that failed is repeated: the first pause, doubled up to the longest
MOST_CAUSES = 64  # that are remembered as logged


class DaemonFailures:
    """The passes that failed in a row, and the causes that were logged since one succeeded."""

    def __init__(self) -> None:
        self._count = 0
        self._logged: dict[str, None] = {}

    def _is_new(self, error: BaseException) -> bool:
        cause = repr(error)
        if cause in self._logged:
            return False
        if len(self._logged) >= MOST_CAUSES:
            self._logged.pop(next(iter(self._logged)))
        self._logged[cause] = None
        return True

    def pass_failed(self, error: Exception) -> tuple[Problem, float]:
        """Note that a pass failed; returns the problem, and the seconds until the next."""
        new = self._is_new(error)
        problem = as_problem(error, "looking", again=not new)
        pause = min(FIRST * 2 ** min(self._count, 10), LONGEST)
        self._count += 1
        tell = get_logger().error if new else get_logger().debug
        tell("look failed", problem=problem.code, reason=problem.message, hint=problem.hint)
        return problem, pause

    def pass_succeeded(self) -> None:
        if self._count:
            get_logger().info("look succeeded again", failures=self._count)
        self._count = 0
        self._logged.clear()

    def callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what a callback or a task that nobody waits for raised: the event loop's exception handler."""
        error = context.get("exception")
        if isinstance(error, Exception) and self._is_new(error):
            problem = as_problem(error, str(context.get("message", "a callback")))
            get_logger().error("callback failed", problem=problem.code, reason=problem.message, hint=problem.hint)

    async def guard(self, doing: str, step: Callable[[], Awaitable[object]]) -> Optional[Problem]:
        """Run a step whose failure must not stop others; returns what went wrong."""
        try:
            await step()
        except Exception as error:
            problem = as_problem(error, doing)
            get_logger().error("step failed", problem=problem.code, reason=problem.message, hint=problem.hint)
            return problem
        return None
