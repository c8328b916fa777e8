"""Turns what happens into the live events of io.kmodd.Manager. Costs nothing while nobody subscribed.

Must not: decide anything by them; one that is lost does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..control.feed import Feed, Subscription, render
from ..core.model import Target
from ..core.report import Report
from ..core.sysroot import Sysroot
from ..kbuild.progress import CompiledFiles, estimate

INTERVAL = 0.5  # seconds between two readings of the logs of running builds


@dataclass
class _Build:
    log: str
    files: CompiledFiles
    told: int = 0
    total: Optional[int] = None


class Events:
    """The events of one daemon."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self.feed = Feed()
        self._activity = "starting"
        self._builds: dict[Target, _Build] = {}
        self._counting: Optional[asyncio.Task[None]] = None

    @contextlib.contextmanager
    def subscribed(self) -> Iterator[Subscription]:
        """Give a subscription that begins with what is under way."""
        with self.feed.subscribed() as subscription:
            subscription.put(render(_event("activity", text=self._activity)))
            for target, build in self._builds.items():
                subscription.put(render(_started(target, build.log)))
                build.told = -1  # to be reported again
            self._count()
            yield subscription

    def doing(self, activity: str) -> None:
        """Tell what the daemon does, fit to print."""
        if activity != self._activity:
            self._activity = activity
            self.feed.publish(_event("activity", text=activity))

    def build(self, target: Target, what: str, log: Optional[Path], seconds: float) -> None:
        """Report what became of a build, with the arguments of reconcile.unexpected.BuildObserver."""
        where = self.sysroot.inside(log) if log else ""
        if what == "started" and log:
            self._builds[target] = _Build(where, CompiledFiles(log))
            self.feed.publish(_started(target, where))
            self._count()
            return
        self._builds.pop(target, None)
        facts = {"module": target.module, "kernel": target.kernel, "log": where, "seconds": seconds}
        self.feed.publish(_event("ended", outcome=what, **facts))

    def changes(self, previous: Optional[Report], now: Report) -> None:
        """Tell every verdict that settled otherwise than before: an observer of reports."""
        for change in now.changes(previous) if self.feed else ():
            before, after = change.before, change.after
            facts = {"reason": after.reason, "problem": after.problem, "hint": after.hint} if after else {}
            self.feed.publish(
                _event(
                    "verdict",
                    module=change.module,
                    kernel=change.kernel,
                    before=before.verdict.value if before else None,
                    verdict=after.verdict.value if after else None,
                    **facts,
                )
            )

    # -- compiled files --------------------------------------------------------------------------------------------
    def _count(self) -> None:
        """Follow the logs as long as somebody listens and something is built."""
        if self._counting is None and self.feed and self._builds:
            self._counting = asyncio.get_running_loop().create_task(self._count_files())

    async def _count_files(self) -> None:
        try:
            while self.feed and self._builds:
                for target, build in list(self._builds.items()):
                    await self._count_one(target, build)
                await asyncio.sleep(INTERVAL)
        finally:
            self._counting = None

    async def _count_one(self, target: Target, build: _Build) -> None:
        with contextlib.suppress(OSError):
            if build.total is None:
                build.total = await asyncio.to_thread(estimate, build.files.log) or 0
            count = await asyncio.to_thread(build.files.read)
            if count == build.told:
                return
            build.told = count
            total = max(build.total, count) if build.total else None
            if target in self._builds:
                facts = {"module": target.module, "kernel": target.kernel}
                self.feed.publish(_event("compiled", compiled=count, total=total, **facts))

    async def stop(self) -> None:
        if self._counting is not None:
            self._counting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._counting


def _event(kind: str, **facts: Any) -> dict[str, Any]:
    return {"event": kind, "time": time.time(), **facts}


def _started(target: Target, log: str) -> dict[str, Any]:
    return _event("started", module=target.module, kernel=target.kernel, log=log)
