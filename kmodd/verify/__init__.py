"""Whether the kernel would take what is installed, told by what its own tools say of the files on disk.

For each object: it is the file that modprobe would pick, all that it needs is there in the version that it was built
with, nobody blacklisted it, and its signature is ours (DESIGN section 6). Must not: change anything but its own
memory of unchanged files, or decide what to do about a fault.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Union

from ..errors import Problem
from ..files import digest_file, replace_file, stat_signature
from ..loading import MARK
from ..model import Fault, Kernel, Target
from ..modulefile import canonical
from ..paths import Sysroot
from ..record import Installed
from ..run import run
from . import signature, symbols

EDITION = 1  # of the checks: raise it when an unchanged file may be judged otherwise


class Verifier:
    """Checks installed targets; what did not change since the last look is not looked at again."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self.memory = sysroot.cache / "verified.json"
        self._digests: dict[str, tuple[object, str]] = {}
        self._magic: dict[str, tuple[object, str]] = {}
        self._known: dict[str, tuple[str, list[Fault]]] = {}
        self._dirty = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            for name, (key, faults) in json.loads(self.memory.read_bytes()).items():
                self._known[name] = (key, [Fault(*map(str, fault)) for fault in faults])

    def remember(self) -> None:
        """Keep the findings for the next process, where the cache can be written."""
        if self._dirty:
            data = {name: [key, [astuple(f) for f in faults]] for name, (key, faults) in self._known.items()}
            with contextlib.suppress(OSError):
                replace_file(self.memory, json.dumps(data).encode())
            self._dirty = False

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

    async def faults(
        self,
        target: Target,
        kernel: Kernel,
        installed: Installed,
        *,
        at_boot: Collection[str] = (),
        symvers: Iterable[Path] = (),
        certificate: bytes = b"",
    ) -> tuple[Fault, ...]:
        """Return what would keep the kernel from loading a target's objects as they are meant to be.

        at_boot: canonical names that are loaded at boot. symvers: the Module.symvers of all that we install for this
        kernel. certificate: ours, DER; empty where it cannot be read, then signatures are not looked at.
        """
        own = symbols.find_symvers(self.sysroot, kernel)
        others = sorted(symvers)
        key = self._key(kernel, installed, [*others, *([own] if own else [])], at_boot, certificate)
        name = f"{target.kernel}/{target.module}"
        known = self._known.get(name)
        if not known or known[0] != key:
            found: list[Fault] = []
            for item in installed.objects:
                try:
                    found += await self._object(kernel, item.path, bool(item.signer), own, others, at_boot, certificate)
                except (Problem, OSError) as error:
                    message = error.message if isinstance(error, Problem) else str(error.strerror)
                    text = f"{item.path} cannot be read as a kernel module: {message}"
                    found.append(Fault("object-unreadable", text, "remove the file and run kmoddctl sync"))
            known = self._known[name] = (key, found)
            self._dirty = True
        return tuple(known[1])

    def _key(
        self,
        kernel: Kernel,
        installed: Installed,
        symvers: Sequence[Path],
        at_boot: Collection[str],
        certificate: bytes,
    ) -> str:
        """Return what changes when anything does that a finding depends on."""
        directory = self.sysroot.kernel(kernel.release)
        files = [directory / "modules.dep.bin", *symvers, *self._configurations()]
        files += [self.sysroot.resolve(item.path) for item in installed.objects]
        stats: list[object] = [EDITION, sorted(at_boot), hashlib.sha256(certificate).hexdigest(), kernel.signature_hash]
        for path in files:
            try:
                stats.append((str(path), *stat_signature(path)))
            except OSError:
                stats.append((str(path), "absent"))
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    # -- modprobe's configuration ----------------------------------------------------------------------------------
    def _directories(self) -> list[Path]:
        found = (self.sysroot.resolve(d) for d in ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"))
        return [path for path in found if path.is_dir()]

    def _configurations(self) -> list[Path]:
        """Return modprobe.d's files in force: of one name only the first directory's counts (modprobe.d(5))."""
        chosen: dict[str, Path] = {}
        for directory in self._directories():
            for path in sorted(directory.glob("*.conf")):
                chosen.setdefault(path.name, path)
        return [chosen[name] for name in sorted(chosen)]

    def _blacklisting(self, name: str) -> str:
        """Return the file of somebody else that blacklists a module, as seen from inside the root, or ""."""
        for path in self._configurations():
            with contextlib.suppress(OSError):
                text = path.read_text(errors="replace")
                if text.startswith(MARK):
                    continue
                for line in text.splitlines():
                    words = line.split()
                    if words[:1] == ["blacklist"] and [canonical(w) for w in words[1:2]] == [name]:
                        return self.sysroot.inside(path)
        return ""

    # -- one object ------------------------------------------------------------------------------------------------
    async def _object(
        self,
        kernel: Kernel,
        path: str,
        signed: bool,
        own: Union[Path, None],
        others: Sequence[Path],
        at_boot: Collection[str],
        certificate: bytes,
    ) -> list[Fault]:
        real = self.sysroot.resolve(path)
        name = canonical(real.name.partition(".ko")[0])
        versions = kernel.config.get("CONFIG_MODVERSIONS") == "y"
        chain, faults = await self._resolution(kernel, name, path)
        magic, reference = await symbols.read_vermagic(real), await self._reference(kernel.release)
        needed = await symbols.read_needed(real)
        if reference and not symbols.is_same_magic(magic, reference, versions and bool(needed)):
            text = f"{name} was built for another kernel: vermagic {magic.strip()!r} instead of {reference.strip()!r}"
            faults.append(Fault("vermagic-mismatch", text, "remove the file and run kmoddctl sync"))
        if own is not None and (versions or needed):
            exported = symbols.parse_symvers(await symbols.read_plain(own), needed)
            ours: dict[str, symbols.Exported] = {}
            for file in others:
                ours.update(symbols.parse_symvers(await symbols.read_plain(file), needed))
            faults += symbols.check_symbols(name, needed, exported, ours, chain, versions)
        if name in at_boot:
            where = self._blacklisting(name)
            if where:
                text = f"{name} is to be loaded at boot, but {where} blacklists it"
                faults.append(Fault("blacklisted", text, f"remove the line from {where}, or at_boot from the module"))
        if kernel.signature_hash and signed and certificate:
            faults += await signature.check(name, await symbols.read_plain(real), certificate)
        return faults

    async def _reference(self, release: str) -> str:
        order = self.sysroot.kernel(release) / "modules.order"
        try:
            key = stat_signature(order)
        except OSError:
            return ""
        known = self._magic.get(release)
        if not known or known[0] != key:
            known = self._magic[release] = (key, await symbols.reference_vermagic(self.sysroot, release))
        return known[1]

    async def _resolution(self, kernel: Kernel, name: str, path: str) -> tuple[list[str], list[Fault]]:
        """Return what modprobe would load before an object, and what is wrong if it would not load that very file."""
        argv: list[Union[str, Path]] = ["modprobe", "--show-depends", "-S", kernel.release]
        if not self.sysroot.is_host:
            argv += ["-d", self.sysroot.root]
            for directory in self._directories() or [self.sysroot.resolve("/etc/modprobe.d")]:
                argv += ["-C", directory]
        try:
            done = await run([*argv, name], timeout=30)
        except Problem as problem:
            text = f"modprobe would not load {name}: {problem.message}"
            return [], [Fault("modprobe-refuses", text, f"modprobe -n -v -S {kernel.release} {name}")]
        lines = [line.split() for line in done.text.splitlines() if line.strip()]
        chain = [canonical(Path(words[1]).name.partition(".ko")[0]) for words in lines[:-1] if len(words) > 1]
        last = lines[-1] if lines else [""]
        chosen = last[1] if last[0] == "insmod" and len(last) > 1 else ""
        if chosen and os.path.realpath(chosen) == str(self.sysroot.resolve(path)):
            return chain, []
        if last[0] == "install":
            text = f"modprobe would run a command instead of loading {name}: {' '.join(last[1:])}"
            return chain, [Fault("install-command", text, f"find it: modprobe -c | grep 'install {name}'")]
        if last[0] == "builtin":
            text = f"{name} is built into this kernel, so that no module of that name is ever loaded"
            return chain, [Fault("object-built-in", text, "exclude this kernel with [kernels]")]
        shown = chosen if self.sysroot.is_host else chosen[len(str(self.sysroot.root)) :]
        text = f"modprobe would load {shown or 'nothing'} instead of {path}"
        return chain, [Fault("object-shadowed", text, "remove the other file and run depmod, or see depmod.d(5)")]
