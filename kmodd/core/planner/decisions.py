"""What is to become of one target: the numbered rules, tried in order (planner). Pure: no I/O, no clock, no asyncio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Optional, Union

from ..actions import BuildModule, InstallModule, Wait
from ..model import CHANGED, UNREAD, Fault, Kernel, Policy, Snapshot, Target, Unseen, fingerprint
from ..modulefile import Module, canonical
from ..record import Attempt, TargetRecord
from ..remedy import find_remedy
from .exclusion import find_exclusion
from .reasons import find_installation, find_owners, why_build

#: What is wrong with inputs that somebody is to provide.
WAITED_FOR = ("depends-not-ready", "kernel-source-missing", "kernel-source-unknown", UNREAD)
#: What had all the time that it may have: it is tried again after a pause, and has failed until then.
OVERDUE = ("dkms-conf-timeout",)

FIRST_KEY = "signing-key-absent"  # no key was ever made here: the first installation makes one


@dataclass(frozen=True)
class Excluded:
    """fault: why what is built is not installed; it is kept, and what depends on the module is built with it."""

    reason: str
    fault: Optional[Fault] = None
    rule: int = 1


@dataclass(frozen=True)
class Failed:
    fault: Fault
    rule: int = 2


@dataclass(frozen=True)
class Unknown:
    """What is to become of a target cannot be determined, since something of it could not be read."""

    seen: Unseen
    rule: int = 3


@dataclass(frozen=True)
class Settled:
    note: str = ""
    rule: int = 7


Decision = Union[BuildModule, InstallModule, Wait, Excluded, Failed, Unknown, Settled]


class Deciding:
    """Decides on the targets of one snapshot; decisions are kept since dependants ask for those of their dependencies.

    now: seconds since the epoch.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy, now: float) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.now = now
        self.decided: dict[Target, Decision] = {}
        self.identified: dict[Target, Optional[dict[str, str]]] = {}
        self.owners = find_owners(snapshot)

    def decide(self, target: Target) -> Decision:
        if target not in self.decided:
            self.decided[target] = Failed(
                Fault("depends-cycle", f"{target.module} depends on itself through build.depends", "break the cycle")
            )
            self.decided[target] = self._rules(target)
        return self.decided[target]

    def _rules(self, target: Target) -> Decision:
        module, kernel = self.snapshot.modules[target.module], self.snapshot.kernels[target.kernel]
        record = self.snapshot.of(target).record
        if not module.enabled:
            return Excluded("module.enabled is false")
        exclusion = find_exclusion(module.file.kernels, kernel)
        if exclusion:
            return Excluded(exclusion)
        unseen = self.snapshot.of(target).unseen
        if unseen is not None and self.snapshot.of(target).input_fault is None:
            return Unknown(unseen)
        recipe = self.snapshot.of(target).recipe
        if recipe and recipe.excluded:
            return Excluded(f"{recipe.excluded}: dkms.conf")
        after: list[Target] = []
        unready: Optional[Decision] = None
        for name in self.snapshot.depends(target):
            found = self._dependency(target, name)
            if isinstance(found, Target):
                after.append(found)
            elif found is not None and (unready is None or isinstance(found, Failed)):
                unready = found  # what can never be met outweighs what is only waited for
        if isinstance(unready, (Failed, Unknown)):
            return unready
        inputs = self.inputs(target)
        if inputs is None:
            return self._without_inputs(target, kernel, record, unready)
        if record is None or record.built is None or record.built.inputs != inputs or record.asked:
            reason = why_build(record, inputs)
            return self._retry(target, record, "build", inputs) or unready or self._build(target, reason, inputs, after)
        return self._installation(target, kernel, record, inputs, after)

    def _build(self, target: Target, reason: str, inputs: Mapping[str, str], after: list[Target]) -> BuildModule:
        return BuildModule(target, reason, dict(inputs), tuple(after))

    def _dependency(self, target: Target, name: str) -> Union[Target, Decision, None]:
        """Return the target to be built before, a decision that stands in the way, or None if it is built."""
        module, dependency = target.module, Target(name, target.kernel)
        if name not in self.snapshot.modules:
            unread = next((b for b in self.snapshot.broken if b.fault.problem == UNREAD), None)
            if unread is not None and (unread.whole or unread.name == name):
                return Wait(target, f"needs {name}: {unread.fault.message}", UNREAD)
            broken = any(b.name == name for b in self.snapshot.broken)
            why = "whose module file is broken" if broken else "which is not registered"
            return Failed(Fault("depends-unknown", f"{module} depends on {name}, {why}", f"kmoddctl add {name}"))
        decision = self.decide(dependency)
        if isinstance(decision, BuildModule):
            return dependency
        if isinstance(decision, Excluded) and decision.fault is None:
            text = f"{module} depends on {name}, which is excluded: {decision.reason}"
            return Failed(Fault("depends-excluded", text))
        if isinstance(decision, Failed) and decision.fault.problem == "depends-cycle":
            return Failed(Fault("depends-cycle", f"{module} and {name} depend on each other", "break the cycle"))
        if isinstance(decision, Unknown):
            seen = decision.seen
            return Unknown(replace(seen, fault=replace(seen.fault, message=f"needs {name}: {seen.fault.message}")))
        if isinstance(decision, (Failed, Wait)):
            why = decision.fault.message if isinstance(decision, Failed) else decision.reason
            return Wait(target, f"needs {name}, which is not built: {why}", "depends-not-ready", rule=2)
        return None

    def _without_inputs(
        self, target: Target, kernel: Kernel, record: Optional[TargetRecord], unready: Optional[Decision]
    ) -> Decision:
        """Decide where the source or the build tree is gone: what is installed stays, and is judged by verify."""
        fault = kernel.build_tree_fault or self.snapshot.of(target).input_fault
        if fault is None and isinstance(unready, Wait):
            fault = unready.fault
        if fault is None:
            fault = Fault("depends-not-ready", "the inputs of a module that it depends on are unknown")
        if record and record.built and record.installed:
            if self.snapshot.of(target).store_damaged:
                return Settled()
            decision = self._installation(target, kernel, record, record.built.inputs, [])
            return Settled(f"installed; {fault.message}") if isinstance(decision, Settled) else decision
        unseen = self.snapshot.of(target).unseen
        if unseen is not None and fault.problem not in OVERDUE:
            return Unknown(unseen)
        if kernel.build_tree_fault is not None or fault.problem in WAITED_FOR:
            remedy = find_remedy(fault.problem, kernel.release, kernel.source_package)
            rule = 2 if fault.problem == "depends-not-ready" else 3
            return Wait.of(target, fault, remedy=remedy, rule=rule)
        return Failed(fault, 3)

    def _installation(
        self, target: Target, kernel: Kernel, record: TargetRecord, inputs: Mapping[str, str], after: list[Target]
    ) -> Decision:
        assert record.built is not None
        wanted, installed = self.snapshot.of(target).wanted, record.installed
        gone = installed is None or not (installed.objects or installed.superseded)
        if record.built.objects and not wanted and gone:
            reason = "; ".join(self.snapshot.of(target).left.values())
            hint = f"dkms.force_version_override = [{json.dumps(target.module)}] in kmodd.toml installs it all the same"
            return Excluded(reason, Fault("kernel-has-newer", reason, hint))
        for built in wanted:
            owner = self.owners[target.kernel].get(canonical(built.name), target.module)
            if owner != target.module:
                text = f"{target.module} and {owner} both yield {built.name}.ko"
                hint = "name the objects to install with [[object]] in one of the two module files"
                return Failed(Fault("object-collision", text, hint), 6)
        action = find_installation(target, record, self.snapshot)
        if action is None:
            return Settled()
        mine = {item.built for item in installed.objects} if installed else set()  # what is there already stays
        for built in self.snapshot.unlisted(target):
            if built.sha256 not in mine:
                return Failed(in_tree_fault(built.name, self.snapshot.modules[target.module]), 6)
        if self.snapshot.of(target).store_damaged:
            return self._build(target, "its stored objects were lost", inputs, after)
        signer = self.snapshot.signer
        if kernel.signature_hash and signer.fault is not None and signer.fault.problem != FIRST_KEY:
            return Failed(signer.fault, 6)
        blocked = self._retry(target, record, "install", self.install_inputs(target))
        return blocked or action

    def _retry(
        self, target: Target, record: Optional[TargetRecord], stage: str, inputs: Mapping[str, str]
    ) -> Optional[Decision]:
        """Return what a failed attempt with the same inputs forbids now, or None."""
        attempt = record.attempt if record and not record.asked else None
        if attempt is None or attempt.outcome != "failed" or attempt.stage != stage:
            return None
        restless = attempt.problem == CHANGED and attempt.failures > 1  # else it would be copied again and again
        if attempt.inputs != inputs and not restless:
            return None
        if not attempt.transient:
            return Failed(attempt.fault, 4)
        until = self.until(attempt)
        is_asked_for = attempt.ended < self.policy.retry_now <= self.now  # a clock that was set back asks for nothing
        if self.now >= until or is_asked_for:
            return None
        return Wait.of(target, attempt.fault, until, rule=4)

    def until(self, attempt: Attempt) -> float:
        """Return when a failed attempt may be repeated, seconds since the epoch."""
        return self.policy.until(attempt, self.now)

    # -- inputs and reasons ----------------------------------------------------------------------------------------
    def inputs(self, target: Target) -> Optional[dict[str, str]]:
        """Return what identifies a build of a target, its dependencies' identities included; None if unknown."""
        if target not in self.identified:
            self.identified[target] = None  # what depends on itself has none
            self.identified[target] = self._identify(target)
        return self.identified[target]

    def _identify(self, target: Target) -> Optional[dict[str, str]]:
        own = self.snapshot.of(target).inputs
        if own is None:
            return None
        inputs = dict(own)
        for name in self.snapshot.depends(target):
            needed = self.inputs(Target(name, target.kernel)) if name in self.snapshot.modules else None
            if needed is None:
                return None
            inputs[f"depends:{name}"] = fingerprint(needed)
        return inputs

    def install_inputs(self, target: Target) -> dict[str, str]:
        """Return what identifies an installation, beyond which a failed one is not repeated."""
        return install_inputs(target, self.snapshot)


def in_tree_fault(name: str, module: Module) -> Fault:
    """Return why an object is not installed over the kernel's own of that name, which nobody asked for."""
    text = f"the build yielded {name}.ko, and the kernel has a module {canonical(name)} of its own"
    hint = f"if ours is to take its place, add to {module.path}: [[object]] name = {json.dumps(name)}"
    return Fault("object-in-tree", text, hint)


def install_inputs(target: Target, snapshot: Snapshot) -> dict[str, str]:
    """Return what identifies an installation: what was built, the signer's state, the compression."""
    record, kernel = snapshot.of(target).record, snapshot.kernels[target.kernel]
    built = fingerprint(record.built.inputs) if record and record.built else ""
    signer = snapshot.signer.state if kernel.signature_hash else ""
    return {"built": built, "signer": signer, "compression": kernel.compression}
