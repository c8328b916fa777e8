"""Applying in this process what is due: sync and rebuild where no daemon runs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Optional

from ..alert import Alerts
from ..errors import Problem
from ..lock import Lock
from ..log import configure
from ..model import Action, BuildModule, Target
from ..planner import find_repeatable, judge
from ..reconcile import Reconciler, Wanted
from ..report import make_report, plan_document
from ..watch import Bell, settle
from .documents import Document
from .look import Look
from .status import run_status


def repeatable(seen: Look, module: Optional[str], kernel: Optional[str]) -> tuple[list[Target], Document]:
    """Return what can be built again, and that as a plan."""
    targets = find_repeatable(seen.snapshot, module, kernel)
    return targets, plan_document([BuildModule(target, "a rebuild is asked for") for target in targets])


def sync_here(options: argparse.Namespace, seen: Look, again: Sequence[Target] = ()) -> int:
    """Sync in this process and show the status. again: targets to be built whatever came of them."""
    bring_up(seen, f"kmoddctl {options.command}", again, level="info" if options.verbose else "error")
    return run_status(options)


def bring_up(
    seen: Look, program: str, again: Sequence[Target] = (), wanted: Wanted = lambda _: True, level: str = "error"
) -> None:
    """Apply what is due to a root, as far as it is wanted, in this process. Raises Problem.

    program: who holds the lock meanwhile. again: as sync_here's. level: the lowest that is logged.
    """
    lock = Lock(seen.sysroot)
    try:
        lock.acquire(program)
    except Problem as problem:
        if problem.code != "already-running":
            raise
        raise Problem(problem.code, f"{problem.message} and brings it up to date by itself", problem.hint) from problem
    configure(level)
    try:
        asyncio.run(_sync(seen, again, wanted))
    finally:
        lock.release()


async def _sync(seen: Look, again: Sequence[Target], wanted: Wanted) -> tuple[Action, ...]:
    bell = Bell()
    bell.ring("kmoddctl sync")

    def tell(pid: int) -> None:
        print(f"waiting for the rpm transaction of pid {pid}", file=sys.stderr)

    await settle(seen.sysroot, bell, quiet=0.01, on_transaction=tell)
    reconciler = Reconciler(seen.sysroot, seen.settings, lambda _: None, wanted=wanted)
    reconciler.heal()
    reconciler.ask_again(again)
    try:
        actions = await reconciler.run_to_end()
        _report(seen, reconciler)
        return actions
    finally:
        await reconciler.stop()


def _report(seen: Look, reconciler: Reconciler) -> None:
    """Bring the metrics and the motd line up to date, as the daemon does after its looks."""
    snapshot, now = reconciler.snapshot, time.time()
    if snapshot is not None:
        alerts = Alerts(seen.sysroot)
        alerts.metrics.textfile = seen.settings.metrics.textfile
        alerts.write(None, make_report(snapshot, judge(snapshot, reconciler.policy, now), now, None))
