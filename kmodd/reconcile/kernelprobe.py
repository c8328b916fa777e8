"""The probe of kernels: what is below /lib/modules, what rpm knows of it, and what the boot loader does with it.

Must not: read anything of targets, but for what kmodd itself put into a kernel's directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Optional

from ..core.booting import Booting
from ..core.commandline import merge
from ..core.errors import Problem
from ..core.model import Kernel, Target
from ..core.modulefile import canonical
from ..core.record import TargetRecord
from ..core.sysroot import Sysroot
from ..host.bootloader import BootReader
from ..host.bootstate import BootStateReader
from ..host.kernels import KernelReader
from ..host.registry import Registry
from ..host.rpmdb import CommandQueries, RpmQueries, open_queries
from ..host.store import Store
from ..system.log import get_logger
from ..system.moduleindex import identify, read_configuration

#: Problems of tools that say nothing of what they were to read.
TOOLS = ("tool-failed", "tool-killed", "tool-timeout")
Records = Mapping[Target, TargetRecord]


class KernelProbe:
    """Reads the kernels of one root, and remembers what rpm said."""

    def __init__(self, sysroot: Sysroot, store: Store, brief: bool = False) -> None:
        """brief: for a short time only; rpm(8) answers before its binding is imported."""
        self.sysroot = sysroot
        self.store = store
        self.reader = KernelReader(sysroot)
        self.boot = BootReader(sysroot)
        self.bootstate = BootStateReader(sysroot, self.boot)
        self.booting = Booting()  # as of the last reading
        self.rpm: Optional[RpmQueries] = CommandQueries(sysroot) if brief else None
        self.rpm_fault: Optional[Problem] = None
        self._devel_packages: dict[str, str] = {}
        self._source_packages: dict[str, str] = {}

    @property
    def is_rpm_unread(self) -> bool:
        """Tell whether rpm was kept from answering by an accident, so that what it does not know means nothing."""
        return self.rpm_fault is not None and self.rpm_fault.code in TOOLS

    async def read(self, registry: Registry, records: Records) -> dict[str, Kernel]:
        """Return the kernels, by release. Raises Problem where /lib/modules itself cannot be read."""
        kernels = await asyncio.to_thread(self._read, registry, records)
        if await self._ask_rpm(kernels):
            kernels = await asyncio.to_thread(self._read, registry, records)
        return kernels

    def _read(self, registry: Registry, records: Records) -> dict[str, Kernel]:
        symbols = {s.lstrip("!") for m in registry.modules.values() for s in m.file.kernels.config}
        objects: set[str] = set()
        for record in records.values():
            if record.built:
                objects |= {canonical(item.name) for item in record.built.objects}
        remembered = self.store.kernel_records()
        depmods = {release: record.depmod for release, record in remembered.items() if record.depmod}
        try:
            kernels = self.reader.read(
                symbols, objects, find_installed(records), self._devel_packages, self._source_packages, depmods
            )
        except OSError as error:
            where = self.sysroot.inside(self.sysroot.modules)
            text = f"{where} cannot be read: {error.strerror}"
            raise Problem("modules-unreadable", text, "kmodd reads it again when something changes") from error
        default = self.boot.default(kernels)
        present = [release for release, kernel in kernels.items() if kernel.present]
        boots = self.store.boot_records()
        live = {release: record.live for release, record in boots.items() if record.live is not None}
        self.booting = replace(self.bootstate.read(present), live=live)
        return {
            release: replace(
                self._booted(kernel, default),
                failures=remembered[release].steps if release in remembered else {},
            )
            for release, kernel in kernels.items()
        }

    def _booted(self, kernel: Kernel, default: Optional[str]) -> Kernel:
        """Return a kernel with what the boot loader says of it. default: the release that boots next, if known."""
        if not kernel.present:
            return kernel
        lines = self.boot.command_lines(kernel.release, kernel.running)
        texts = lines.texts if kernel.running else [merge(text, kernel.config) for text in lines.texts]
        return replace(
            kernel,
            default_boot=kernel.release == default if default is not None else None,
            command_lines=tuple(dict.fromkeys(texts)),
            command_line_unknown=lines.unknown,
        )

    async def _ask_rpm(self, kernels: Mapping[str, Kernel]) -> bool:
        """Learn which packages provide the build trees; tells whether that changed. Never fails: it is only a hint."""
        releases = [release for release, kernel in kernels.items() if kernel.present]
        before = self._devel_packages
        try:
            if self.rpm is None:
                self.rpm = await open_queries(self.sysroot)
            self._devel_packages = await self.rpm.devel_packages(releases)
            self._source_packages = await self.rpm.source_packages(releases)
            self.rpm_fault = None
        except Problem as problem:
            if self.rpm_fault is None or self.rpm_fault.message != problem.message:
                get_logger().warning("rpm database not read", problem=problem.code, message=problem.message)
            self.rpm_fault = problem
            if not self.is_rpm_unread:
                self._devel_packages, self._source_packages = {}, {}
        return self._devel_packages != before

    def depmod_inputs(self, release: str) -> tuple[str, Mapping[str, str]]:
        """Return what identifies a depmod of a kernel that begins now, and our objects there, as Depmod has them."""
        installed = find_installed(self.store.records()).get(release, {})
        return identify(installed, read_configuration(self.sysroot)[0]), installed


def find_installed(records: Records) -> dict[str, dict[str, str]]:
    """Return our objects' paths relative to their kernel's directory, and their sha256, by release."""
    found: dict[str, dict[str, str]] = {}
    for target, record in records.items():
        if record.installed:
            start = len(f"/lib/modules/{target.kernel}/")
            found.setdefault(target.kernel, {}).update(
                (item.path[start:], item.sha256) for item in record.installed.objects
            )
    return found
