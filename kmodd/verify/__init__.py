"""Whether the kernel would take what is installed, told by what its own tools say and by the files on disk.

For each object: it is the file that modprobe would pick, all that it needs is there in the version that it was built
with, it takes its options, nobody blacklisted it, and its signature is ours (DESIGN section 6). Must not: change
anything but its own memory of unchanged files, or decide what to do about a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Optional

from ..errors import Problem
from ..files import digest_file, replace_file, stat_signature
from ..model import Check, Fault, Kernel, Target
from ..paths import Sysroot
from ..record import Installed, InstalledObject
from . import elf, parameters, signature, symbols
from .dependants import find_breach, find_dependants
from .probe import Probe, module_name

#: In-root path -> the file's state and our certificate, and what was wrong with the signature.
Signed = dict[str, tuple[object, list[Fault]]]
EDITION = 3  # of the checks: raise it when an unchanged file may be judged otherwise


@dataclass(frozen=True)
class Question:
    """An installed target to look at.

    at_boot: canonical names that are loaded at boot. certificate: ours, DER; empty where signatures are not to be
    looked at, for the reason that unsigned gives.
    """

    target: Target
    kernel: Kernel
    installed: Installed
    at_boot: tuple[str, ...] = ()
    certificate: bytes = b""
    unsigned: str = ""


@dataclass(frozen=True)
class Answer:
    """What is remembered of a target: key is what it depends on, beyond is other modules that were looked at for it."""

    key: str
    beyond: tuple[Path, ...]
    checks: tuple[Check, ...]


class Verifier:
    """Checks installed targets; what did not change since the last look is not looked at again.

    anew: forget what is remembered, and tell of the checks that passed, too.
    """

    def __init__(self, sysroot: Sysroot, anew: bool = False) -> None:
        self.sysroot = sysroot
        self.anew = anew
        self.memory = sysroot.cache / "verified.json"
        self.probe = Probe(sysroot)
        self._digests: dict[str, tuple[object, str]] = {}
        self._known: dict[Target, Answer] = {}
        self._signed: Signed = {}
        self._dirty = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(b"{}" if anew else self.memory.read_bytes())
            if known.get("edition") == EDITION:
                self._digests = {path: (tuple(key), str(digest)) for path, (key, digest) in known["digests"].items()}
                for module, kernel, key, beyond, checks in known["answers"]:
                    found = tuple(Check(*map(str, check)) for check in checks)
                    self._known[Target(module, kernel)] = Answer(key, tuple(map(Path, beyond)), found)

    def forget(self) -> None:
        """Check everything anew at the next look. Must not be called during one."""
        self._digests.clear()
        self._known.clear()
        self._signed.clear()

    def remember(self) -> None:
        """Keep the findings for the next process, where the cache can be written."""
        if self._dirty:
            answers = [
                (t.module, t.kernel, a.key, list(map(str, a.beyond)), [astuple(c) for c in a.checks if c.is_finding])
                for t, a in self._known.items()
            ]
            data = {"edition": EDITION, "digests": self._digests, "answers": answers}
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
                    self._dirty = True
            except PermissionError:
                continue  # the checks say so
            except OSError:
                return f"{item.path} is gone"
            if known[1] != item.sha256:
                return f"{item.path} was changed by somebody else"
        return ""

    async def examine(self, questions: Iterable[Question]) -> dict[Target, tuple[Check, ...]]:
        """Return what was found of each target: what is wrong or could not be checked, and with anew all else, too."""
        asked = list(questions)
        for release in sorted({question.target.kernel for question in asked}):
            stale = []
            for question in asked:
                if question.target.kernel == release:
                    known = self._known.get(question.target)
                    if not known or known.key != self._key(question, known.beyond):
                        stale.append(question)
            if stale:
                self._dirty = True
                look = _Look(self.sysroot, self.probe, stale[0].kernel, self._signed)
                for question, (checks, beyond) in zip(stale, await look.all(stale)):
                    kept = tuple(check for check in checks if self.anew or check.is_finding)
                    self._known[question.target] = Answer(self._key(question, beyond), beyond, kept)
        gone = self._known.keys() - {question.target for question in asked}
        for target in gone:
            del self._known[target]
        for path in self._signed.keys() - {item.path for question in asked for item in question.installed.objects}:
            del self._signed[path]
        return {question.target: self._known[question.target].checks for question in asked}

    def _key(self, question: Question, beyond: Sequence[Path]) -> str:
        """Return what changes when anything does that a finding depends on."""
        kernel = question.kernel
        own = symbols.find_symvers(self.sysroot, kernel)
        files = [self.sysroot.kernel(kernel.release) / "modules.dep.bin", *([own] if own else [])]
        files += [*self.probe.configurations(), *beyond]
        files += [self.sysroot.resolve(item.path) for item in question.installed.objects]
        config = sorted(kernel.config.items())
        certificate = hashlib.sha256(question.certificate).hexdigest()
        stats: list[object] = [sorted(question.at_boot), certificate, question.unsigned, kernel.signature_hash, config]
        for path in files:
            try:
                stats.append((str(path), *stat_signature(path)))
            except OSError:
                stats.append((str(path), "absent"))
        return hashlib.sha256(repr(stats).encode()).hexdigest()


class _Look:
    """One look at targets of one kernel; what they share is read once, and not kept."""

    def __init__(self, sysroot: Sysroot, probe: Probe, kernel: Kernel, signed: Signed) -> None:
        self.sysroot = sysroot
        self.probe = probe
        self.kernel = kernel
        self.signed = signed
        self.symvers: Optional[bytes] = None
        self.magic = ""
        self.exports: dict[Path, dict[str, elf.Export]] = {}
        self.turn = asyncio.Semaphore(os.cpu_count() or 1)

    async def all(self, questions: Sequence[Question]) -> list[tuple[list[Check], tuple[Path, ...]]]:
        """Return the checks of each target, and the other modules that were looked at for it."""
        own = symbols.find_symvers(self.sysroot, self.kernel)
        self.symvers = await symbols.read_plain(own) if own else None
        self.magic = await self._reference()
        return await asyncio.gather(*(self._target(question) for question in questions))

    async def _target(self, question: Question) -> tuple[list[Check], tuple[Path, ...]]:
        found = await asyncio.gather(*(self._try_object(question, item) for item in question.installed.objects))
        beyond = dict.fromkeys(path for _, first in found for path in first)
        return [check for checks, _ in found for check in checks], tuple(beyond)

    async def _try_object(self, question: Question, item: InstalledObject) -> tuple[list[Check], tuple[Path, ...]]:
        try:
            async with self.turn:
                return await self._object(question, item)
        except (Problem, OSError, ValueError) as error:
            message = error.message if isinstance(error, Problem) else str(error)
            hint = "remove the file and run kmoddctl sync"
            if isinstance(error, OSError):
                message = str(error.strerror)
                hint = "run it as root" if isinstance(error, PermissionError) else hint
            text = f"{item.path} cannot be read as a kernel module: {message}"
            fault = Fault("object-unreadable", text, hint)
            return _checks(module_name(item.path), "object", [fault], ""), ()

    async def _object(self, question: Question, item: InstalledObject) -> tuple[list[Check], tuple[Path, ...]]:
        real = self.sysroot.resolve(item.path)
        name = module_name(real)
        state = stat_signature(real)
        data = await symbols.read_plain(real)
        contents = elf.read(data, name)
        resolution = await self.probe.resolve(self.kernel.release, name, item.path)
        faults = [resolution.fault] if resolution.fault else []
        checks = _checks(name, "modprobe", faults, f"modprobe loads {item.path}")
        checks += [*self._magic(name, contents), *await self._symbols(name, contents, resolution.first)]
        if name in question.at_boot:
            where = self.probe.blacklisting(name)
            text = f"{name} is to be loaded at boot, but {where} blacklists it"
            hint = f"remove the line from {where}, or at_boot from the module"
            found = [Fault("blacklisted", text, hint)] if where else []
            checks += _checks(name, "blacklist", found, "nobody keeps it from being loaded at boot")
        refused, unknown = parameters.check(name, contents, resolution.options)
        checks += _checks(name, "options", refused, resolution.options or "none")
        if unknown:
            checks += _checks(name, "options", unknown, "", "warning")
        checks += await self._signature(question, name, bool(item.signer), data, (item.path, state))
        dependants: list[Path] = []
        if name in self.kernel.in_tree:
            dependants = find_dependants(self.sysroot.kernel(self.kernel.release), real)
            checks += await self._dependants(name, contents, dependants)
        return checks, (*resolution.first, *dependants)

    def _magic(self, name: str, contents: elf.Contents) -> list[Check]:
        magic, versions = contents.first("vermagic"), self.kernel.config.get("CONFIG_MODVERSIONS") == "y"
        if not self.magic:
            return [Check(name, "vermagic", "skipped", "the kernel has no module of its own to compare with")]
        faults = []
        if not symbols.is_same_magic(magic, self.magic, versions and bool(contents.crcs)):
            text = f"{name} was built for another kernel: vermagic {magic.strip()!r} instead of {self.magic.strip()!r}"
            faults.append(Fault("vermagic-mismatch", text, "remove the file and run kmoddctl sync"))
        return _checks(name, "vermagic", faults, magic.strip())

    async def _symbols(self, name: str, contents: elf.Contents, first: Sequence[Path]) -> list[Check]:
        """Check what an object needs; what is loaded before it and is none of the kernel's own is asked itself."""
        if self.symvers is None:
            return [Check(name, "symbols", "skipped", "the kernel has neither a symvers nor a build tree")]
        wanted = symbols.needed(contents)
        exported = symbols.look_up(self.symvers, wanted)
        own = self.sysroot.kernel(self.kernel.release) / "kernel"
        for path in first:
            if own not in path.parents:
                if path not in self.exports:
                    self.exports[path] = dict((await symbols.read_object(path, module_name(path))).exports)
                exported.update({key: value for key, value in self.exports[path].items() if key in wanted})
        before = {module_name(path) for path in first if path.exists()}
        faults = symbols.check_symbols(name, contents, exported, before, self.kernel.config)
        lost = [fault for fault in faults if fault.problem == "dependency-missing"]
        others = [fault for fault in faults if fault not in lost]
        what = "symbols and their CRCs" if self.kernel.config.get("CONFIG_MODVERSIONS") == "y" else "symbols"
        said = ", ".join(sorted(before)) or "nothing"
        return [
            *_checks(name, "symbols", others, f"{len(exported)} of {len(wanted)} {what} match"),
            *_checks(name, "dependencies", lost, f"{said} is loaded before it"),
        ]

    async def _dependants(self, name: str, contents: elf.Contents, dependants: Sequence[Path]) -> list[Check]:
        """Check that the kernel's own modules find in an object what they found in the one that it replaces."""
        found = []
        for path in dependants:
            try:
                other = await symbols.read_object(path, module_name(path))
            except (Problem, OSError, ValueError):
                continue  # it would not load with the kernel's own either
            before = symbols.look_up(self.symvers or b"", other.needs)
            versions = self.kernel.config.get("CONFIG_MODVERSIONS") == "y"
            breach = find_breach(other, name, contents.exports, before, versions)
            if breach:
                text = f"the kernel's own {module_name(path)} no longer loads beside {name}: it {breach}"
                hint = f"register {module_name(path)} from the same source, too"
                found.append(Fault("dependant-broken", text, hint))
        return _checks(name, "dependants", found, f"{len(dependants)} of the kernel's own modules need it", "warning")

    async def _signature(
        self, question: Question, name: str, signed: bool, data: bytes, file: tuple[str, object]
    ) -> list[Check]:
        """Check a signature. file: in-root path and state, by which a file that did not change since is known."""
        if not self.kernel.signature_hash:
            return [Check(name, "signature", "passed", "this kernel knows no signatures")]
        if not signed or not question.certificate:
            return [Check(name, "signature", "skipped", question.unsigned or "it was installed unsigned")]
        path, state = file
        known = self.signed.get(path)
        if not known or known[0] != (state, question.certificate):
            faults = await signature.check(name, data, question.certificate)
            known = self.signed[path] = ((state, question.certificate), faults)
        return _checks(name, "signature", known[1], "is kmodd's, over this content")

    async def _reference(self) -> str:
        """Return the vermagic of the kernel's own modules, "" where there is none to look at."""
        directory = self.sysroot.kernel(self.kernel.release)
        try:
            lines = (directory / "modules.order").read_text().splitlines()
        except OSError:
            return ""
        for line in lines:
            for suffix in ("", ".xz", ".zst", ".gz"):
                path = (directory / line).with_suffix(f".ko{suffix}")
                if path.is_file():
                    try:
                        return (await symbols.read_object(path, "")).first("vermagic")
                    except (Problem, OSError, ValueError):
                        return ""
        return ""


def _checks(name: str, check: str, faults: Sequence[Fault], passed: str, otherwise: str = "failed") -> list[Check]:
    """Return a check's outcome: that it passed, or every fault. otherwise: the outcome then, or "warning"."""
    if not faults:
        return [Check(name, check, "passed", passed)]
    return [Check(name, check, otherwise, fault.message, fault.problem, fault.hint) for fault in faults]
