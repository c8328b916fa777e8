"""Lets dnf fetch what waiting targets need, where the settings allow it; one command at a time.

What failed is tried again after a pause that doubles, and by a new process at once: nothing of it is stored.
Must not: start anything while an rpm transaction runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Optional

from ..core.actions import Action, Wait
from ..core.remedy import Remedy
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..deploy.fetch import fetch
from ..system.log import get_logger
from ..watch.transaction import transaction_holder
from .unexpected import as_problem


class Fetching:
    """The fetches of one root. trigger is called when one ended; when a pause is over, next_try tells."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource, trigger: Callable[[str], None]) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self.trigger = trigger
        self.running: dict[Remedy, asyncio.Task[None]] = {}
        self._failed: dict[Remedy, tuple[int, float]] = {}  # failures in a row, time.monotonic() of the next try
        self._wanted: tuple[Remedy, ...] = ()  # as of the last start

    def _allows(self, remedy: Remedy) -> bool:
        """Tell whether the settings say that something may be fetched."""
        if remedy.kind == "fetch-source":
            return self.settings.now.sources.fetch and bool(self.settings.now.sources.srpm_path)
        return self.settings.now.kernels.fetch_devel

    def start(self, actions: Iterable[Action]) -> None:
        """Start what is due of what actions wait for; the settings say what of it may be fetched."""
        for remedy, task in list(self.running.items()):
            if task.done():
                del self.running[remedy]
        wanted = [action.remedy for action in actions if isinstance(action, Wait) and action.remedy]
        self._wanted = tuple(filter(self._allows, dict.fromkeys(wanted)))
        for remedy in self._wanted:
            if self.running or self._failed.get(remedy, (0, 0.0))[1] > time.monotonic():
                continue
            if transaction_holder(self.sysroot) is not None:
                return  # its end is a trigger
            task = asyncio.get_running_loop().create_task(self._fetch(remedy))
            self.running[remedy] = task
            task.add_done_callback(lambda _: self.trigger("fetch ended"))

    def forget(self) -> None:
        """Have what failed tried again without a pause."""
        self._failed.clear()

    def next_try(self) -> Optional[float]:
        """Return when the first fetch that failed and is wanted still is due again, time.monotonic(); None for never.

        While one runs, its end is waited for.
        """
        failed = (self._failed.get(remedy, (0, 0.0)) for remedy in self._wanted)
        times = [when for failures, when in failed if failures]
        return min(times, default=None) if not self.running else None

    async def _fetch(self, remedy: Remedy) -> None:
        began = time.monotonic()
        directory = next(iter(self.settings.now.sources.srpm_path), "")
        command = remedy.shown(self.sysroot, directory)
        get_logger().info("fetch started", command=command)
        try:
            await fetch(self.sysroot, remedy, directory)
        except Exception as error:  # whatever it is, it is not tried again without a pause
            problem = as_problem(error, f"running {command}")
            failures = self._failed.get(remedy, (0, 0.0))[0] + 1
            retry = self.settings.now.retry
            pause = min(retry.first * (1 << min(failures - 1, 20)), retry.longest)
            self._failed[remedy] = (failures, time.monotonic() + pause)
            get_logger().warning("fetch failed", problem=problem.code, reason=problem.message, hint=problem.hint)
            return
        # What it did not bring although it says so is not asked for again at once.
        self._failed[remedy] = (0, time.monotonic() + self.settings.now.retry.first)
        get_logger().info("fetched", command=command, seconds=round(time.monotonic() - began, 1))

    async def stop(self) -> None:
        """Wait for nothing: dnf ends by itself."""
        for task in self.running.values():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.running.clear()
