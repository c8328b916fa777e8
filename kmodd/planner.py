"""From a snapshot to the actions that are due and the verdicts that hold. Pure: no I/O, no clock, no asyncio.

The rules of a target are tried in order, cheapest first:
 1. a kernel that is gone, a module that is unregistered or excluded: what was installed is removed;
 2. what it depends on must be registered, without a cycle, and be built before it;
 3. without a build tree or the kernel's source RPM it waits, unless what is installed was built already;
 4. what failed with these very inputs is not tried again; what failed for a passing reason is, after a pause;
 5. built with other inputs, or never: build;
 6. not installed as it was built, or signed by another key, or changed on disk: install;
 7. then whatever verify found wrong decides.
What is ready and stale in memory is reloaded when nothing else is due for that kernel (reloading).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional, Union

from . import versions
from .loading import dropins
from .model import (
    Action,
    BuildModule,
    Dropin,
    Fault,
    InstallModule,
    Judgement,
    Kernel,
    Policy,
    ReloadModule,
    RemoveDropin,
    RemoveModule,
    RunDepmod,
    Snapshot,
    Target,
    Verdict,
    Wait,
    WriteDropin,
    fingerprint,
    worst,
)
from .modulefile import Kernels, canonical
from .record import Attempt, TargetRecord
from .reloading import Reloading, find_refusal

#: Inputs by the words that a reason uses for them.
INPUT_WORDS = {
    "source": "its source changed",
    "patches": "its patches changed",
    "module": "its module file changed",
    "symvers": "the Module.symvers of others changed",
    "build_tree": "the kernel's configuration or symvers changed",
    "compiler": "the compiler changed",
}

#: The rules above, as the story of a target quotes them.
RULES = {
    1: "a module that is disabled, or that its rules exclude from a kernel, is not built for it",
    2: "what a module depends on is built before it",
    3: "without its source or the kernel's build tree it cannot be built; what is installed stays",
    4: "what failed is not tried again with the same inputs, or after a pause where the failure may pass by itself",
    5: "what was never built, or with other inputs, is built",
    6: "what is not installed as it was built is installed",
    7: "what the checks of the installed files find decides",
}

#: What is wrong with inputs that somebody is to provide.
WAITED_FOR = ("depends-not-ready", "kernel-source-missing", "kernel-source-unknown")

OTHER_KEY = "signed by another key"
SOFT = (OTHER_KEY,)  # reasons to install again although what is installed would load
FIRST_KEY = "signing-key-absent"  # no key was ever made here: the first installation makes one


def plan(snapshot: Snapshot, policy: Policy, now: float) -> tuple[Action, ...]:
    """Return what is due, in an order in which it can be applied. now: seconds since the epoch."""
    return _Planning(snapshot, policy, now).actions()


def judge(snapshot: Snapshot, policy: Policy, now: float) -> dict[Target, Judgement]:
    """Return the verdict of every target of the kernels that are present."""
    return _Planning(snapshot, policy, now).judgements()


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


def find_exclusion(rules: Kernels, kernel: Kernel) -> Optional[str]:
    """Return why the rules of [kernels] exclude a kernel, or None."""
    release = kernel.release
    if rules.match and not any(fnmatch.fnmatchcase(release, glob) for glob in rules.match):
        return f"{release} matches none of kernels.match ({', '.join(rules.match)})"
    for glob in rules.exclude:
        if fnmatch.fnmatchcase(release, glob):
            return f"{release} matches kernels.exclude ({glob})"
    if rules.minimum and versions.compare(release, rules.minimum) < 0:
        return f"{release} is older than kernels.minimum ({rules.minimum})"
    if rules.maximum and versions.compare(release, rules.maximum) > 0:
        return f"{release} is newer than kernels.maximum ({rules.maximum})"
    if rules.architectures and kernel.architecture not in rules.architectures:
        return f"{kernel.architecture} is not in kernels.architectures ({', '.join(rules.architectures)})"
    for wanted in rules.config:
        symbol, unwanted = wanted.lstrip("!"), wanted.startswith("!")
        if (kernel.config.get(symbol) in ("y", "m")) == unwanted:
            return f"the kernel {'has' if unwanted else 'lacks'} {symbol} (kernels.config)"
    return None


@dataclass(frozen=True)
class _Excluded:
    reason: str


@dataclass(frozen=True)
class _Failed:
    fault: Fault
    rule: int = 2


@dataclass(frozen=True)
class _Settled:
    note: str = ""


_Decision = Union[BuildModule, InstallModule, Wait, _Excluded, _Failed, _Settled]


def _rule(decision: _Decision) -> int:
    """Return the number of the rule that a decision follows from."""
    if isinstance(decision, _Failed):
        return decision.rule
    if isinstance(decision, Wait):
        return 4 if decision.until is not None else 2 if decision.problem == "depends-not-ready" else 3
    rules = {_Excluded: 1, BuildModule: 5, InstallModule: 6}
    return rules.get(type(decision), 7)


class _Planning:
    """One planning; decisions are memoised since dependants ask for those of their dependencies."""

    def __init__(self, snapshot: Snapshot, policy: Policy, now: float) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.now = now
        self.decided: dict[Target, _Decision] = {}
        self.identified: dict[Target, Optional[dict[str, str]]] = {}
        self.owners = self._owners()
        self.reloading = Reloading(snapshot, self._is_ready)

    # -- what is asked for -----------------------------------------------------------------------------------------
    def actions(self) -> tuple[Action, ...]:
        decisions = [self._decide(target) for target in self._ordered()]
        removals = self._removals()
        builds = [d for d in decisions if isinstance(d, BuildModule)]
        installs = [d for d in decisions if isinstance(d, InstallModule)]
        installs += [InstallModule(build.target, "once it is built") for build in builds]
        files = self._dropins({action.target.module for action in installs})
        waits = [d for d in decisions if isinstance(d, Wait)]
        depmods, depmod_waits = self._depmods(installs, removals, files)
        busy = {a.target.kernel for a in builds} | {a.target.kernel for a in installs}
        busy |= {a.target.kernel for a in removals} | {a.kernel for a in depmods}
        reloads = [] if files else self._reloads(busy)
        return (*removals, *builds, *installs, *files, *depmods, *reloads, *waits, *depmod_waits)

    def judgements(self) -> dict[Target, Judgement]:
        found = {target: self._judge(target) for target in self._ordered()}
        for broken in self.snapshot.broken:
            for kernel in self._kernels():
                found[Target(broken.name, kernel.release)] = Judgement(
                    Verdict.FAILED, broken.fault.message, broken.fault.problem, broken.fault.hint
                )
        return found

    # -- a target's verdict ----------------------------------------------------------------------------------------
    def _judge(self, target: Target) -> Judgement:
        decision = self._decide(target)
        record = self.snapshot.records.get(target)
        kept = "; the previous build stays installed" if record and record.installed else ""
        if target in self.snapshot.running:
            return Judgement(Verdict.BUILDING, "is being built")
        rule = _rule(decision)
        if isinstance(decision, _Excluded):
            return Judgement(Verdict.EXCLUDED, decision.reason, rule=rule)
        if isinstance(decision, _Failed):
            fault = decision.fault
            return Judgement(Verdict.FAILED, fault.message + kept, fault.problem, fault.hint, rule)
        if isinstance(decision, Wait):
            verdict = Verdict.FAILED if decision.until is not None else Verdict.WAITING
            return Judgement(verdict, decision.reason + kept, decision.problem, decision.hint, rule)
        if isinstance(decision, BuildModule):
            return Judgement(Verdict.BUILDING, f"is to be built: {decision.reason}{kept}", rule=rule)
        if isinstance(decision, InstallModule):
            usable = record and record.installed and target not in self.snapshot.damaged
            if not usable or decision.reason not in SOFT or self.snapshot.faults.get(target):
                return Judgement(Verdict.BUILDING, f"is to be installed: {decision.reason}", rule=rule)
            decision = _Settled(f"installed, and will be again: {decision.reason}")
        attempt = self.snapshot.kernel_attempts.get(target.kernel)
        if attempt is not None and attempt.outcome == "failed":
            return Judgement(Verdict.FAILED, attempt.message, attempt.problem, attempt.hint, 7)
        stale = self.snapshot.kernels[target.kernel].depmod_stale
        if stale:
            return Judgement(Verdict.BUILDING, f"depmod is to run: {stale}", rule=7)
        for fault in self.snapshot.faults.get(target, ()):
            return Judgement(Verdict.BLOCKED, fault.message, fault.problem, fault.hint, 7)
        refusal = find_refusal(target, self.snapshot)
        if refusal is not None:
            return Judgement(Verdict.BLOCKED, refusal.message, refusal.problem, refusal.hint, 7)
        return Judgement(Verdict.READY, decision.note or "built, installed and checked", rule=7)

    def _is_ready(self, target: Target) -> bool:
        return target.module in self.snapshot.modules and self._judge(target).verdict is Verdict.READY

    # -- a target's decision ---------------------------------------------------------------------------------------
    def _decide(self, target: Target) -> _Decision:
        if target not in self.decided:
            self.decided[target] = _Failed(
                Fault("depends-cycle", f"{target.module} depends on itself through build.depends", "break the cycle")
            )
            self.decided[target] = self._rules(target)
        return self.decided[target]

    def _rules(self, target: Target) -> _Decision:
        module, kernel = self.snapshot.modules[target.module], self.snapshot.kernels[target.kernel]
        record = self.snapshot.records.get(target)
        if not module.enabled:
            return _Excluded("module.enabled is false")
        exclusion = find_exclusion(module.file.kernels, kernel)
        if exclusion:
            return _Excluded(exclusion)
        recipe = self.snapshot.recipes.get(target)
        if recipe and recipe.excluded:
            return _Excluded(f"{recipe.excluded}: dkms.conf")
        after: list[Target] = []
        unready: Optional[_Decision] = None
        for name in self.snapshot.depends(target):
            found = self._dependency(target, name)
            if isinstance(found, Target):
                after.append(found)
            elif found is not None and (unready is None or isinstance(found, _Failed)):
                unready = found  # what can never be met outweighs what is only waited for
        if isinstance(unready, _Failed):
            return unready
        inputs = self.inputs(target)
        if inputs is None:
            return self._without_inputs(target, kernel, record, unready)
        if record is None or record.built is None or record.built.inputs != inputs:
            reason = self._why_build(record, inputs)
            return self._retry(target, record, "build", inputs) or unready or self._build(target, reason, inputs, after)
        return self._installation(target, kernel, record, inputs, after)

    def _build(self, target: Target, reason: str, inputs: Mapping[str, str], after: list[Target]) -> BuildModule:
        return BuildModule(target, reason, dict(inputs), tuple(after))

    def _dependency(self, target: Target, name: str) -> Union[Target, _Decision, None]:
        """Return the target to be built before, a decision that stands in the way, or None if it is built."""
        module, dependency = target.module, Target(name, target.kernel)
        if name not in self.snapshot.modules:
            broken = any(b.name == name for b in self.snapshot.broken)
            why = "whose module file is broken" if broken else "which is not registered"
            return _Failed(Fault("depends-unknown", f"{module} depends on {name}, {why}", f"kmoddctl add {name}"))
        decision = self._decide(dependency)
        if isinstance(decision, BuildModule):
            return dependency
        if isinstance(decision, _Excluded):
            text = f"{module} depends on {name}, which is excluded: {decision.reason}"
            return _Failed(Fault("depends-excluded", text))
        if isinstance(decision, _Failed) and decision.fault.problem == "depends-cycle":
            return _Failed(Fault("depends-cycle", f"{module} and {name} depend on each other", "break the cycle"))
        if isinstance(decision, (_Failed, Wait)):
            why = decision.fault.message if isinstance(decision, _Failed) else decision.reason
            return Wait(target, f"needs {name}, which is not built: {why}", "depends-not-ready")
        return None

    def _without_inputs(
        self, target: Target, kernel: Kernel, record: Optional[TargetRecord], unready: Optional[_Decision]
    ) -> _Decision:
        """Decide where the source or the build tree is gone: what is installed stays, and is judged by verify."""
        fault = kernel.build_tree_fault or self.snapshot.input_faults.get(target)
        if fault is None and isinstance(unready, Wait):
            fault = Fault(unready.problem, unready.reason, unready.hint)
        if fault is None:
            fault = Fault("depends-not-ready", "the inputs of a module that it depends on are unknown")
        if record and record.built and record.installed:
            if target in self.snapshot.store_damaged:
                return _Settled()
            decision = self._installation(target, kernel, record, record.built.inputs, [])
            return _Settled(f"installed; {fault.message}") if isinstance(decision, _Settled) else decision
        if kernel.build_tree_fault is not None:
            return Wait(target, fault.message, fault.problem, fault.hint)
        if fault.problem in WAITED_FOR:
            return Wait(target, fault.message, fault.problem, fault.hint)
        return _Failed(fault, 3)

    def _installation(
        self, target: Target, kernel: Kernel, record: TargetRecord, inputs: Mapping[str, str], after: list[Target]
    ) -> _Decision:
        assert record.built is not None
        for built in record.built.objects:
            owner = self.owners[target.kernel].get(canonical(built.name), target.module)
            if owner != target.module:
                text = f"{target.module} and {owner} both yield {built.name}.ko"
                hint = "name the objects to install with [[object]] in one of the two module files"
                return _Failed(Fault("object-collision", text, hint), 6)
        reason = self._why_install(target, kernel, record)
        if not reason:
            return _Settled()
        if target in self.snapshot.store_damaged:
            return self._build(target, "its stored objects were lost", inputs, after)
        signer = self.snapshot.signer
        if kernel.signature_hash and signer.fault is not None and signer.fault.problem != FIRST_KEY:
            return _Failed(signer.fault, 6)
        blocked = self._retry(target, record, "install", self.install_inputs(target))
        return blocked or InstallModule(target, reason)

    def _retry(
        self, target: Target, record: Optional[TargetRecord], stage: str, inputs: Mapping[str, str]
    ) -> Optional[_Decision]:
        """Return what a failed attempt with the same inputs forbids now, or None."""
        attempt = record.attempt if record else None
        if attempt is None or attempt.outcome != "failed" or attempt.stage != stage or attempt.inputs != inputs:
            return None
        if not attempt.transient:
            return _Failed(Fault(attempt.problem, attempt.message, attempt.hint), 4)
        until = self._until(attempt)
        if self.now >= until:
            return None
        return Wait(target, attempt.message, attempt.problem, attempt.hint, until)

    def _until(self, attempt: Attempt) -> float:
        pause = self.policy.retry_first * (1 << min(max(attempt.failures - 1, 0), 20))
        return attempt.ended + min(pause, self.policy.retry_longest)

    # -- inputs and reasons ----------------------------------------------------------------------------------------
    def inputs(self, target: Target) -> Optional[dict[str, str]]:
        """Return what identifies a build of a target, its dependencies' identities included; None if unknown."""
        if target not in self.identified:
            self.identified[target] = None  # what depends on itself has none
            self.identified[target] = self._identify(target)
        return self.identified[target]

    def _identify(self, target: Target) -> Optional[dict[str, str]]:
        own = self.snapshot.inputs.get(target)
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

    def _why_build(self, record: Optional[TargetRecord], inputs: Mapping[str, str]) -> str:
        if record is None or record.built is None:
            return "never built for this kernel"
        old = record.built.inputs
        changed = [name for name in sorted({*old, *inputs}) if old.get(name) != inputs.get(name)]
        words = [INPUT_WORDS.get(name, f"{name.partition(':')[2]}, which it depends on, changed") for name in changed]
        return "; ".join(words)

    def _why_install(self, target: Target, kernel: Kernel, record: TargetRecord) -> str:
        assert record.built is not None
        installed = record.installed
        if installed is None:
            return "not installed"
        if {o.name: o.built for o in installed.objects} != {o.name: o.sha256 for o in record.built.objects}:
            return "built anew"
        if installed.superseded:
            return "an interrupted installation is to be finished"
        if target in self.snapshot.damaged:
            return self.snapshot.damaged[target]
        identity = self.snapshot.signer.identity if kernel.signature_hash else ""
        if (identity or not kernel.signature_hash) and any(o.signer != identity for o in installed.objects):
            return OTHER_KEY
        if any(o.compressed != kernel.compression for o in installed.objects):
            return f"the kernel's own modules are {kernel.compression or 'not'} compressed"
        return ""

    # -- whole modules and kernels ---------------------------------------------------------------------------------
    def _kernels(self) -> list[Kernel]:
        return [kernel for _, kernel in sorted(self.snapshot.kernels.items()) if kernel.present]

    def _ordered(self) -> list[Target]:
        """Return all targets, dependencies first."""
        done: dict[str, None] = {}

        def visit(name: str, trail: frozenset[str]) -> None:
            if name in done or name in trail or name not in self.snapshot.modules:
                return
            for dependency in needed[name]:
                visit(dependency, trail | {name})
            done[name] = None

        kernels = [kernel.release for kernel in self._kernels()]
        needed = {
            name: sorted({d for release in kernels for d in self.snapshot.depends(Target(name, release))})
            for name in self.snapshot.modules
        }
        for name in sorted(self.snapshot.modules):
            visit(name, frozenset())
        return [Target(name, release) for release in kernels for name in done]

    def _owners(self) -> dict[str, dict[str, str]]:
        """Return kernel -> object -> the module it belongs to: who has it installed, else the first by name."""
        owners: dict[str, dict[str, str]] = {kernel.release: {} for kernel in self._kernels()}
        for installed in (True, False):
            for target, record in sorted(self.snapshot.records.items()):
                if target.kernel not in owners or target.module not in self.snapshot.modules or not record.built:
                    continue
                if installed and record.installed is None:
                    continue
                objects = {canonical(o.name) for o in record.built.objects}
                if installed and record.installed:
                    objects &= {canonical(o.name) for o in record.installed.objects}
                for name in objects:
                    owners[target.kernel].setdefault(name, target.module)
        return owners

    def _protected(self, module: str, record: Optional[TargetRecord]) -> bool:
        """Tell whether a module's file is broken, so that nothing of it may go."""
        return any(b.name == module or (record and record.module_file == b.path) for b in self.snapshot.broken)

    def _removals(self) -> list[RemoveModule]:
        removals = []
        for target, record in sorted(self.snapshot.records.items()):
            kernel, module = self.snapshot.kernels.get(target.kernel), self.snapshot.modules.get(target.module)
            if kernel is None or not kernel.present:
                removals.append(RemoveModule(target, "the kernel was removed"))
            elif module is None:
                if not self._protected(target.module, record):
                    removals.append(RemoveModule(target, "the module is no longer registered"))
            elif record.built or record.installed:
                decision = self._decide(target)
                if isinstance(decision, _Excluded):
                    removals.append(RemoveModule(target, decision.reason))
        return removals

    def _dropins(self, installing: set[str]) -> list[Union[WriteDropin, RemoveDropin]]:
        wanted: dict[tuple[str, str], Dropin] = {}
        for name, module in sorted(self.snapshot.modules.items()):
            overrides: dict[str, set[str]] = {}
            installed = name in installing
            for kernel in self._kernels():
                target = Target(name, kernel.release)
                record = self.snapshot.records.get(target)
                if record is None or not record.built or isinstance(self._decide(target), _Excluded):
                    continue
                installed = installed or record.installed is not None
                if isinstance(self._decide(target), _Failed) and record.installed is None:
                    continue
                shadowed = {canonical(o.name) for o in record.built.objects} & kernel.in_tree
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
        for kernel in self._kernels():
            release = kernel.release
            reason = ""
            if any(a.target.kernel == release for a in installs):
                reason = "objects are installed"
            elif any(a.target.kernel == release for a in removals):
                reason = "objects are removed"
            elif any(a.dropin.kind == "depmod" and f" {release} " in a.dropin.content for a in files):
                reason = "overrides change"
            elif kernel.depmod_stale and any(
                t.kernel == release and r.installed for t, r in self.snapshot.records.items()
            ):
                reason = kernel.depmod_stale
            attempt = self.snapshot.kernel_attempts.get(release)
            if attempt is not None and attempt.outcome == "failed":
                until = self._until(attempt)
                if self.now < until:
                    waits += [
                        Wait(target, attempt.message, attempt.problem, attempt.hint, until)
                        for target, decision in sorted(self.decided.items())
                        if target.kernel == release and isinstance(decision, _Settled)
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


def install_inputs(target: Target, snapshot: Snapshot) -> dict[str, str]:
    """Return what identifies an installation: what was built, the signer's state, the compression."""
    record, kernel = snapshot.records.get(target), snapshot.kernels[target.kernel]
    built = fingerprint(record.built.inputs) if record and record.built else ""
    signer = snapshot.signer.state if kernel.signature_hash else ""
    return {"built": built, "signer": signer, "compression": kernel.compression}
