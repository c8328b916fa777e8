"""Actions that were applied and stay due: they are left alone for a while, so that nothing else waits for them.

Must not: apply anything, or know why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Optional

from ..errors import Problem
from ..log import get_logger
from ..model import Action, Policy, RemoveDropin, RunDepmod, WriteDropin


class Stuck:
    """Pauses actions, each time for twice as long."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._paused: dict[Action, tuple[float, int]] = {}  # until when (time.monotonic()), and how often before

    def pause(self, actions: Sequence[Action]) -> None:
        """Leave actions alone until a pause is over."""
        now = time.monotonic()
        for action in actions:
            _, times = self._paused.get(action, (0.0, 0))
            pause = min(self.policy.retry_first * (1 << min(times, 20)), self.policy.retry_longest)
            self._paused[action] = (now + pause, times + 1)
            text = f"{type(action).__name__} was done and stays due: {action.reason}"
            problem = Problem("no-progress", text, "please report it")
            facts = {"problem": problem.code, "reason": problem.message, "hint": problem.hint, **_subject(action)}
            get_logger().error("no progress", seconds=pause, **facts)

    def until(self, action: Action) -> Optional[float]:
        """Return until when an action is left alone, time.monotonic(); None where it is not."""
        when, _ = self._paused.get(action, (0.0, 0))
        return when if when > time.monotonic() else None


def _subject(action: Action) -> dict[str, str]:
    """Return what an action is about, as fields of the log."""
    if isinstance(action, RunDepmod):
        return {"kernel": action.kernel}
    if isinstance(action, (WriteDropin, RemoveDropin)):
        return {"module": action.dropin.module}
    return {"module": action.target.module, "kernel": action.target.kernel}
