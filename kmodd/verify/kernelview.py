"""One kernel as objects are compared with it: its symbols, its own modules, the names that it has taken.

What several targets share, such as a module of the kernel's own that they need, is read once and not kept. Must not:
judge, or remember anything beyond one examination.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Demand, Kernel
from ..core.sysroot import Sysroot
from ..system.files import find_accident, is_file, stat_signature
from . import cms, content, elf, image, loader, names, symbols
from .probe import Probe, module_name

REFERENCES = 20  # of the kernel's own modules that are read to find one with init and exit functions
SIGNERS = 5  # of them whose signers are compared, where signatures are demanded


@dataclass(frozen=True)
class Parsed:
    """A module's file as the kernel reads it."""

    path: Path
    name: str
    signed: content.Signed
    shape: loader.Shape
    contents: elf.Contents
    state: object

    def summary(self) -> Parsed:
        """Return what is left of it once the file itself was checked: names and tables, not the bytes."""
        return replace(self, signed=content.Signed(b"", self.signed.signature), shape=self.shape.summary())


class KernelView:
    """What one kernel has. demand: of signatures."""

    def __init__(self, sysroot: Sysroot, probe: Probe, kernel: Kernel, demand: Demand) -> None:
        self.sysroot = sysroot
        self.probe = probe
        self.kernel = kernel
        self.demand = demand
        self.directory = sysroot.kernel(kernel.release)
        self.symvers: Optional[symbols.Symvers] = None
        self.lack = "the kernel has neither a symvers nor a build tree"
        self.reference = loader.Reference()
        self.signer = b""  # of the kernel's own modules, as their signatures name it
        self.taken = names.Taken()
        self.in_tree: frozenset[str] = frozenset()  # canonical names of the kernel's own modules
        self.own_line = ""  # of the kernel that runs here, which modprobe reads
        self._read: dict[Path, asyncio.Future[Parsed]] = {}

    @property
    def is_versioned(self) -> bool:
        return self.kernel.config.get("CONFIG_MODVERSIONS") == "y"

    async def read(self) -> None:
        """Read what all targets are compared with. Raises Problem, OSError and MemoryError where that cannot be now."""
        own = symbols.find_symvers(self.sysroot, self.kernel)
        try:
            self.symvers = symbols.Symvers(await content.read_plain(own)) if own else None
        except (Problem, OSError, ValueError) as error:
            if find_accident(error):
                raise
            self.lack = f"the kernel's symvers cannot be read: {error}"
        await self._read_reference()
        self.taken = await asyncio.to_thread(names.read_names, self.directory)
        self.own_line = await asyncio.to_thread(self.probe.running_line)

    async def parse(self, path: Path) -> Parsed:
        """Return what a module's file says; each is read once. Raises OSError, ValueError and Problem."""
        known = self._read.get(path)
        if known is None:
            known = self._read[path] = asyncio.ensure_future(self._parse(path))
        return await asyncio.shield(known)

    def drop(self, path: Path) -> None:
        """Release a module's file; it is read again when it is needed again."""
        self._read.pop(path, None)

    async def _parse(self, path: Path) -> Parsed:
        state = stat_signature(path)
        data = await content.read_plain(path)
        name = module_name(path)

        def take_apart() -> Parsed:
            signed = content.split(data) if self.kernel.signature_hash else content.Signed(data)
            shape = loader.take_apart(signed.content)
            return Parsed(path, name, signed, shape, elf.read(signed.content, name), state)

        return await asyncio.to_thread(take_apart)

    async def settle_name(self, name: str) -> None:
        """Learn from the kernel's image whether a name is taken that only its parameters may have taken.

        Raises Problem, OSError and MemoryError where it could not be read.
        """
        if name not in self.taken.maybe:
            return
        for path in (self.directory / "vmlinuz", self.sysroot.resolve(f"/boot/vmlinuz-{self.kernel.release}")):
            try:
                shown = await image.read_shown(path)
            except (Problem, OSError, ValueError) as error:
                if find_accident(error):
                    raise
                continue
            self.taken = replace(self.taken, shown=self.taken.shown | shown, maybe=frozenset())
            return

    async def _read_reference(self) -> None:
        """Read what the kernel's own modules tell of all; nothing where there is none to read.

        Raises Problem, OSError and MemoryError where they could not be read.
        """
        try:
            lines = (self.directory / "modules.order").read_text().splitlines()
        except OSError as error:
            if find_accident(error):
                raise
            return
        self.in_tree = frozenset(module_name(line) for line in lines)
        signers: list[bytes] = []
        wanted = SIGNERS if self.demand != Demand() else 0
        suffixes = ("", ".xz", ".zst", ".gz")
        stems = [Path(line).with_suffix("") for line in lines if line.strip("/")]
        files = (self.sysroot.below(self.directory, f"{stem}.ko{suffix}") for stem in stems for suffix in suffixes)
        there = (path for path in files if is_file(path))
        for path, _ in zip(there, range(REFERENCES)):
            try:
                parsed = await self.parse(path)
            except (Problem, OSError, ValueError) as error:
                if find_accident(error):
                    raise
                continue
            if len(self.reference.entries) <= 1:
                self.reference = loader.refer(parsed.shape, parsed.contents.first("vermagic"))
            signers += [cms.find_signer(parsed.signed.signature)] if parsed.signed.signature else []
            if len(self.reference.entries) > 1 and len(signers) >= wanted:
                break
        self.signer = Counter(signers).most_common(1)[0][0] if signers else b""

    def find_exports(self, wanted: Collection[str], parts: Iterable[Parsed]) -> dict[str, elf.Export]:
        """Return what exports some symbols: what is loaded before says so itself."""
        exported = symbols.look_up(self.symvers, wanted)
        for part in parts:
            exported.update({key: value for key, value in part.contents.exports.items() if key in wanted})
        return exported
