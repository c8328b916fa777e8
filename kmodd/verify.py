"""Whether the kernel would take what is installed, told by what its own tools say of the files on disk.

Must not: change anything, or decide what to do about a fault.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from .errors import Problem
from .files import digest_file, stat_signature
from .model import Fault, Kernel, Target
from .modulefile import canonical
from .paths import Sysroot
from .record import Installed
from .run import run


class Verifier:
    """Checks installed targets; what did not change since the last look is not looked at again."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self._digests: dict[str, tuple[object, str]] = {}
        self._faults: dict[Target, tuple[object, tuple[Fault, ...]]] = {}

    def find_damage(self, installed: Installed) -> str:
        """Return in which way installed files differ from what was recorded, "" where they do not."""
        for item in installed.objects:
            path = self.sysroot.resolve(item.path)
            try:
                key = stat_signature(path)
                known = self._digests.get(item.path)
                if not known or known[0] != key:
                    known = self._digests[item.path] = (key, digest_file(path))
            except OSError:
                return f"{item.path} is gone"
            if known[1] != item.sha256:
                return f"{item.path} was changed by somebody else"
        return ""

    async def faults(self, target: Target, kernel: Kernel, installed: Installed) -> tuple[Fault, ...]:
        """Return what would keep the kernel from loading a target's objects."""
        key = self._key(kernel, installed)
        known = self._faults.get(target)
        if not known or known[0] != key:
            found: list[Fault] = []
            for item in installed.objects:
                found += await self._resolution(kernel, canonical(item.name), item.path)
            known = self._faults[target] = (key, tuple(found))
        return known[1]

    def _key(self, kernel: Kernel, installed: Installed) -> object:
        parts: list[object] = [tuple((item.path, item.sha256) for item in installed.objects)]
        directory = self.sysroot.kernel(kernel.release)
        for path in (directory / "modules.dep.bin", directory / "modules.softdep", *self._configurations()):
            try:
                parts.append(stat_signature(path))
            except OSError:
                parts.append(None)
        return tuple(parts)

    def _configurations(self) -> Sequence[Path]:
        found = (self.sysroot.resolve(d) for d in ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"))
        return [path for path in found if path.is_dir()]

    async def _resolution(self, kernel: Kernel, name: str, path: str) -> list[Fault]:
        """Check that modprobe would pick our file and finds all that it depends on."""
        argv: list[Union[str, Path]] = ["modprobe", "--show-depends", "-S", kernel.release]
        if not self.sysroot.is_host:
            argv += ["-d", self.sysroot.root]
            for directory in self._configurations() or [self.sysroot.resolve("/etc/modprobe.d")]:
                argv += ["-C", directory]
        try:
            done = await run([*argv, name], timeout=30)
        except Problem as problem:
            text = f"modprobe would not load {name}: {problem.message}"
            return [Fault("modprobe-refuses", text, f"modprobe -n -v -S {kernel.release} {name}")]
        lines = [line.split() for line in done.text.splitlines() if line.strip()]
        chosen = lines[-1][1] if lines and lines[-1][0] == "insmod" and len(lines[-1]) > 1 else ""
        if not chosen or os.path.realpath(chosen) != str(self.sysroot.resolve(path)):
            shown = chosen[len(str(self.sysroot.root)) :] if not self.sysroot.is_host else chosen
            text = f"modprobe would load {shown or 'nothing'} instead of {path}"
            return [Fault("object-shadowed", text, "remove the other file, or see depmod.d(5)")]
        return []
