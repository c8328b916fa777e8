"""Whether the modules that an object needs would load: ours by their own checks, and others.

Must not: check anything of an object that others do not matter for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Check, Demand, Fault
from ..core.modulefile import canonical
from ..system.files import find_accident
from . import bootline, cms, loader, symbols
from .finding import DAMAGED, Finding
from .kernelview import KernelView, Parsed
from .objectchecks import find_magic_faults, find_option_faults
from .probe import INSTALL_HINT, Command, module_name

OTHERS = "install the package that it is from anew, or ask whoever made it"
KERNELS_OWN = "kernel"  # the directory of what came with the kernel


class Closures:
    """Checks of one kernel's targets what comes with them.

    certificate: ours, DER, or empty. damaged: in-root paths of objects that are not what was installed, and why.
    """

    def __init__(self, view: KernelView, certificate: bytes, damaged: Mapping[str, str]) -> None:
        self.view = view
        self.certificate = certificate
        self.damaged = damaged
        self.providers: dict[tuple[Path, str], tuple[list[Fault], list[Fault]]] = {}

    async def check(self, every: Sequence[Finding]) -> None:
        """Check what objects need of others, and that these would load, once the symbols of all are known."""
        parts: list[tuple[Finding, Parsed, dict[Path, Parsed]]] = []
        for finding in every:
            if finding.parsed is not None and not finding.is_interrupted("modprobe"):
                with finding.attempt("dependencies"):
                    found, lost = await self._parts(finding, finding.parsed)
                    self._add_symbols(finding, finding.parsed, found)
                    finding.add_doubts("dependencies", lost, "failed")
                    parts.append((finding, finding.parsed, found))
        own = {self.view.sysroot.resolve(finding.path): finding for finding in every}
        broken = {path: finding.broken for path, finding in own.items()}
        for path, text in self.damaged.items():
            broken[self.view.sysroot.resolve(path)] = Check(
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
                parts[step.path] = await self.view.parse(step.path)
            except (Problem, OSError, ValueError) as error:
                if find_accident(error):
                    raise
                lost.append((module_name(step.path), f"{self.view.sysroot.inside(step.path)} cannot be read: {error}"))
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
        faults: list[Fault] = []
        doubts: list[Fault] = []
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
                found, open_ = await asyncio.to_thread(self._provider, parts[step.path], step.options, parts)
                faults += [_broken_provider(finding.name, name, f.message, f.hint) for f in found[:1]]
                doubts += [Fault(f.problem, f"{finding.name} needs {name}: {f.message}", f.hint) for f in open_]
        finding.add_doubts("dependencies", faults, "failed")
        finding.add_doubts("dependencies", doubts)

    def _add_command(self, finding: Finding, command: Command) -> None:
        """Add what an install line of a module does that an object needs."""
        text, hint = f"modprobe runs a command instead: {command.text}", INSTALL_HINT.format(command.name)
        if command.loads is False:
            finding.add_doubts("dependencies", [_broken_provider(finding.name, command.name, text, hint)], "failed")
        else:
            text = f"{finding.name} needs {command.name}, and whether that is loaded cannot be determined: {text}"
            finding.add_doubts("dependencies", [Fault("install-command", text, hint)])

    def _add_symbols(self, finding: Finding, parsed: Parsed, parts: Mapping[Path, Parsed]) -> None:
        if self.view.symvers is None:
            finding.checks.append(Check(finding.name, "symbols", "skipped", self.view.lack))
            return
        wanted = symbols.needed(parsed.contents)
        exported = self.view.find_exports(wanted, parts.values())
        before = {part.name for part in parts.values()}
        faults = symbols.check_symbols(finding.name, parsed.contents, exported, before, self.view.kernel.config)
        lost = [fault for fault in faults if fault.problem == "dependency-missing"]
        what = "symbols and their CRCs" if self.view.is_versioned else "symbols"
        said = ", ".join(sorted(before)) or "nothing"
        matching = f"{len(exported)} of {len(wanted)} {what} match"
        finding.add("symbols", [fault for fault in faults if fault not in lost], matching)
        finding.add("dependencies", lost, f"{said} is loaded before it")

    def _provider(self, parsed: Parsed, options: str, parts: Mapping[Path, Parsed]) -> tuple[list[Fault], list[Fault]]:
        """Return what keeps a module that is not ours from loading, and what may. parts: what is loaded with it."""
        known = self.providers.get((parsed.path, options))
        if known is None:
            view, name, contents = self.view, parsed.name, parsed.contents
            found, _ = loader.check(name, parsed.shape, view.reference, view.kernel.release)
            unsigned, doubts = self._signature(parsed)
            found += unsigned
            found += find_magic_faults(view, name, contents)
            found += bootline.refusals(view.kernel, name, parsed.shape)
            found += find_option_faults(view, name, parsed, options)[0]
            if view.symvers is not None:
                exported = view.find_exports(symbols.needed(contents), parts.values())
                before = {part.name for part in parts.values()}
                found += symbols.check_symbols(name, contents, exported, before, view.kernel.config)
            known = self.providers[parsed.path, options] = (found, doubts)
        return known

    def _signature(self, parsed: Parsed) -> tuple[list[Fault], list[Fault]]:
        """Return why the kernel refuses a module that is not ours for its signature, and why it may.

        The certificates that it trusts are in the kernel and in the firmware. Only this can be determined: whether it
        has the signer of the kernel's own modules, or ours, which is judged by itself; not what was signed.
        """
        name, signed, demand = parsed.name, parsed.signed, self.view.demand
        if signed.damage:
            return [Fault("signature-invalid", f"{name}: {signed.damage}", DAMAGED)], []
        if demand == Demand() or not self.view.kernel.signature_hash:
            return [], []
        if not signed.signature:
            fault = Fault("signature-missing", f"{name} is not signed", OTHERS)
        else:
            signer = cms.find_signer(signed.signature)
            ours = bool(self.certificate) and bool(signer) and cms.is_by(signed.signature, self.certificate)
            if ours or (signer and signer == self.view.signer):
                return [], []
            fault = Fault("signature-foreign", f"{name} is signed by another key than the kernel's own modules", OTHERS)
        own = parsed.path.is_relative_to(self.view.directory / KERNELS_OWN)
        if demand.enforced and (not signed.signature or (own and self.view.signer)):
            return [Fault(fault.problem, f"{fault.message}, which it must be ({demand.enforced})", fault.hint)], []
        why = demand.doubt or "whether the kernel trusts that key is not known here"
        return [], [Fault(fault.problem, f"whether it loads cannot be determined: {fault.message}; {why}", fault.hint)]


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
