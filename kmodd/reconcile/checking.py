"""Verifies what is installed: the question about each target, and whether its kernel takes what kmodd signs.

Must not: change anything, or decide what follows from a finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from ..errors import Problem
from ..files import find_accident
from ..model import Check, Demand, Fault, Kernel, Signer, Target
from ..modulefile import canonical
from ..paths import Sysroot
from ..record import Installed, TargetRecord
from ..registry import Registry
from ..trust import TrustReader
from ..verify import Question, Verifier


@dataclass(frozen=True)
class Key:
    """The key that signs, as checks need it. published: its certificate's file."""

    signer: Signer
    published: Path


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel takes what is signed, or not signed, as it is: a check without an object's name."""

    outcome: str
    message: str
    problem: str = ""
    hint: str = ""

    def check(self, name: str) -> Check:
        return Check(name, "trust", self.outcome, self.message, self.problem, self.hint)


class Checker:
    """Makes the checks of one look at a root. demands: of signatures, by release."""

    def __init__(self, sysroot: Sysroot, verifier: Verifier, trust: TrustReader, key: Key) -> None:
        self.sysroot = sysroot
        self.verifier = verifier
        self.trust = trust
        self.key = key
        self.demands: dict[str, Demand] = {}
        self._trusted: dict[tuple[str, bool], Verdict] = {}

    async def check(
        self,
        registry: Registry,
        kernels: Mapping[str, Kernel],
        records: Mapping[Target, TargetRecord],
        damaged: Mapping[Target, str],
    ) -> dict[Target, tuple[Check, ...]]:
        """Verify what is installed and undamaged, on kernels whose modules.dep is up to date."""
        certificate, unsigned = self._certificate()
        questions = []
        omitted: dict[Target, tuple[Check, ...]] = {}
        trust: dict[Target, tuple[Check, ...]] = {}
        for target, record in sorted(records.items()):
            kernel, module = kernels.get(target.kernel), registry.modules.get(target.module)
            if not kernel or not kernel.present or not record.installed or target in damaged or kernel.depmod_stale:
                continue
            objects = record.installed.objects
            if not objects:
                continue
            present = all(item.signer == self.key.signer.identity for item in objects)
            demand, doubt = self._demand(kernel)
            question = Question(
                target,
                kernel,
                record.installed,
                at_boot=tuple(canonical(name) for name in module.file.load.at_boot) if module else (),
                # a former key's work is only compared with the record
                certificate=certificate if present else b"",
                unsigned=unsigned if present else "it was signed by a former key",
                demand=demand,
            )
            questions.append(question)
            trusted = doubt or await self._trust(kernel, present or all(item.signer for item in objects))
            told = trusted.outcome != "passed" or self.verifier.anew
            omitted[target] = _omission(kernel, record.installed)
            trust[target] = (trusted.check(objects[0].name),) if told else ()
        changed = {
            item.path: text
            for target, text in damaged.items()
            for item in (records[target].installed or Installed()).objects
        }
        found = await self.verifier.examine(questions, changed)
        return {target: (*omitted[target], *found[target], *trust[target]) for target in found}

    def _certificate(self) -> tuple[bytes, str]:
        """Return our certificate (DER), empty where signatures are not looked at, and why."""
        try:
            return (
                self.key.published.read_bytes() if self.key.signer.identity else b"",
                "there is no key to compare with",
            )
        except OSError as error:
            return b"", f"{self.sysroot.inside(self.key.published)} cannot be read: {error.strerror}"

    def _demand(self, kernel: Kernel) -> tuple[Demand, Optional[Verdict]]:
        """Return what a kernel demands; where that could not be looked at now, the outcome of its check of trust."""
        if kernel.release not in self.demands:
            try:
                self.demands[kernel.release] = self.trust.demand(kernel)
            except OSError as error:
                return Demand(doubt="it could not be looked at"), _interrupted(error)
        return self.demands[kernel.release], None

    async def _trust(self, kernel: Kernel, signed: bool) -> Verdict:
        """Return whether a kernel takes what is signed by us, or was installed unsigned; asked once for each."""
        known = self._trusted.get((kernel.release, signed))
        if known is None:
            known = self._trusted[kernel.release, signed] = await self._ask(kernel, signed)
        return known

    async def _ask(self, kernel: Kernel, signed: bool) -> Verdict:
        demand = self.demands[kernel.release]
        try:
            fault, outcome = await self.trust.find_fault(kernel, demand, self.key.signer, self.key.published, signed)
        except (Problem, OSError) as error:
            return _interrupted(error)
        if fault is not None:
            return Verdict(outcome, fault.message, fault.problem, fault.hint)
        why = demand.enforced
        said = f"the kernel trusts kmodd's key, which it must ({why})" if why else "any signature will do"
        return Verdict(outcome, said)


def _interrupted(error: Exception) -> Verdict:
    fault = unread("whether the kernel trusts kmodd's key", error)
    return Verdict("interrupted", fault.message, "check-interrupted", fault.hint)


def _omission(kernel: Kernel, installed: Installed) -> tuple[Check, ...]:
    """Return what is wrong with objects that depmod does not list."""
    start = len(f"/lib/modules/{kernel.release}/")
    found = []
    for item in installed.objects:
        if item.path[start:] in kernel.omitted:
            text = f"depmod does not list {item.path}, so that modprobe does not find it"
            hint = "look for search and exclude in depmod.d(5), and at what depmod -n says"
            fault = Fault("depmod-omits", text, hint)
            found.append(Check(item.name, "depmod", "failed", fault.message, fault.problem, fault.hint))
    return tuple(found)


def harden(checks: Mapping[Target, Sequence[Check]]) -> dict[Target, tuple[Check, ...]]:
    """Return checks as verify.strict has them: what cannot be told counts as failed."""
    return {
        target: tuple(replace(check, outcome="failed") if check.outcome == "untold" else check for check in made)
        for target, made in checks.items()
    }


def unread(what: str, error: Exception) -> Fault:
    """Return the fault that something could not be looked at."""
    said = find_accident(error) or str(error)
    return Fault("look-interrupted", f"{what} could not be looked at: {said}", "kmodd looks again by itself")
