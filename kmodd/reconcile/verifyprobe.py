"""Verifies what is installed: the question about each target, and whether its kernel takes what kmodd signs.

Must not: change anything, or decide what follows from a finding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Check, Demand, Fault, Kernel, Signer, Target
from ..core.modulefile import canonical
from ..core.record import Installed
from ..core.sysroot import Sysroot
from ..host.trust import TrustReader
from ..verify import Question, Verifier
from .observation import Observation, unread


@dataclass(frozen=True)
class Key:
    """The key that signs, as checks need it. published: its certificate's file."""

    signer: Signer
    published: Path


@dataclass(frozen=True)
class Acceptance:
    """Whether a kernel takes what is signed, or not signed, as it is: a check without an object's name."""

    outcome: str
    message: str
    problem: str = ""
    hint: str = ""

    def check(self, name: str) -> Check:
        return Check(name, "trust", self.outcome, self.message, self.problem, self.hint)


class Checker:
    """Makes the checks of one pass. demands: of signatures, by release."""

    def __init__(self, sysroot: Sysroot, verifier: Verifier, trust: TrustReader, key: Key) -> None:
        self.sysroot = sysroot
        self.verifier = verifier
        self.trust = trust
        self.key = key
        self.demands: dict[str, Demand] = {}
        self._trusted: dict[tuple[str, bool], Acceptance] = {}

    async def fill(self, seen: Observation, strict: bool) -> None:
        """Fill checks of what is installed and undamaged, also where modules.dep is stale.

        strict: what cannot be determined counts as failed.
        """
        certificate, unsigned = self._certificate()
        questions = []
        before: dict[Target, tuple[Check, ...]] = {}  # what is why modprobe would find nothing comes first
        behind: dict[Target, tuple[Check, ...]] = {}
        for target, row, record in seen.recorded():
            kernel, module = seen.kernels.get(target.kernel), seen.registry.modules.get(target.module)
            objects = record.installed.objects if record.installed else ()
            if not kernel or not kernel.present or not objects or row.damage is not None:
                continue
            assert record.installed is not None
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
            before[target] = _omission(kernel, record.installed)
            behind[target] = (trusted.check(objects[0].name),) if told else ()
        changed = {
            item.path: row.damage.text
            for _, row, record in seen.recorded()
            if row.damage is not None
            for item in (record.installed or Installed()).objects
        }
        for target, found in (await self.verifier.examine(questions, changed)).items():
            checks = (*before[target], *found, *behind[target])
            seen.rows[target].checks = tuple(map(_harden, checks)) if strict else checks

    def _certificate(self) -> tuple[bytes, str]:
        """Return our certificate (DER), empty where signatures are not checked, and why."""
        try:
            return (
                self.key.published.read_bytes() if self.key.signer.identity else b"",
                "there is no key to compare with",
            )
        except OSError as error:
            return b"", f"{self.sysroot.inside(self.key.published)} cannot be read: {error.strerror}"

    def _demand(self, kernel: Kernel) -> tuple[Demand, Optional[Acceptance]]:
        """Return what a kernel demands; where that could not be read now, the outcome of its check of trust."""
        if kernel.release not in self.demands:
            try:
                self.demands[kernel.release] = self.trust.demand(kernel)
            except OSError as error:
                return Demand(doubt="it could not be read"), _interrupted(error)
        return self.demands[kernel.release], None

    async def _trust(self, kernel: Kernel, signed: bool) -> Acceptance:
        """Return whether a kernel takes what is signed by us, or was installed unsigned; asked once for each."""
        known = self._trusted.get((kernel.release, signed))
        if known is None:
            known = self._trusted[kernel.release, signed] = await self._ask(kernel, signed)
        return known

    async def _ask(self, kernel: Kernel, signed: bool) -> Acceptance:
        demand = self.demands[kernel.release]
        try:
            fault, outcome = await self.trust.find_fault(kernel, demand, self.key.signer, self.key.published, signed)
        except (Problem, OSError) as error:
            return _interrupted(error)
        if fault is not None:
            return Acceptance(outcome, fault.message, fault.problem, fault.hint)
        why = demand.enforced
        said = f"the kernel trusts kmodd's key, which it must ({why})" if why else "any signature will do"
        return Acceptance(outcome, said)


def _interrupted(error: Exception) -> Acceptance:
    fault = unread("whether the kernel trusts kmodd's key", error)
    return Acceptance("interrupted", fault.message, "check-interrupted", fault.hint)


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


def _harden(check: Check) -> Check:
    """Return a check as verify.strict has it: what cannot be determined counts as failed."""
    return replace(check, outcome="failed") if check.outcome == "untold" else check
