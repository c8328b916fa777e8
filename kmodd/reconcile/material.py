"""What a target is built from, laid out in its scratch directory; a kernel's own source is unpacked once for all.

Must not: build, or decide whether a build is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Optional

from ..build.builder import Builder
from ..build.diff import Outside, parse
from ..build.prepare import prepare
from ..build.room import Room
from ..errors import Problem
from ..log import get_logger
from ..model import Kernel
from ..modulefile import Module
from ..paths import Sysroot
from ..sources import SourceReader
from ..sources.kernel import companions


class Material:
    """Lays out sources of one root."""

    def __init__(self, sysroot: Sysroot, sources: SourceReader, builder: Builder) -> None:
        self.sysroot = sysroot
        self.sources = sources
        self.builder = builder
        self._clearing: Optional[asyncio.Future[None]] = None  # referred to, or it could be collected before it ends
        self._unpacking: dict[str, asyncio.Lock] = {}  # by source RPM

    async def lay(
        self,
        module: Module,
        kernel: Kernel,
        scratch: Path,
        log: Path,
        modules: Mapping[str, Module],
        kernels: Collection[Kernel],
    ) -> tuple[str, ...]:
        """Put a module's source into scratch/source; returns the paths in the kernel's source that patches touch.

        log: host path, appended to. modules, kernels: all of them, for which the kernel's source is unpacked together,
        and whose sources stay. Raises Problem.
        """
        owner = self.builder.owners[scratch]
        if not module.file.source.kernel:
            await asyncio.to_thread(self.sources.copy, module, scratch / "source", owner)
            return ()
        patched = await asyncio.to_thread(self._touched, module, kernel)
        async with self._unpacking.setdefault(kernel.source_package, asyncio.Lock()):
            if await asyncio.to_thread(self.sources.kernel.lacks, kernel, companions(module) | patched):
                await self._unpack(kernel, log, modules, kernels, companions(module) | patched)
        await asyncio.to_thread(self.sources.kernel.lay, module, kernel, patched, scratch / "source", owner)
        return tuple(sorted(patched))

    def _touched(self, module: Module, kernel: Kernel) -> set[str]:
        """Return the paths that a module's patches touch. Raises Problem patch-missing."""
        found: set[str] = set()
        for path, patch in self.sources.patches(module, kernel.release):
            with contextlib.suppress(ValueError, Outside):  # which the build tells, with the patch's name
                text = path.read_bytes().decode(errors="surrogateescape")
                found.update(name for piece in parse(text, patch.strip) for name in piece.names)
        return found

    async def _unpack(
        self, kernel: Kernel, log: Path, modules: Mapping[str, Module], kernels: Collection[Kernel], wanted: set[str]
    ) -> None:
        """Unpack a kernel's source RPM and keep what any module wants of it. Raises Problem."""
        name = kernel.source_package
        srpm = self.sources.kernel.require(kernel)
        wanted = set(wanted)
        for module in modules.values():
            if module.file.source.kernel:
                wanted |= companions(module)
                try:
                    wanted |= self._touched(module, kernel)
                except Problem:
                    continue  # of another module, which says so itself
        began = time.monotonic()
        digest = await asyncio.to_thread(self.sources.kernel.digest, srpm)
        scratch = self.builder.make_scratch(name)
        try:
            room = Room(self.sysroot, scratch, self.builder.owners[scratch], kernel, log)
            top = await prepare(room, srpm)
            await asyncio.to_thread(self.sources.kernel.keep, kernel, digest, top, wanted)
        finally:  # some 80,000 files: builds do not wait for their end
            self._clearing = asyncio.ensure_future(asyncio.to_thread(self.builder.drop_scratch, scratch))
        await asyncio.to_thread(self.sources.kernel.forget, kernels)
        took = round(time.monotonic() - began, 1)
        get_logger().info("kernel source unpacked", source=name, kernel=kernel.release, seconds=took)
