"""The checks of one object by itself: the file, its options, its name to modprobe, its signature.

Must not: compare it with other targets' objects, or read what the kernel view has.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Check, Fault
from ..system.files import find_accident
from . import bootline, elf, loader, parameters, signature, symbols
from .dependants import find_breach, find_dependants
from .finding import DAMAGED, Finding, Question
from .kernelview import KernelView, Parsed
from .probe import module_name

#: In-root path -> the file's state and our certificate, and what was wrong with the signature.
Signed = dict[str, tuple[object, list[Fault]]]


class ObjectChecks:
    """Checks objects of one kernel, one at a time. signed: what is known of unchanged files' signatures."""

    def __init__(self, view: KernelView, signed: Signed) -> None:
        self.view = view
        self.sysroot = view.sysroot
        self.probe = view.probe
        self.kernel = view.kernel
        self.signed = signed

    async def check(self, finding: Finding, question: Question, signed: bool) -> None:
        real = self.sysroot.resolve(finding.path)
        finding.parsed = parsed = await self.view.parse(real)
        name, shape, contents = finding.name, parsed.shape, parsed.contents
        faults, doubts = await asyncio.to_thread(loader.check, name, shape, self.view.reference, self.kernel.release)
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
        if not self.view.reference.magic:
            text = "the kernel has no module of its own to compare with"
            finding.checks.append(Check(finding.name, "vermagic", "skipped", text))
            return
        finding.add(
            "vermagic", find_magic_faults(self.view, finding.name, contents), contents.first("vermagic").strip()
        )

    def _add_options(self, finding: Finding, parsed: Parsed) -> None:
        refused, others = find_option_faults(self.view, finding.name, parsed, finding.resolution.options)
        finding.add("options", refused, finding.resolution.options or "none")
        finding.add_doubts("options", [f for f in others if f.problem == "parameter-unknown"], "warning")
        finding.add_doubts("options", [f for f in others if f.problem != "parameter-unknown"])

    async def _add_dependants(self, finding: Finding, contents: elf.Contents, real: Path) -> None:
        """Check that the kernel's own modules find in an object what they found in the one that it replaces."""
        name, dependants = finding.name, find_dependants(self.sysroot, self.view.directory, real)
        finding.beyond += dependants
        found = []
        for path in dependants:
            try:
                other = (await self.view.parse(path)).contents
            except (Problem, OSError, ValueError) as error:
                if find_accident(error):
                    raise
                continue  # it would not load with the kernel's own either
            before = symbols.look_up(self.view.symvers, other.needs)
            breach = find_breach(other, name, contents.exports, before, self.view.is_versioned)
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


def find_magic_faults(view: KernelView, name: str, contents: elf.Contents) -> list[Fault]:
    """Return what is wrong with a module's vermagic."""
    magic, theirs = contents.first("vermagic"), view.reference.magic
    if "vermagic" not in contents.info and symbols.is_forcible(view.kernel.config):
        return []
    if not theirs or symbols.is_same_magic(magic, theirs, view.is_versioned and contents.versioned):
        return []
    text = f"{name} was built for another kernel: vermagic {magic.strip()!r} instead of {theirs.strip()!r}"
    return [Fault("vermagic-mismatch", text, DAMAGED)]


def find_option_faults(view: KernelView, name: str, parsed: Parsed, given: str) -> tuple[list[Fault], list[Fault]]:
    """Return what of its options a module refuses, and what may be wrong with them."""
    table = parameters.read(parsed.shape)
    lines = bootline.options(view.kernel, name, given, view.own_line)
    found = [parameters.check(name, parsed.contents, options, table) for options in lines]
    refused = [fault for faults, _ in found for fault in faults]
    others = [fault for _, faults in found for fault in faults]
    if not all(faults for faults, _ in found):  # only with some of the command lines that it may get
        others += [Fault("command-line-unknown", fault.message, fault.hint) for fault in refused]
        refused = []
    return list(dict.fromkeys(refused)), list(dict.fromkeys(others))
