"""Applies in this process what is due: sync and rebuild where no daemon runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Optional

from ..actions import BuildModule
from ..alert import Alerts
from ..build.sandbox import build_owner
from ..choosing import Document
from ..config import read_settings
from ..errors import Problem
from ..lock import Lock
from ..log import configure
from ..model import Snapshot, Target
from ..paths import Sysroot
from ..planner import find_repeatable, judge
from ..reconcile import policy_of
from ..reconcile.outcome import as_problem
from ..reconcile.reconciler import Reconciler, Wanted
from ..report import make_report, plan_document, status_document
from ..settings import Settings, SettingsSource
from ..watch.transaction import settle
from ..watch.triggers import Triggers
from .look import Look


def repeatable(seen: Look, module: Optional[str], kernel: Optional[str]) -> tuple[list[Target], Document]:
    """Return what can be built again, and that as a plan."""
    targets = find_repeatable(seen.snapshot, module, kernel)
    return targets, plan_document([BuildModule(target, "a rebuild is asked for") for target in targets])


def sync_here(options: argparse.Namespace, again: Sequence[Target] = ()) -> Document:
    """Sync in this process; returns the status. again: targets to be built whatever came of them. Raises Problem."""
    level = "info" if options.verbose else "error"
    return bring_up(options.root, f"kmoddctl {options.command}", again, level=level)


def bring_up(
    root: str, program: str, again: Sequence[Target] = (), wanted: Wanted = lambda _: True, level: str = "error"
) -> Document:
    """Apply what is due, as far as it is wanted, in this process; returns the status after the last pass.

    program: who holds the lock meanwhile. again: as sync_here's. level: the lowest that is logged. Raises Problem.
    """
    configure(level)
    sysroot = Sysroot.at(root)
    settings = read_settings(sysroot)
    lock = Lock(sysroot)
    try:
        lock.acquire(program)
    except Problem as problem:
        if problem.code != "already-running":
            raise
        raise Problem(problem.code, f"{problem.message} and brings it up to date by itself", problem.hint) from problem
    try:
        snapshot = asyncio.run(_apply(sysroot, settings, again, wanted))
    finally:
        lock.release()
    now = time.time()
    judgements = judge(snapshot, policy_of(settings), now)
    alerts = Alerts(sysroot, SettingsSource(settings), build_owner)
    # the files that the daemon keeps up to date after its passes
    alerts.write(None, make_report(snapshot, judgements, now, None))
    return status_document(snapshot, judgements, holder=None, looked=now)


async def _apply(sysroot: Sysroot, settings: Settings, again: Sequence[Target], wanted: Wanted) -> Snapshot:
    """Do what is due and wanted; returns what was observed when nothing was left."""
    triggers = Triggers()
    triggers.add("kmoddctl sync")

    def tell(pid: int) -> None:
        with contextlib.suppress(OSError):  # nobody may be there to read it
            print(f"waiting for the rpm transaction of pid {pid}", file=sys.stderr)

    await settle(sysroot, triggers, quiet=0.01, on_transaction=tell)
    reconciler = Reconciler(sysroot, SettingsSource(settings), lambda _: None, wanted=wanted, brief=True)
    reconciler.heal()
    reconciler.ask_again(again)
    try:
        return await reconciler.run_to_end()
    except Exception as error:
        raise as_problem(error, "syncing") from error
    finally:
        await reconciler.stop()
