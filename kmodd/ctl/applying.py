"""Applies in this process what is due: sync and rebuild where no daemon runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Optional

from ..alert import Alerts
from ..core.actions import BuildModule
from ..core.documents.choosing import Document
from ..core.documents.failures import failures_document
from ..core.documents.plan import plan_document
from ..core.documents.status import status_document
from ..core.errors import Problem
from ..core.model import Snapshot, Target
from ..core.planner import find_repeatable, judge
from ..core.report import make_report
from ..core.settings import Settings, SettingsSource
from ..core.sysroot import Sysroot
from ..host.settingsfile import read_settings
from ..kbuild.sandbox import build_owner
from ..reconcile import policy_of
from ..reconcile.reconciler import Reconciler, Wanted, retry_now
from ..reconcile.unexpected import as_problem
from ..system.lock import Lock
from ..system.log import configure
from ..watch.transaction import settle
from ..watch.triggers import Triggers
from .inprocess import Observed


def repeatable(seen: Observed, module: Optional[str], kernel: Optional[str]) -> tuple[list[Target], Document]:
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
        snapshot, failures = asyncio.run(_apply(sysroot, settings, again, wanted))
    finally:
        lock.release()
    now = time.time()
    judgements = judge(snapshot, policy_of(settings), now)
    alerts = Alerts(sysroot, SettingsSource(settings), build_owner)
    # the files that the daemon keeps up to date after its passes
    alerts.write(None, make_report(snapshot, judgements, now, None))
    return {**status_document(snapshot, judgements, holder=None, looked=now), "failures": failures}


async def _apply(
    sysroot: Sysroot, settings: Settings, again: Sequence[Target], wanted: Wanted
) -> tuple[Snapshot, list[dict[str, str]]]:
    """Do what is due and wanted; returns what was observed when nothing was left, and the steps that failed."""
    began = time.time()
    triggers = Triggers()
    triggers.add("kmoddctl sync")

    def tell(pid: int) -> None:
        with contextlib.suppress(OSError):  # nobody may be there to read it
            print(f"waiting for the rpm transaction of pid {pid}", file=sys.stderr)

    await settle(sysroot, triggers, quiet=0.01, on_transaction=tell)
    reconciler = Reconciler(sysroot, SettingsSource(settings), lambda _: None, wanted=wanted, brief=True)
    reconciler.heal()
    reconciler.ask_again(again)
    retry_now(reconciler)
    try:
        snapshot = await reconciler.run_to_end()
        return snapshot, failures_document(snapshot, began, reconciler.step_failures.since(began))
    except Exception as error:
        raise as_problem(error, "syncing") from error
    finally:
        await reconciler.stop()
