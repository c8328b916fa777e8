"""What a target is built from, laid out in its scratch directory; a kernel's own source is unpacked once for all.

Must not: build, or decide whether a build is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Module, Patch
from ..core.sysroot import Sysroot
from ..kbuild.builder import Builder
from ..kbuild.diff import Outside, parse
from ..kbuild.prepare import prepare
from ..kbuild.workspace import Workspace
from ..sources import SourceReader
from ..sources.kernelsource import companions
from ..system.files import explained
from ..system.log import get_logger
from ..system.threads import finish_in_thread
from .srpmsignatures import Signatures


@dataclass(frozen=True)
class Staged:
    """What lies in a scratch directory: copies of patches and of others' Module.symvers (host paths).

    patched: the paths in the kernel's source that patches touch. archive: what is to be unpacked, if anything.
    """

    patches: tuple[tuple[Path, Patch], ...]
    symvers: tuple[Path, ...]
    patched: tuple[str, ...] = ()
    archive: Optional[Path] = None


class Staging:
    """Stages sources of one root."""

    def __init__(self, sysroot: Sysroot, sources: SourceReader, builder: Builder, signatures: Signatures) -> None:
        self.sysroot = sysroot
        self.signatures = signatures
        self.sources = sources
        self.builder = builder
        self._clearing: Optional[asyncio.Future[None]] = None  # referred to, or it could be collected before it ends
        self._unpacking: dict[str, asyncio.Lock] = {}  # by source RPM

    async def stage(
        self,
        module: Module,
        kernel: Kernel,
        scratch: Path,
        log: Path,
        modules: Mapping[str, Module],
        kernels: Collection[Kernel],
        planned: Mapping[str, str],
    ) -> Staged:
        """Put a module's source into scratch/source, what belongs to it into scratch/beside.

        log: host path, appended to. modules, kernels: all of them, for which the kernel's source is unpacked together,
        and whose sources stay. planned: the inputs of the build, which the copies must have. Raises Problem, also
        source-changed.
        """
        owner = self.builder.owners[scratch]
        patches, others = await finish_in_thread(
            self.sources.copy_beside, module, kernel.release, scratch / "beside", planned
        )
        patched: set[str] = set()
        if self.sources.kind(module).comes_as_package:
            patched = await asyncio.to_thread(_touched, patches)
            async with self._unpacking.setdefault(kernel.source_package, asyncio.Lock()):
                if await asyncio.to_thread(self.sources.kernel.lacks, kernel, companions(module) | patched):
                    await self._unpack(kernel, log, modules, kernels, companions(module) | patched)
        archive = await finish_in_thread(
            self.sources.copy, module, scratch / "source", owner, planned.get("source"), kernel, patched
        )
        return Staged(tuple(patches), tuple(others), tuple(sorted(patched)), archive)

    async def _unpack(
        self, kernel: Kernel, log: Path, modules: Mapping[str, Module], kernels: Collection[Kernel], wanted: set[str]
    ) -> None:
        """Unpack a kernel's source RPM and keep what any module wants of it. Raises Problem."""
        name = kernel.source_package
        wanted = set(wanted)
        began = time.monotonic()
        scratch = self.builder.make_scratch(name)
        try:
            for module in modules.values():
                if self.sources.kind(module).comes_as_package:
                    wanted |= companions(module) | await finish_in_thread(self._wanted, module, kernel, scratch)
            digest, srpm = await finish_in_thread(self._copy_srpm, kernel, scratch)
            signed = not await self.signatures.find_fault(srpm, digest)
            if not signed and not self.signatures.allow_unsigned:
                raise Problem("source-changed", f"{name} was signed, and no longer is")
            limit = self.builder.limits.log
            workspace = Workspace(self.sysroot, scratch, self.builder.owners[scratch], kernel, log, largest_log=limit)
            top = await prepare(workspace, srpm)
            await asyncio.to_thread(self.sources.kernel.keep, kernel, digest, top, wanted, signed=signed)
        finally:  # some 80,000 files: builds do not wait for their end
            self._clearing = asyncio.ensure_future(asyncio.to_thread(self.builder.drop_scratch, scratch))
        await asyncio.to_thread(self.sources.kernel.forget, kernels)
        took = round(time.monotonic() - began, 1)
        get_logger().info("kernel source unpacked", source=name, kernel=kernel.release, seconds=took)

    def _wanted(self, module: Module, kernel: Kernel, scratch: Path) -> set[str]:
        """Return the paths in the kernel's source that another module's patches touch, as far as they can be read."""
        copies = scratch / f"beside.{module.name}"
        try:
            return _touched(self.sources.copy_beside(module, kernel.release, copies, None)[0])
        except Problem:
            return set()  # the other module says so itself

    def _copy_srpm(self, kernel: Kernel, scratch: Path) -> tuple[str, Path]:
        """Copy a kernel's source RPM to where nobody changes it; returns its sha256 and the copy. Raises Problem."""
        copy = scratch / "source.rpm"
        with self.sources.kernel.require(kernel) as srpm, explained(f"copying {srpm.path}"):
            return srpm.copy(copy), copy


def _touched(patches: Iterable[tuple[Path, Patch]]) -> set[str]:
    """Return the paths that patches touch."""
    found: set[str] = set()
    for path, patch in patches:
        with contextlib.suppress(ValueError, Outside):  # which the build tells, with the patch's name
            text = path.read_bytes().decode(errors="surrogateescape")
            found.update(name for piece in parse(text, patch.strip) for name in piece.names)
    return found
