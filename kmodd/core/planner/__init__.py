"""From a snapshot to the actions that are due and the verdicts that hold. Pure: no I/O, no clock, no asyncio.

The rules of a target are tried in order, cheapest first:
 1. a kernel that is gone, a module that is unregistered or excluded: what was installed is removed;
 2. what it depends on must be registered, without a cycle, and be built before it;
 3. without a build tree or the kernel's source RPM it waits, unless what is installed was built already;
 4. what failed with these very inputs is not tried again; what failed for a passing reason is, after a pause;
 5. built with other inputs, or never, or to be built again as was asked for: build;
 6. not installed as it was built, or signed by another key, or changed on disk: install;
 7. then whatever verify found wrong decides;
 8. but while modules.dep is stale only what verify proves all the same is ready, since depmod is to run first.
What is ready and stale in memory is reloaded when nothing else is due for that kernel (reloading).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional, Union

from ..actions import (
    Action,
    BuildModule,
    InstallModule,
    ReloadModule,
    RemoveDropin,
    RemoveModule,
    RunDepmod,
    Wait,
    WriteDropin,
)
from ..dropincontent import dropins
from ..model import Dropin, Fault, Judgement, Policy, Snapshot, Target, Verdict, worst
from ..modulefile import canonical
from ..record import TargetRecord
from ..reloadplan import Reloading
from .decisions import (
    FIRST_KEY,
    Deciding,
    Excluded,
    Failed,
    Settled,
    in_tree_fault,
    install_inputs,
)
from .exclusion import find_exclusion
from .guard import Guarding
from .judging import Judging
from .ordering import in_order
from .reasons import INPUT_WORDS
from .schedule import longest_first

__all__ = (
    "FIRST_KEY",
    "INPUT_WORDS",
    "RULES",
    "find_exclusion",
    "find_refusals",
    "find_repeatable",
    "install_inputs",
    "judge",
    "judge_kernel",
    "make_guarding",
    "plan",
)

#: The rules above, as the story of a target quotes them.
RULES = {
    1: "a module that is disabled, or that its rules exclude from a kernel, is not built for it",
    2: "what a module depends on is built before it",
    3: "without its source or the kernel's build tree it cannot be built; what is installed stays",
    4: "what failed is not tried again with the same inputs, or after a pause where the failure may pass by itself; "
    "kmoddctl rebuild tries it at once",
    5: "what was never built, or with other inputs, or is asked for again, is built",
    6: "what is not installed as it was built is installed",
    7: "what the checks of the installed files find decides",
    8: "while modules.dep is stale, or depmod failed, only what the checks prove all the same is ready",
}


def plan(snapshot: Snapshot, policy: Policy, now: float) -> tuple[Action, ...]:
    """Return what is due, in an order in which it can be applied. now: seconds since the epoch."""
    return _Planning(snapshot, policy, now).actions()


def judge(snapshot: Snapshot, policy: Policy, now: float) -> dict[Target, Judgement]:
    """Return the verdict of every target of the kernels that are present."""
    return Judging(snapshot, Deciding(snapshot, policy, now)).judgements()


def judge_kernel(release: str, snapshot: Snapshot, judgements: Mapping[Target, Judgement]) -> Judgement:
    """Return the verdict of a kernel: the worst of its required modules."""
    required = []
    for target, judgement in sorted(judgements.items()):
        module = snapshot.modules.get(target.module)
        if target.kernel == release and (module is None or module.required):
            reason = judgement.reason if judgement.verdict is Verdict.READY else f"{target.module}: {judgement.reason}"
            required.append(Judgement(judgement.verdict, reason, judgement.problem, judgement.hint))
    found = worst(required)
    ready = sum(j.verdict is Verdict.READY for j in required)
    if found.verdict is Verdict.READY and ready:
        return Judgement(Verdict.READY, f"{ready} required module{'s' if ready > 1 else ''} ready")
    return found


def find_repeatable(snapshot: Snapshot, module: Optional[str], kernel: Optional[str]) -> list[Target]:
    """Return what can be built again: a module whatever came of it, or, without a name, what failed."""
    present = {found.release for found in snapshot.present()}
    return [
        target
        for target, record in sorted(snapshot.records.items())
        if target.module in snapshot.modules and target.kernel in present
        if module in (None, target.module) and kernel in (None, target.kernel)
        if record.attempt is not None and (module is not None or record.attempt.outcome == "failed")
    ]


def find_refusals(target: Target, snapshot: Snapshot) -> list[Fault]:
    """Return why what is installed of a target would be refused if it were built anew."""
    module, record = snapshot.modules.get(target.module), snapshot.of(target).record
    if module is None or record is None or record.installed is None:
        return []
    installed = {canonical(item.name) for item in record.installed.objects}
    return [in_tree_fault(item.name, module) for item in snapshot.unlisted(target) if canonical(item.name) in installed]


def make_guarding(snapshot: Snapshot, policy: Policy, now: float, judgements: Mapping[Target, Judgement]) -> Guarding:
    """Return how kernels stand with the boot loader, and what is due for that."""
    kernels = {kernel.release: judge_kernel(kernel.release, snapshot, judgements) for kernel in snapshot.present()}
    return Guarding(snapshot, policy, now, judgements, kernels)


class _Planning:
    """Plans for one snapshot."""

    def __init__(self, snapshot: Snapshot, policy: Policy, now: float) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.now = now
        self.deciding = Deciding(snapshot, policy, now)
        self.reloading = Reloading(snapshot, Judging(snapshot, self.deciding).is_ready)

    def actions(self) -> tuple[Action, ...]:
        decisions = [self.deciding.decide(target) for target in in_order(self.snapshot)]
        removals = self._removals()
        builds = longest_first([d for d in decisions if isinstance(d, BuildModule)], self.snapshot)
        installs = [d for d in decisions if isinstance(d, InstallModule)]
        installs += [InstallModule(build.target, "once it is built") for build in builds]
        files = self._dropins({action.target.module for action in installs})
        waits = [d for d in decisions if isinstance(d, Wait)] + self._waits_for_reading()
        depmods, depmod_waits = self._depmods(installs, removals, files)
        busy = {action.subject.kernel for action in (*builds, *installs, *removals, *depmods)}
        reloads = [] if files else self._reloads(busy)
        judgements = Judging(self.snapshot, self.deciding).judgements()
        boot = make_guarding(self.snapshot, self.policy, self.now, judgements).actions(busy)
        found: list[Action] = [
            *removals, *builds, *installs, *files, *depmods, *boot, *reloads, *waits, *depmod_waits,
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda action: action.phase))

    def _waits_for_reading(self) -> list[Wait]:
        """Return waits for what could not be read, and is read again."""
        found = ((target, row.unseen or row.unchecked) for target, row in sorted(self.snapshot.targets.items()))
        return [
            Wait.of(target, seen.fault, seen.until)
            for target, seen in found
            if seen is not None
            if not isinstance(self.deciding.decided.get(target, Excluded("")), Excluded)
        ]

    # -- whole modules and kernels ---------------------------------------------------------------------------------
    def _protected(self, module: str, record: Optional[TargetRecord]) -> bool:
        """Tell whether a module's file is broken, so that nothing of it may go."""
        file = record.module_file if record else ""
        return any(b.whole or b.name == module or (file and file == b.path) for b in self.snapshot.broken)

    def _removals(self) -> list[RemoveModule]:
        removals = []
        skipped = {item.name for item in self.snapshot.skipped}  # may be a kernel all the same
        for target, record in sorted(self.snapshot.records.items()):
            kernel, module = self.snapshot.kernels.get(target.kernel), self.snapshot.modules.get(target.module)
            if target.kernel in skipped:
                continue
            if kernel is None or not kernel.present:
                removals.append(RemoveModule(target, "the kernel was removed"))
            elif module is None:
                if not self._protected(target.module, record):
                    removals.append(RemoveModule(target, "the module is no longer registered"))
            elif record.built or record.installed:
                decision = self.deciding.decide(target)
                if isinstance(decision, Excluded) and decision.fault is None:
                    removals.append(RemoveModule(target, decision.reason))
        return removals

    def _dropins(self, installing: set[str]) -> list[Union[WriteDropin, RemoveDropin]]:
        wanted: dict[tuple[str, str], Dropin] = {}
        for name, module in sorted(self.snapshot.modules.items()):
            overrides: dict[str, set[str]] = {}
            installed = name in installing
            for kernel in self.snapshot.present():
                target = Target(name, kernel.release)
                record = self.snapshot.of(target).record
                if record is None or not record.built or isinstance(self.deciding.decide(target), Excluded):
                    continue
                installed = installed or record.installed is not None
                if isinstance(self.deciding.decide(target), Failed) and record.installed is None:
                    continue
                shadowed = {o.name for o in self.snapshot.of(target).wanted if canonical(o.name) in kernel.in_tree}
                if shadowed:
                    overrides[kernel.release] = shadowed
            if installed and module.enabled:
                wanted.update({(d.kind, d.module): d for d in dropins(module, overrides)})
        actions: list[Union[WriteDropin, RemoveDropin]] = []
        there = {(d.kind, d.module): d for d in self.snapshot.dropins}
        for key, dropin in there.items():
            if key not in wanted and not self._protected(dropin.module, None):
                if any(r.module_file in {b.path for b in self.snapshot.broken}
                       for t, r in self.snapshot.records.items() if t.module == dropin.module):  # fmt: skip
                    continue
                actions.append(RemoveDropin(dropin, "no longer wanted"))
        for key, dropin in wanted.items():
            if key not in there:
                actions.append(WriteDropin(dropin, "is missing"))
            elif there[key] != dropin:
                actions.append(WriteDropin(dropin, "says something else"))
        return actions

    def _depmods(
        self,
        installs: list[InstallModule],
        removals: list[RemoveModule],
        files: list[Union[WriteDropin, RemoveDropin]],
    ) -> tuple[list[RunDepmod], list[Wait]]:
        depmods, waits = [], []
        for kernel in self.snapshot.present():
            release = kernel.release
            reason = ""
            if any(a.target.kernel == release for a in installs):
                reason = "objects are installed"
            elif any(a.target.kernel == release for a in removals):
                reason = "objects are removed"
            elif any(a.dropin.kernels is None or release in a.dropin.kernels for a in files):
                reason = "overrides change"
            elif kernel.depmod_stale and any(
                t.kernel == release and r.installed for t, r in self.snapshot.records.items()
            ):
                reason = kernel.depmod_stale
            failure = kernel.failures.get(RunDepmod.kind)
            if failure is not None:
                until = self.deciding.until(failure)
                if self.now < until:
                    waits += [
                        Wait.of(target, failure.fault, until)
                        for target, decision in sorted(self.deciding.decided.items())
                        if target.kernel == release and isinstance(decision, Settled)
                    ]
                    continue
                reason = reason or "the last one failed"
            if reason:
                depmods.append(RunDepmod(release, reason))
        return depmods, waits

    def _reloads(self, busy: set[str]) -> list[Union[ReloadModule, Wait]]:
        """Return what is to be reloaded, and waits for what is in use: nothing tells when it no longer is."""
        hint, until = "it is reloaded once it is unused", self.now + self.policy.retry_longest
        waits = [
            Wait(target, f"is not reloaded: {obstacle.reason}", "module-in-use", hint, until)
            for target, obstacle in self.reloading.obstacles().items()
            if obstacle.passing
        ]
        found: list[Union[ReloadModule, Wait]] = [*self.reloading.actions(), *waits]
        return [action for action in found if action.target.kernel not in busy]
