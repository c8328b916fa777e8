"""What the daemon reports after each pass, and what it does meanwhile. Must not: decide what is to be done."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..core.model import Judgement, Verdict
from ..core.planner import judge
from ..core.report import Observer, make_report, summary
from ..reconcile.reconciler import Reconciler
from ..reconcile.unexpected import as_problem
from ..system.lock import Lock
from ..system.notify import Notifier
from .events import Events
from .passes import Passes


class Reports:
    """The reports of one daemon."""

    def __init__(
        self,
        reconciler: Reconciler,
        passes: Passes,
        events: Events,
        notifier: Notifier,
        lock: Lock,
        observers: Sequence[Observer],
    ) -> None:
        self.reconciler = reconciler
        self.passes = passes
        self.events = events
        self.notifier = notifier
        self.lock = lock
        self.observers = observers

    def tell(self, activity: str) -> None:
        """Say what the daemon does now."""
        self.lock.tell(self.reconciler.builds, activity)
        self.events.doing(activity)

    def make(self) -> None:
        """Report what the last pass left: to observers, to the service manager, to the lock's file."""
        snapshot = self.reconciler.snapshot
        if snapshot is None:
            return
        judgements = judge(snapshot, self.reconciler.policy, time.time())
        for target in self.reconciler.builds:
            judgements[target] = Judgement(Verdict.BUILDING, "is being built")
        report = make_report(snapshot, judgements, time.time(), self.passes.report)
        for observe in self.observers:
            try:
                observe(self.passes.report, report)
            except Exception as error:  # modules matter more than telling of them
                as_problem(error, "telling what changed")
        running = sorted(self.reconciler.builds)
        doing = ""
        if running:
            more = f" and {len(running) - 1} more" if len(running) > 1 else ""
            doing = f"building {running[0]}{more}; "
        self.notifier.status(doing + summary(judgements))
        self.tell("building" if running else "idle")
        self.passes.end(report, idle=not running)
