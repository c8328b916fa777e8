"""Whether the kernels' source RPMs are signed by a key that rpm trusts, before anything of them is built.

Must not: unpack, or keep anything on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..host.rpmdb import find_signature_fault
from ..sources.kernelsource import SUFFIX, KernelSources
from ..system.files import stat_signature

#: What changes when a key is imported into, or erased from, rpm's keyring.
DATABASES = ("rpmdb.sqlite", "rpmdb.sqlite-wal", "Packages", "Packages.db")
HINT = "rpm --import the key of whoever made it, or set sources.allow_unsigned in kmodd.toml"


class Signatures:
    """Checks source RPMs of one root, each content once for a state of rpm's keyring."""

    def __init__(self, sysroot: Sysroot, sources: KernelSources, settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.sources = sources
        self.settings = settings
        self._known: dict[str, tuple[object, str]] = {}  # sha256 -> state of the keyring, what is wrong

    @property
    def allow_unsigned(self) -> bool:
        return self.settings.now.sources.allow_unsigned

    def _keyring(self) -> tuple[object, ...]:
        directory = self.sysroot.resolve(self.sysroot.rpm_database)
        found = []
        for name in DATABASES:
            with contextlib.suppress(OSError):
                found.append((name, stat_signature(directory / name)))
        return tuple(found)

    async def find_fault(self, package: Path, digest: str) -> str:
        """Return what is wrong with the signature of a source RPM, a host path, "" if nothing is. Raises Problem."""
        state = await asyncio.to_thread(self._keyring)
        known = self._known.get(digest)
        if known is None or (known[1] and known[0] != state):  # a good one stays good
            known = self._known[digest] = (state, await find_signature_fault(self.sysroot, package))
        return known[1]

    async def check(self, kernel: Kernel) -> None:
        """Raise Problem kernel-source-unsigned where a kernel's source RPM, or what is kept of it, is not signed."""
        if self.allow_unsigned or not kernel.source_package.endswith(SUFFIX):
            return
        kept = await asyncio.to_thread(self.sources.kept, kernel)
        found = await asyncio.to_thread(self.sources.find, kernel)
        if found is None:
            if kept is None or kept.signed:
                return  # what is missing is reported elsewhere
            text = f"what is kept of {kernel.source_package} was unpacked without a good signature"
            raise Problem("kernel-source-unsigned", text, f"put it back, and {HINT}")
        with found:
            try:
                digest = await asyncio.to_thread(self.sources.digest, found)
            except OSError as error:
                raise Problem("source-unreadable", f"{found.path} cannot be read: {error.strerror}") from error
            if kept is not None and kept.signed and kept.sha256 == digest:
                return
            fault = await self.find_fault(found.host, digest)
            if fault:
                text = f"{found.path} has no good signature by a key that rpm trusts: {fault}"
                raise Problem("kernel-source-unsigned", text, HINT)
