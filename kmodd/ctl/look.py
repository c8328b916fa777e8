"""One look at a root, for all commands: the snapshot, the plan and the verdicts, without changing anything."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import time
from dataclasses import dataclass
from typing import Optional

from ..config import Settings, read_settings
from ..errors import Problem
from ..lock import Lock
from ..log import configure
from ..model import Action, Judgement, Snapshot, Target
from ..paths import Sysroot
from ..planner import judge, plan
from ..reconcile import policy_of
from ..reconcile.observe import Observer


@dataclass(frozen=True)
class Look:
    """What was seen, what is due, what is to be said."""

    sysroot: Sysroot
    settings: Settings
    snapshot: Snapshot
    actions: tuple[Action, ...]
    judgements: dict[Target, Judgement]
    holder: Optional[str]


def look(options: argparse.Namespace) -> Look:
    """Look at the root that --root names. Raises Problem."""
    configure("error")
    sysroot = Sysroot.at(options.root)
    settings = read_settings(sysroot)
    lock = Lock(sysroot)

    async def see() -> Snapshot:
        return await Observer(sysroot, settings, brief=True).observe(lock.running())

    snapshot = asyncio.run(see())
    policy, now = policy_of(settings), time.time()
    found = judge(snapshot, policy, now)
    return Look(sysroot, settings, snapshot, plan(snapshot, policy, now), found, lock.holder())


def check_module(seen: Look, name: str) -> None:
    """Raise Problem module-unknown, with a suggestion, unless a module is registered or remembered."""
    known = {*seen.snapshot.modules, *(t.module for t in seen.judgements), *(t.module for t in seen.snapshot.records)}
    if name not in known:
        close = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"did you mean {close[0]}?" if close else "kmoddctl status lists all of them"
        raise Problem("module-unknown", f"no module {name} is registered", hint)


def check_kernel(seen: Look, release: Optional[str]) -> None:
    """Raise Problem kernel-unknown unless a kernel is there (or none was asked for)."""
    if release is not None and release not in seen.snapshot.kernels:
        close = difflib.get_close_matches(release, sorted(seen.snapshot.kernels), 1)
        hint = f"did you mean {close[0]}?" if close else "kmoddctl status lists all of them"
        raise Problem("kernel-unknown", f"kernel {release} is not installed", hint)
