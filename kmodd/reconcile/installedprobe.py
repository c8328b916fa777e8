"""The probe of what kmodd built and installed: whether it is as recorded, whether the kernel's own is to stay instead,
and what the running kernel has of it in memory. Must not: judge whether it would load; verify does.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Presence, Target, TargetState
from ..core.modulefile import canonical
from ..core.record import BootRecord, InitRefusal, Installed, TargetRecord
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..host.kernels import KernelReader
from ..host.loaded import LoadedReader
from ..host.store import Store
from ..verify import Verifier
from ..verify.owncopies import OwnCopies
from .observation import Observation


class InstalledProbe:
    """Reads the objects of one root: in the store, below extra/ and in memory."""

    def __init__(
        self, sysroot: Sysroot, settings: SettingsSource, store: Store, kernels: KernelReader, verifier: Verifier
    ) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self.store = store
        self.kernels = kernels
        self.verifier = verifier
        self.own_copies = OwnCopies()
        self.loaded = LoadedReader(sysroot)

    async def fill(self, seen: Observation) -> None:
        """Fill damage, store_damaged, left, loaded and init_refused of what is recorded."""
        await asyncio.to_thread(self._find_damage, seen)
        await self._find_left(seen)
        await self._find_loaded(seen)
        self._find_refused(seen)

    def boot(self) -> str:
        """Return what tells this boot of the running kernel from any other, "" where that is not this root's."""
        return self.loaded.boot() if self.sysroot.is_host else ""

    def _find_damage(self, seen: Observation) -> None:
        for target, row, record in seen.recorded():
            try:
                row.damage = self.verifier.find_damage(record.installed) if record.installed else None
                row.store_damaged = record.built is not None and self.store.is_damaged(target, record.built)
            except OSError as error:
                seen.cannot_see(target, f"what is built and installed of {target}", error)

    async def _find_left(self, seen: Observation) -> None:
        """Find what a dkms.conf's targets leave to the kernel, as DKMS would."""
        forced = self.settings.now.dkms.force_version_override
        modules = seen.registry.modules
        for target, row, record in seen.recorded():
            module = modules.get(target.module)
            if module is None or not module.file.source.dkms or target.module in forced:
                continue
            if target.kernel in seen.kernels and record.built is not None:
                row.left = await self._find_left_of(target, record, seen)

    async def _find_left_of(self, target: Target, record: TargetRecord, seen: Observation) -> dict[str, str]:
        """Return the objects that are left to the kernel's own, and why."""
        found = {}
        for item in record.built.objects if record.built else ():
            own = self.kernels.own_file(target.kernel, canonical(item.name))
            ours = self.store.objects(target) / f"{item.name}.ko"
            try:
                reason = await self.own_copies.why_left(item.name, own, ours) if own else ""
            except (Problem, OSError) as error:
                seen.cannot_see(target, f"the kernel's own {item.name}", error)
                continue
            if reason:
                found[item.name] = reason
        return found

    async def _find_loaded(self, seen: Observation) -> None:
        """Read the memory of the running kernel, which is this root's only where it is the host's own."""
        asked = {
            target: self._stored(target, row, record)
            for target, row, record in seen.recorded()
            if self.sysroot.is_host and record.installed and record.built
            if target.kernel in seen.kernels and seen.kernels[target.kernel].running
        }
        modules = seen.registry.modules
        reloaded = [t for t in asked if t.module in modules and modules[t.module].file.load.reload == "if-unused"]
        loaded = await self.loaded.complete(await asyncio.to_thread(self.loaded.read, asked), reloaded)
        for target, items in loaded.items():
            seen.rows[target].loaded = items

    def _find_refused(self, seen: Observation) -> None:
        """Find what the init functions of objects that are installed still refused at the last boot."""
        boots = self.store.boot_records()
        for target, row, record in seen.recorded():
            if target.kernel in boots and record.installed is not None:
                row.init_refused = find_refused(boots[target.kernel], record.installed, row)

    def _stored(self, target: Target, row: TargetState, record: TargetRecord) -> dict[str, Optional[Path]]:
        """Return the installed objects by name, and where each lies as it was built, None where it does not."""
        built = {item.sha256 for item in record.built.objects} if record.built and not row.store_damaged else set()
        directory = self.store.objects(target)
        objects = record.installed.objects if record.installed else ()
        return {item.name: directory / f"{item.name}.ko" if item.built in built else None for item in objects}


def find_refused(boot: BootRecord, installed: Installed, row: TargetState) -> tuple[InitRefusal, ...]:
    """Return what init functions of objects refused that are installed still, and not in memory by now."""
    built = {(canonical(item.name), item.built) for item in installed.objects}
    there = {item.name for item in row.loaded if item.presence is not Presence.ABSENT}
    return tuple(item for item in boot.refused if (item.name, item.built) in built and item.name not in there)
