"""Observes a root once in this process: the snapshot, the plan and the verdicts, without changing anything."""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import time
from dataclasses import dataclass
from typing import Optional

from ..core.actions import Action
from ..core.documents.choosing import Document
from ..core.documents.explain import explain_document
from ..core.documents.plan import plan_document
from ..core.documents.status import status_document
from ..core.documents.verification import verify_document
from ..core.model import Judgement, Kernel, Snapshot, Target
from ..core.planner import judge, make_guarding, plan
from ..core.planner.guard import Guarding
from ..core.settings import Settings, SettingsSource
from ..core.sysroot import Sysroot
from ..dkms.conf import ConfReader
from ..host.settingsfile import read_settings
from ..kbuild.logfiles import LogReader
from ..reconcile import policy_of
from ..reconcile.observe import make_observer
from ..system.lock import Lock
from ..system.log import configure


@dataclass(frozen=True)
class Observed:
    """One observation: the snapshot, the plan and the verdicts."""

    sysroot: Sysroot
    settings: Settings
    snapshot: Snapshot
    actions: tuple[Action, ...]
    judgements: dict[Target, Judgement]
    holder: Optional[str]
    looked: float  # seconds since the epoch
    activity: Optional[str] = None  # what the holder does

    @functools.cached_property
    def guarding(self) -> Guarding:
        """Return how the boot guard sees it."""
        return make_guarding(self.snapshot, policy_of(self.settings), self.looked, self.judgements)

    def kernels(self) -> list[Kernel]:
        """Return the installed kernels; where there is none the running one, for which a dkms.conf can be read, too."""
        return self.snapshot.present() or [Kernel(os.uname().release)]

    def confs(self) -> ConfReader:
        """Return who reads a dkms.conf that is not registered."""
        return make_observer(self.sysroot, SettingsSource(self.settings), brief=True).inputs.confs

    def status(self) -> Document:
        return status_document(
            self.snapshot, self.judgements, holder=self.holder, looked=self.looked, activity=self.activity
        )

    def plan(self) -> Document:
        return plan_document(self.actions)

    def verification(self) -> Document:
        return verify_document(self.snapshot, self.judgements)

    def story(self, module: str, kernel: Optional[str]) -> Document:
        logs = LogReader(self.sysroot)
        read = {t: logs.story(t.module, t.kernel) for t in self.judgements if t.module == module}
        return explain_document(module, self.snapshot, self.judgements, self.actions, kernel=kernel, logs=read)


def observe(options: argparse.Namespace, anew: bool = False) -> Observed:
    """Observe the root that --root names. anew: make all checks again, also of unchanged files. Raises Problem."""
    configure("error")
    sysroot = Sysroot.at(options.root)
    settings = read_settings(sysroot)
    lock = Lock(sysroot)

    async def see() -> Snapshot:
        return await make_observer(sysroot, SettingsSource(settings), brief=True, anew=anew).observe(lock.running())

    snapshot = asyncio.run(see())
    policy, now = policy_of(settings), time.time()
    found = judge(snapshot, policy, now)
    actions, activity = plan(snapshot, policy, now), lock.activity()
    return Observed(sysroot, settings, snapshot, actions, found, lock.holder(), now, activity)
