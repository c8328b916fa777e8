"""The verdict of each target, by what is decided on it and by what verify found. Pure: no I/O, no clock, no asyncio."""

from __future__ import annotations

from ..actions import BuildModule, InstallModule, RunDepmod, Wait
from ..documents.grouping import KEPT
from ..model import UNREAD, UNSAFE, BrokenFile, Judgement, Snapshot, Target, Verdict
from ..reloadplan import find_refusal
from .decisions import Deciding, Excluded, Failed, Settled, Unknown
from .ordering import in_order


class Judging:
    """Judges the targets of one snapshot."""

    def __init__(self, snapshot: Snapshot, deciding: Deciding) -> None:
        self.snapshot = snapshot
        self.deciding = deciding

    def judgements(self) -> dict[Target, Judgement]:
        found = {target: self._judge(target) for target in in_order(self.snapshot)}
        for broken in self.snapshot.broken:
            for kernel in self.snapshot.present():
                found.update(self._judge_broken(broken, kernel.release))
        return found

    def _judge_broken(self, broken: BrokenFile, release: str) -> dict[Target, Judgement]:
        """Judge the module of a file that cannot be used: failed, but for what root had installed before others could
        change the file.
        """
        fault = broken.fault
        failed = Judgement.of(Verdict.WAITING if fault.problem == UNREAD else Verdict.FAILED, fault)
        kept = {
            target: self._judge_installed(target, f"installed; {fault.message}")
            for target, record in self.snapshot.records.items()
            if fault.problem == UNSAFE and target.kernel == release and record.module_file == broken.path
            if record.installed and record.installed.objects and self.snapshot.of(target).damage is None
        }
        return kept or {Target(broken.name, release): failed}

    def _judge(self, target: Target) -> Judgement:
        decision = self.deciding.decide(target)
        record = self.snapshot.of(target).record
        kept = KEPT if record and record.installed else ""
        if self.snapshot.of(target).running:
            return Judgement(Verdict.BUILDING, "is being built")
        rule = decision.rule
        if isinstance(decision, Excluded):
            problem, hint = (decision.fault.problem, decision.fault.hint) if decision.fault else ("", "")
            return Judgement(Verdict.EXCLUDED, decision.reason, problem, hint, rule)
        if isinstance(decision, Unknown):
            fault = decision.seen.fault
            return Judgement.of(Verdict.WAITING, fault, rule, until=decision.seen.until)
        if isinstance(decision, Failed):
            fault = decision.fault
            return Judgement.of(Verdict.FAILED, fault, rule, kept)
        if isinstance(decision, Wait):
            verdict = Verdict.FAILED if decision.until is not None else Verdict.WAITING
            return Judgement.of(verdict, decision.fault, rule, kept, decision.until)
        if isinstance(decision, BuildModule):
            return Judgement(Verdict.BUILDING, f"is to be built: {decision.reason}{kept}", rule=rule)
        if isinstance(decision, InstallModule):
            usable = record and record.installed and self.snapshot.of(target).damage is None
            if not usable or decision.urgent or self.snapshot.of(target).faults:
                return Judgement(Verdict.BUILDING, f"is to be installed: {decision.reason}", rule=rule)
            decision = Settled(f"installed, and will be again: {decision.reason}")
        return self._judge_installed(target, decision.note)

    def _judge_installed(self, target: Target, note: str) -> Judgement:
        """Judge a target of which nothing is to be done, by what its kernel and verify say; note: of a ready one."""
        kernel, row = self.snapshot.kernels[target.kernel], self.snapshot.of(target)
        failure = kernel.failures.get(RunDepmod.kind)
        if failure is not None:
            return Judgement.of(Verdict.FAILED, failure.fault, 8)
        if kernel.depmod_stale and not row.is_proven:
            return Judgement(Verdict.BUILDING, f"depmod is to run: {kernel.depmod_stale}", rule=8)
        for fault in row.faults:
            return Judgement.of(Verdict.BLOCKED, fault, 7)
        if row.unchecked is not None:
            fault = row.unchecked.fault
            return Judgement.of(Verdict.WAITING, fault, 7, until=row.unchecked.until)
        refusal = find_refusal(target, self.snapshot)
        if refusal is not None:
            return Judgement.of(Verdict.BLOCKED, refusal, 7)
        if kernel.depmod_stale:
            return Judgement(Verdict.READY, f"installed and checked; depmod is to run: {kernel.depmod_stale}", rule=8)
        return Judgement(Verdict.READY, note or "built, installed and checked", rule=7)

    def is_ready(self, target: Target) -> bool:
        return target.module in self.snapshot.modules and self._judge(target).verdict is Verdict.READY
