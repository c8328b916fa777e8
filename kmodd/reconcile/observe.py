"""Assembles the snapshot of a root: one probe after the other fills its part of the rows.

Reads only; must not decide or change anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from ..core.model import UNREAD, Fault, Snapshot, Target, TargetState, Unseen
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..deploy.dropins import DropinFiles
from ..dkms.conffiles import adopt, find_unusable
from ..host.registry import Registry, RegistryReader
from ..host.store import Store
from ..host.trust import TrustReader
from ..verify import Verifier
from .inputprobe import InputProbe
from .installedprobe import InstalledProbe
from .kernelprobe import KernelProbe
from .keysource import KeySource
from .observation import Observation
from .pauses import Pauses
from .verifyprobe import Checker, Key


class Observer:
    """Observes one root. What it holds remembers what need not be read again."""

    def __init__(
        self,
        sysroot: Sysroot,
        settings: SettingsSource,
        store: Store,
        dropins: DropinFiles,
        keys: KeySource,
        inputs: InputProbe,
        anew: bool = False,
    ) -> None:
        """anew: as Verifier's."""
        self.sysroot = sysroot
        self.settings = settings
        self.store = store
        self.dropins = dropins
        self.keys = keys
        self.inputs = inputs
        self.kernels = inputs.kernels
        self.registry = RegistryReader(sysroot)
        self.verifier = Verifier(sysroot, anew)
        self.installed = InstalledProbe(sysroot, settings, store, self.kernels.reader, self.verifier)
        self.trust = TrustReader(sysroot, settings)
        self._unseen: Pauses[Target] = Pauses(settings)
        self._unchecked: Pauses[Target] = Pauses(settings)
        self._unread: Pauses[str] = Pauses(settings)  # what is of no target alone

    async def observe(self, running: frozenset[Target] = frozenset()) -> Snapshot:
        """Observe everything once. Raises Problem where /lib/modules itself cannot be read."""
        registry = await asyncio.to_thread(self._registry)
        records = await asyncio.to_thread(self.store.records)
        dropins = self.dropins.read()
        seen = Observation(registry, await self.kernels.read(registry, records))
        for target, record in records.items():
            seen.rows[target].record = record
        for target in running:
            seen.rows[target].running = True
        await self.inputs.fill(seen)
        await self.installed.fill(seen)
        signer = self.keys.now.signer()
        key = Key(signer, self.keys.now.published)
        await Checker(self.sysroot, self.verifier, self.trust, key).fill(seen, self.settings.now.verify.strict)
        self.verifier.remember()
        for target, unseen in _until(self._unseen, seen.unseen).items():
            seen.rows[target].unseen = unseen
        for target, unchecked in _until(self._unchecked, _interrupted(seen.rows)).items():
            seen.rows[target].unchecked = unchecked
        unusable = find_unusable(self.sysroot) if self.settings.now.dkms.adopt else ()
        skipped = (*self.kernels.reader.skipped, *unusable)
        unread = [item.path for item in (*registry.broken, *skipped) if item.fault.problem == UNREAD]
        return Snapshot(
            kernels=seen.kernels,
            modules=registry.modules,
            broken=registry.broken,
            skipped=skipped,
            again=min(self._unread.note(unread, time.time()).values(), default=None),
            targets=dict(seen.rows),
            dropins=dropins,
            signer=signer,
            key_fault=await self.keys.find_fault(),
            unread=registry.unread,
            booting=self.kernels.booting,
            boot=self.installed.boot(),
        )

    def forget_checks(self) -> None:
        """Have the next pass make all checks anew."""
        self.verifier.forget()

    def _registry(self) -> Registry:
        registry = self.registry.read()
        if not self.settings.now.dkms.adopt:
            return registry
        adopted = adopt(self.sysroot, registry.modules, {broken.name for broken in registry.broken})
        return replace(registry, modules={**registry.modules, **adopted})


def make_observer(sysroot: Sysroot, settings: SettingsSource, brief: bool = False, anew: bool = False) -> Observer:
    """Return an observer for a caller that only reads. brief: as KernelProbe's; anew: as Verifier's."""
    store = Store(sysroot)
    inputs = InputProbe(sysroot, settings, KernelProbe(sysroot, store, brief))
    return Observer(sysroot, settings, store, DropinFiles(sysroot), KeySource(sysroot, settings), inputs, anew)


def _interrupted(rows: Mapping[Target, TargetState]) -> dict[Target, Fault]:
    """Return of targets with a check that could not be made the first such."""
    found = {t: [check for check in row.checks or () if check.outcome == "interrupted"] for t, row in rows.items()}
    return {t: Fault(of[0].problem, f"{of[0].object}: {of[0].message}", of[0].hint) for t, of in found.items() if of}


def _until(again: Pauses[Target], faults: Mapping[Target, Fault]) -> dict[Target, Unseen]:
    """Return what could not be read, and when it is read again."""
    return {target: Unseen(faults[target], until) for target, until in again.note(faults, time.time()).items()}
