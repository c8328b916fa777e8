"""Actions that were applied and stay due: they are left alone for a while, so that nothing else waits for them.

Must not: apply anything, or know why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Optional

from ..core.actions import Action
from ..core.errors import Problem
from ..core.settings import SettingsSource
from ..system.log import get_logger


class Stuck:
    """Pauses actions, each time for twice as long, by the settings' table retry."""

    def __init__(self, settings: SettingsSource) -> None:
        self.settings = settings
        self._paused: dict[Action, tuple[float, int]] = {}  # until when (time.monotonic()), and how often before

    def pause(self, actions: Sequence[Action]) -> None:
        """Leave actions alone until a pause is over."""
        now, retry = time.monotonic(), self.settings.now.retry
        for action in actions:
            _, times = self._paused.get(action, (0.0, 0))
            pause = min(retry.first * (1 << min(times, 20)), retry.longest)
            self._paused[action] = (now + pause, times + 1)
            text = f"{action.name} was done and stays due: {action.reason}"
            problem = Problem("no-progress", text, "please report it")
            facts = {"problem": problem.code, "reason": problem.message, "hint": problem.hint}
            get_logger().error("no progress", seconds=pause, **facts, **action.subject.fields())

    def forget(self) -> None:
        """Have nothing left alone any more."""
        self._paused.clear()

    def until(self, action: Action) -> Optional[float]:
        """Return until when an action is left alone, time.monotonic(); None where it is not."""
        when, _ = self._paused.get(action, (0.0, 0))
        return when if when > time.monotonic() else None
