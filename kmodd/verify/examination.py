"""One examination of all installed targets of one kernel: each object by itself, then all beside each other.

What several targets share, such as a module of the kernel's own that they need, is read once and not kept. What could
not be looked at, since a tool was killed or the machine ran out of something, is no finding: that check is interrupted.
Must not: change anything, or remember findings.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..errors import Problem
from ..files import find_accident, stat_signature
from ..model import Check, Demand, Fault, Kernel, Target
from ..modulefile import canonical
from ..paths import Sysroot
from ..record import Installed, InstalledObject
from . import bootline, content, elf, loader, names, parameters, signature, symbols
from .dependants import find_breach, find_dependants
from .probe import INSTALL_HINT, Command, Probe, Resolution, module_name

#: In-root path -> the file's state and our certificate, and what was wrong with the signature.
Signed = dict[str, tuple[object, list[Fault]]]
REFERENCES = 20  # of the kernel's own modules that are looked at for one with init and exit functions
AGAIN = "kmodd checks it again by itself"
DAMAGED = "remove the file and run kmoddctl sync"


@dataclass(frozen=True)
class Question:
    """An installed target to look at.

    at_boot: canonical names that are loaded at boot. certificate: ours, DER; empty where signatures are not to be
    looked at, for the reason that unsigned gives. demand: the kernel's.
    """

    target: Target
    kernel: Kernel
    installed: Installed
    at_boot: tuple[str, ...] = ()
    certificate: bytes = b""
    unsigned: str = ""
    demand: Demand = field(default_factory=Demand)


@dataclass(frozen=True)
class Parsed:
    """A module's file as the kernel reads it. data: uncompressed, with its signature."""

    path: Path
    name: str
    data: bytes
    signed: content.Signed
    shape: loader.Shape
    contents: elf.Contents
    state: object


@dataclass
class Finding:
    """What was found of one object so far. beyond: other modules that were looked at for it."""

    target: Target
    name: str
    path: str
    at_boot: bool
    checks: list[Check] = field(default_factory=list)
    beyond: list[Path] = field(default_factory=list)
    parsed: Optional[Parsed] = None
    resolution: Resolution = field(default_factory=Resolution)

    def add(self, check: str, faults: Sequence[Fault], passed: str, otherwise: str = "failed") -> None:
        """Add a check's outcome: that it passed, or every fault. otherwise: the outcome then."""
        if not faults:
            self.checks.append(Check(self.name, check, "passed", passed))
        self.checks += [Check(self.name, check, otherwise, f.message, f.problem, f.hint) for f in faults]

    def add_doubts(self, check: str, faults: Sequence[Fault], outcome: str = "untold") -> None:
        """Add what may be wrong, beside what `add` said."""
        if faults:
            self.add(check, faults, "", outcome)

    @contextlib.contextmanager
    def attempt(self, check: str) -> Iterator[None]:
        """Note a check as interrupted where the block could not make it. Raises what says something of the object."""
        try:
            yield
        except (Problem, OSError, MemoryError) as error:
            accident = find_accident(error)
            if not accident:
                raise
            self.interrupt(check, accident)

    def interrupt(self, check: str, accident: str) -> None:
        """Note that a check could not be made now."""
        self.checks.append(Check(self.name, check, "interrupted", accident, "check-interrupted", AGAIN))

    def is_interrupted(self, check: str) -> bool:
        return any(made.check == check and made.outcome == "interrupted" for made in self.checks)

    @property
    def inner(self) -> str:
        """Return the canonical name that the kernel lists it by."""
        return canonical(self.parsed.shape.name) if self.parsed else self.name

    @property
    def broken(self) -> Optional[Check]:
        """Return the first check that failed, else the first that could not be made."""
        made = (check for outcome in ("failed", "interrupted") for check in self.checks if check.outcome == outcome)
        return next(made, None)


class Examination:
    """Examines installed targets of one kernel."""

    def __init__(
        self, sysroot: Sysroot, probe: Probe, kernel: Kernel, signed: Signed, damaged: Mapping[str, str]
    ) -> None:
        self.sysroot = sysroot
        self.probe = probe
        self.kernel = kernel
        self.signed = signed
        self.damaged = damaged
        self.directory = sysroot.kernel(kernel.release)
        self.symvers: Optional[symbols.Symvers] = None
        self.lack = "the kernel has neither a symvers nor a build tree"
        self.reference = loader.Reference()
        self.taken = names.Taken()
        self.in_tree: frozenset[str] = frozenset()  # canonical names of the kernel's own modules
        self.own_line = ""  # of the kernel that runs here, which modprobe reads
        self.read: dict[Path, asyncio.Future[Parsed]] = {}
        self.providers: dict[tuple[Path, str], list[Fault]] = {}
        self.turn = asyncio.Semaphore(os.cpu_count() or 1)

    async def all(self, questions: Sequence[Question]) -> list[tuple[list[Check], tuple[Path, ...]]]:
        """Return the checks of each target, and the other modules that were looked at for it."""
        try:
            await self._read_own()
        except (Problem, OSError, MemoryError) as error:
            accident = f"the kernel's own files could not be looked at: {find_accident(error) or error}"
            name = module_name(questions[0].installed.objects[0].path)
            return [([Check(name, "object", "interrupted", accident, "check-interrupted", AGAIN)], ())] * len(questions)
        found = await asyncio.gather(*(self._target(question) for question in questions))
        every = [finding for findings in found for finding in findings]
        self._compare(every)
        await self._add_closures(every)
        return [
            ([c for f in findings for c in f.checks], tuple(dict.fromkeys(p for f in findings for p in f.beyond)))
            for findings in found
        ]

    async def _read_own(self) -> None:
        """Read what all targets are compared with. Raises Problem, OSError and MemoryError where that cannot be now."""
        own = symbols.find_symvers(self.sysroot, self.kernel)
        try:
            self.symvers = symbols.Symvers(await content.read_plain(own)) if own else None
        except (Problem, OSError, ValueError) as error:
            if find_accident(error):
                raise
            self.lack = f"the kernel's symvers cannot be read: {error}"
        self.reference = await self._find_reference()
        self.taken = await asyncio.to_thread(names.read_taken, self.directory)
        self.own_line = await asyncio.to_thread(self.probe.running_line)

    async def _target(self, question: Question) -> list[Finding]:
        return await asyncio.gather(*(self._try_object(question, item) for item in question.installed.objects))

    async def _try_object(self, question: Question, item: InstalledObject) -> Finding:
        name = module_name(item.path)
        finding = Finding(question.target, name, item.path, name in question.at_boot)
        try:
            async with self.turn:
                with finding.attempt("object"):
                    await self._object(finding, question, bool(item.signer))
        except (Problem, OSError, ValueError) as error:
            message = error.message if isinstance(error, Problem) else str(error)
            hint = DAMAGED
            if isinstance(error, OSError):
                message = str(error.strerror)
                hint = "run it as root" if isinstance(error, PermissionError) else hint
            text = f"{item.path} cannot be read as a kernel module: {message}"
            finding.add("object", [Fault("object-unreadable", text, hint)], "")
        return finding

    # -- one object ------------------------------------------------------------------------------------------------
    async def parse(self, path: Path) -> Parsed:
        """Return what a module's file says; each is read once. Raises OSError, ValueError and Problem."""
        known = self.read.get(path)
        if known is None:
            known = self.read[path] = asyncio.ensure_future(self._parse(path))
        return await asyncio.shield(known)

    async def _parse(self, path: Path) -> Parsed:
        state = stat_signature(path)
        data = await content.read_plain(path)
        name = module_name(path)

        def take_apart() -> Parsed:
            signed = content.split(data) if self.kernel.signature_hash else content.Signed(data)
            shape = loader.take_apart(signed.content)
            return Parsed(path, name, data, signed, shape, elf.read(signed.content, name), state)

        return await asyncio.to_thread(take_apart)

    async def _object(self, finding: Finding, question: Question, signed: bool) -> None:
        real = self.sysroot.resolve(finding.path)
        finding.parsed = parsed = await self.parse(real)
        name, shape, contents = finding.name, parsed.shape, parsed.contents
        faults, doubts = await asyncio.to_thread(loader.check, name, shape, self.reference, self.kernel.release)
        finding.add("object", faults, "the loader takes the file itself")
        finding.add_doubts("object", doubts)
        with finding.attempt("modprobe"):
            finding.resolution = await self.probe.resolve(self.kernel.release, name, finding.path)
            finding.beyond += [step.path for step in finding.resolution.first]
            fault = finding.resolution.fault
            doubt = finding.resolution.doubt
            finding.add("modprobe", [fault] if fault else [], f"modprobe loads {finding.path}")
            finding.add_doubts("modprobe", [doubt] if doubt else [])
            self._add_options(finding, parsed)
        self._add_magic(finding, contents)
        if finding.at_boot:
            with finding.attempt("blacklist"):
                self._add_blacklist(finding)
        finding.checks += bootline.check(self.kernel, name, shape, finding.at_boot)
        with finding.attempt("signature"):
            await self._add_signature(finding, question, signed, parsed)
        if name in self.kernel.in_tree:
            with finding.attempt("dependants"):
                await self._add_dependants(finding, contents, real)

    def _add_blacklist(self, finding: Finding) -> None:
        where = self.probe.blacklisting(finding.name)
        text = f"{finding.name} is to be loaded at boot, but {where} blacklists it"
        hint = f"remove the line from {where}, or at_boot from the module"
        found = [Fault("blacklisted", text, hint)] if where else []
        finding.add("blacklist", found, "nobody keeps it from being loaded at boot")

    def _add_magic(self, finding: Finding, contents: elf.Contents) -> None:
        if not self.reference.magic:
            text = "the kernel has no module of its own to compare with"
            finding.checks.append(Check(finding.name, "vermagic", "skipped", text))
            return
        finding.add("vermagic", self._magic(finding.name, contents), contents.first("vermagic").strip())

    def _magic(self, name: str, contents: elf.Contents) -> list[Fault]:
        magic, theirs = contents.first("vermagic"), self.reference.magic
        if "vermagic" not in contents.info and symbols.is_forcible(self.kernel.config):
            return []
        versions = self.kernel.config.get("CONFIG_MODVERSIONS") == "y"
        if not theirs or symbols.is_same_magic(magic, theirs, versions and contents.versioned):
            return []
        text = f"{name} was built for another kernel: vermagic {magic.strip()!r} instead of {theirs.strip()!r}"
        return [Fault("vermagic-mismatch", text, DAMAGED)]

    def _add_options(self, finding: Finding, parsed: Parsed) -> None:
        refused, others = self._options(finding.name, parsed, finding.resolution.options)
        finding.add("options", refused, finding.resolution.options or "none")
        finding.add_doubts("options", [f for f in others if f.problem == "parameter-unknown"], "warning")
        finding.add_doubts("options", [f for f in others if f.problem != "parameter-unknown"])

    def _options(self, name: str, parsed: Parsed, given: str) -> tuple[list[Fault], list[Fault]]:
        """Return what of its options a module refuses, and what may be wrong with them."""
        table = parameters.read(parsed.shape)
        lines = bootline.options(self.kernel, name, given, self.own_line)
        found = [parameters.check(name, parsed.contents, options, table) for options in lines]
        refused = [fault for faults, _ in found for fault in faults]
        others = [fault for _, faults in found for fault in faults]
        if not all(faults for faults, _ in found):  # only with some of the command lines that it may get
            others += [Fault("command-line-unknown", fault.message, fault.hint) for fault in refused]
            refused = []
        return list(dict.fromkeys(refused)), list(dict.fromkeys(others))

    async def _add_dependants(self, finding: Finding, contents: elf.Contents, real: Path) -> None:
        """Check that the kernel's own modules find in an object what they found in the one that it replaces."""
        name, dependants = finding.name, find_dependants(self.directory, real)
        finding.beyond += dependants
        found = []
        for path in dependants:
            try:
                other = (await self.parse(path)).contents
            except (Problem, OSError, ValueError) as error:
                if find_accident(error):
                    raise
                continue  # it would not load with the kernel's own either
            before = symbols.look_up(self.symvers, other.needs)
            versions = self.kernel.config.get("CONFIG_MODVERSIONS") == "y"
            breach = find_breach(other, name, contents.exports, before, versions)
            if breach:
                text = f"the kernel's own {module_name(path)} no longer loads beside {name}: it {breach}"
                hint = f"register {module_name(path)} from the same source, too"
                found.append(Fault("dependant-broken", text, hint))
        finding.add("dependants", found, f"{len(dependants)} of the kernel's own modules need it", "warning")

    async def _add_signature(self, finding: Finding, question: Question, signed: bool, parsed: Parsed) -> None:
        """Check a signature; a file that did not change since is known by its state."""
        name = finding.name
        if not self.kernel.signature_hash:
            finding.add("signature", [], "this kernel knows no signatures")
        elif parsed.signed.damage:  # which the kernel refuses whether it demands signatures or not
            fault = Fault("signature-invalid", f"{name}: {parsed.signed.damage}", signature.HINT)
            finding.add("signature", [fault], "")
        elif not signed or not question.certificate:
            text = question.unsigned or "it was installed unsigned"
            finding.checks.append(Check(name, "signature", "skipped", text))
        else:
            known = self.signed.get(finding.path)
            if not known or known[0] != (parsed.state, question.certificate):
                faults = await signature.check(name, parsed.signed, question.certificate)
                known = self.signed[finding.path] = ((parsed.state, question.certificate), faults)
            told, outcome = signature.judge(known[1], question.demand)
            finding.add("signature", told, "is kmodd's, over this content", outcome)

    async def _find_reference(self) -> loader.Reference:
        """Return what the kernel's own modules tell of all; empty where there is none to look at.

        Raises Problem, OSError and MemoryError where they could not be looked at.
        """
        try:
            lines = (self.directory / "modules.order").read_text().splitlines()
        except OSError as error:
            if find_accident(error):
                raise
            return loader.Reference()
        self.in_tree = frozenset(module_name(line) for line in lines)
        found = loader.Reference()
        suffixes = ("", ".xz", ".zst", ".gz")
        files = ((self.directory / line).with_suffix(f".ko{suffix}") for line in lines for suffix in suffixes)
        there = (path for path in files if path.is_file())
        for path, _ in zip(there, range(REFERENCES)):
            try:
                parsed = await self.parse(path)
                found = loader.refer(parsed.shape, parsed.contents.first("vermagic"))
            except (Problem, OSError, ValueError) as error:
                if find_accident(error):
                    raise
                continue
            if len(found.entries) > 1:
                break
        return found

    # -- beside each other -------------------------------------------------------------------------------------------
    def _compare(self, every: Sequence[Finding]) -> None:
        """Check that names and exported symbols are nobody else's; what is loaded at boot comes first."""
        exporters: dict[str, Finding] = {}
        for finding in sorted(every, key=lambda f: (not f.at_boot, f.target.module, f.name)):
            if finding.parsed is None:
                continue
            inner = finding.parsed.shape.name
            others = self.in_tree.union(*({f.name, f.inner} for f in every if f is not finding))
            faults, doubts = names.check(finding.name, inner, self.taken, others)
            finding.add("name", faults, f"the kernel lists it as {inner}")
            finding.add_doubts("name", doubts)
            self._add_exports(finding, finding.parsed.contents.exports, exporters, {f.name for f in every})

    def _add_exports(
        self, finding: Finding, own: Mapping[str, elf.Export], exporters: dict[str, Finding], ours: Collection[str]
    ) -> None:
        """Check that nobody exports what an object does. exporters: symbol -> who of those before it does."""
        before = {module_name(step.path) for step in finding.resolution.first}
        faults: dict[str, str] = {}  # other -> the first symbol
        doubts: dict[str, str] = {}
        theirs = symbols.look_up(self.symvers, own)
        for symbol in own:
            other = exporters.setdefault(symbol, finding)
            provider = theirs[symbol].provider if symbol in theirs else finding.name
            if other is not finding and other.name != finding.name:
                (faults if other.at_boot or other.name in before else doubts).setdefault(other.name, symbol)
            elif provider == "vmlinux" or (provider in before and provider != finding.name):
                faults.setdefault(provider, symbol)
            elif provider not in ours:
                doubts.setdefault(provider, symbol)
        hint = "only one of them can be loaded: have one exclude this kernel, or take it from at_boot"
        found = [
            Fault("symbol-duplicate", f"{finding.name} would not load: {other} exports {symbol}, too", hint)
            for other, symbol in faults.items()
        ]
        beside = [
            Fault("symbol-duplicate", f"{finding.name} does not load beside {other}: both export {symbol}", hint)
            for other, symbol in doubts.items()
        ]
        finding.add("exports", found, f"nobody else exports its {len(own)} symbols")
        finding.add_doubts("exports", beside)

    async def _add_closures(self, every: Sequence[Finding]) -> None:
        """Check what objects need of others, and that these would load themselves: told when all know their symbols."""
        parts: list[tuple[Finding, Parsed, dict[Path, Parsed]]] = []
        for finding in every:
            if finding.parsed is not None and not finding.is_interrupted("modprobe"):
                with finding.attempt("dependencies"):
                    found, lost = await self._parts(finding, finding.parsed)
                    self._add_symbols(finding, finding.parsed, found)
                    finding.add_doubts("dependencies", lost, "failed")
                    parts.append((finding, finding.parsed, found))
        own = {self.sysroot.resolve(finding.path): finding for finding in every}
        broken = {path: finding.broken for path, finding in own.items()}
        for path, text in self.damaged.items():
            broken[self.sysroot.resolve(path)] = Check(
                module_name(path), "content", "failed", text, hint="kmoddctl sync"
            )
        for finding, parsed, found in parts:
            with finding.attempt("dependencies"):
                await self._add_closure(finding, parsed, found, broken)

    async def _parts(self, finding: Finding, parsed: Parsed) -> tuple[dict[Path, Parsed], list[Fault]]:
        """Return what is loaded before an object, and what of that cannot be read although it is needed."""
        parts: dict[Path, Parsed] = {}
        lost = []
        for step in finding.resolution.first:
            try:
                parts[step.path] = await self.parse(step.path)
            except (Problem, OSError, ValueError) as error:
                if find_accident(error):
                    raise
                lost.append((module_name(step.path), f"{self.sysroot.inside(step.path)} cannot be read: {error}"))
        needed = _required(parsed, parts.values())
        return parts, [_broken_provider(finding.name, name, text, DAMAGED) for name, text in lost if name in needed]

    async def _add_closure(
        self,
        finding: Finding,
        parsed: Parsed,
        parts: Mapping[Path, Parsed],
        broken: Mapping[Path, Optional[Check]],
    ) -> None:
        needed = _required(parsed, parts.values())
        faults = []
        for command in finding.resolution.commands:
            if command.name in needed:
                self._add_command(finding, command)
        for step in finding.resolution.first:
            if step.path not in parts or parts[step.path].name not in needed:
                continue
            name = parts[step.path].name
            if step.path in broken:
                check = broken[step.path]
                if check is not None and check.outcome == "interrupted":
                    finding.interrupt("dependencies", f"it needs {name}, which could not be checked: {check.message}")
                    continue
                faults += [_broken_provider(finding.name, name, check.message, check.hint)] if check else []
            else:
                found = await asyncio.to_thread(self._provider, parts[step.path], step.options, parts)
                faults += [_broken_provider(finding.name, name, f.message, f.hint) for f in found[:1]]
        finding.add_doubts("dependencies", faults, "failed")

    def _add_command(self, finding: Finding, command: Command) -> None:
        """Add what an install line of a module does that an object needs."""
        text, hint = f"modprobe runs a command instead: {command.text}", INSTALL_HINT.format(command.name)
        if command.loads is False:
            finding.add_doubts("dependencies", [_broken_provider(finding.name, command.name, text, hint)], "failed")
        else:
            text = f"{finding.name} needs {command.name}, and whether that is loaded cannot be told: {text}"
            finding.add_doubts("dependencies", [Fault("install-command", text, hint)])

    def _add_symbols(self, finding: Finding, parsed: Parsed, parts: Mapping[Path, Parsed]) -> None:
        if self.symvers is None:
            finding.checks.append(Check(finding.name, "symbols", "skipped", self.lack))
            return
        wanted = symbols.needed(parsed.contents)
        exported = self._exported(wanted, parts.values())
        before = {part.name for part in parts.values()}
        faults = symbols.check_symbols(finding.name, parsed.contents, exported, before, self.kernel.config)
        lost = [fault for fault in faults if fault.problem == "dependency-missing"]
        what = "symbols and their CRCs" if self.kernel.config.get("CONFIG_MODVERSIONS") == "y" else "symbols"
        said = ", ".join(sorted(before)) or "nothing"
        matching = f"{len(exported)} of {len(wanted)} {what} match"
        finding.add("symbols", [fault for fault in faults if fault not in lost], matching)
        finding.add("dependencies", lost, f"{said} is loaded before it")

    def _exported(self, wanted: Collection[str], parts: Iterable[Parsed]) -> dict[str, elf.Export]:
        """Return what exports some symbols: what is loaded before says so itself."""
        exported = symbols.look_up(self.symvers, wanted)
        for part in parts:
            exported.update({key: value for key, value in part.contents.exports.items() if key in wanted})
        return exported

    def _provider(self, parsed: Parsed, options: str, parts: Mapping[Path, Parsed]) -> list[Fault]:
        """Return what keeps a module that is not ours from loading. parts: what is loaded with it."""
        known = self.providers.get((parsed.path, options))
        if known is None:
            name, contents = parsed.name, parsed.contents
            known, _ = loader.check(name, parsed.shape, self.reference, self.kernel.release)
            if parsed.signed.damage:
                known.append(Fault("signature-invalid", f"{name}: {parsed.signed.damage}", DAMAGED))
            known += self._magic(name, contents)
            known += bootline.refusals(self.kernel, name, parsed.shape)
            known += self._options(name, parsed, options)[0]
            if self.symvers is not None:
                exported = self._exported(symbols.needed(contents), parts.values())
                before = {part.name for part in parts.values()}
                known += symbols.check_symbols(name, contents, exported, before, self.kernel.config)
            self.providers[parsed.path, options] = known
        return known


def _required(parsed: Parsed, parts: Iterable[Parsed]) -> set[str]:
    """Return what an object cannot do without of what is loaded before it: soft dependencies are not among that."""
    depends = {
        part.name: {canonical(name) for name in part.contents.first("depends").split(",") if name}
        for part in (parsed, *parts)
    }
    found: set[str] = set()
    pending = set(depends[parsed.name])
    while pending:
        found |= pending
        pending = set().union(*(depends.get(name, set()) for name in pending)) - found
    return found


def _broken_provider(name: str, provider: str, why: str, hint: str) -> Fault:
    return Fault("dependency-broken", f"{name} needs {provider}, which would not load: {why}", hint)
