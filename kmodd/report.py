"""What a look found, as others are told of it: the report that observers get, the document that `status --json` prints
(DESIGN section 8), and the line that STATUS= is. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

from .model import Judgement, Snapshot, Target, Verdict, fingerprint
from .planner import judge_kernel

ORDER = (Verdict.FAILED, Verdict.BLOCKED, Verdict.WAITING, Verdict.BUILDING, Verdict.READY)
_Subject = TypeVar("_Subject", Target, str)


@dataclass(frozen=True)
class Change:
    """A verdict that is not what it was; module is "" where it is the kernel's own. None: unknown before, or gone."""

    kernel: str
    module: str
    before: Optional[Judgement]
    after: Optional[Judgement]


@dataclass(frozen=True)
class Report:
    """What one look found.

    settled and settled_kernels hold the last verdict that was not "building", which may be an earlier look's: a
    build is no news, its outcome is.
    """

    snapshot: Snapshot
    judgements: Mapping[Target, Judgement]
    kernels: Mapping[str, Judgement]  # of those that are present
    settled: Mapping[Target, Judgement]
    settled_kernels: Mapping[str, Judgement]
    looked: float  # seconds since the epoch

    @property
    def document(self) -> dict[str, Any]:
        return status_document(self.snapshot, self.judgements)

    def changes(self, previous: Optional[Report]) -> tuple[Change, ...]:
        """Return what settled otherwise than in the previous report: targets first, then kernels."""
        targets, kernels = (previous.settled, previous.settled_kernels) if previous else ({}, {})
        return (
            *(
                Change(target.kernel, target.module, targets.get(target), self.settled.get(target))
                for target in sorted({*targets, *self.settled})
                if targets.get(target) != self.settled.get(target)
            ),
            *(
                Change(release, "", kernels.get(release), self.settled_kernels.get(release))
                for release in sorted({*kernels, *self.settled_kernels})
                if kernels.get(release) != self.settled_kernels.get(release)
            ),
        )


#: Is told the previous report, None at first, and the new one. Must return at once, and raises nothing.
Observer = Callable[[Optional[Report], Report], None]


def make_report(
    snapshot: Snapshot, judgements: Mapping[Target, Judgement], looked: float, previous: Optional[Report]
) -> Report:
    """Return the report of a look, which goes on from the previous one."""
    kernels = {
        release: judge_kernel(release, snapshot, judgements)
        for release, kernel in sorted(snapshot.kernels.items())
        if kernel.present
    }
    return Report(
        snapshot,
        judgements,
        kernels,
        _settle(judgements, previous.settled if previous else {}),
        _settle(kernels, previous.settled_kernels if previous else {}),
        looked,
    )


def _settle(now: Mapping[_Subject, Judgement], before: Mapping[_Subject, Judgement]) -> dict[_Subject, Judgement]:
    settled = {}
    for subject, judgement in now.items():
        if judgement.verdict is not Verdict.BUILDING:
            settled[subject] = judgement
        elif subject in before:
            settled[subject] = before[subject]
    return settled


def status_document(snapshot: Snapshot, judgements: Mapping[Target, Judgement]) -> dict[str, Any]:
    """Return schema 1 of the status; fields are added, never renamed. Times are seconds since the epoch."""
    kernels = []
    for release, kernel in sorted(snapshot.kernels.items()):
        if kernel.present:
            judgement = judge_kernel(release, snapshot, judgements)
            kernels.append(
                {
                    "release": release,
                    "verdict": judgement.verdict.value,
                    "running": kernel.running,
                    "build_tree": kernel.build_tree is not None,
                    "reason": judgement.reason,
                    "problem": judgement.problem,
                    "hint": judgement.hint,
                    "flavour": kernel.flavour,
                    "architecture": kernel.architecture,
                    "kernel_devel": kernel.devel_package,
                }
            )
    leftovers = sorted(release for release, kernel in snapshot.kernels.items() if not kernel.present)
    return {
        "schema": 1,
        "kernels": kernels,
        "targets": [_target(target, judgement, snapshot) for target, judgement in sorted(judgements.items())],
        "leftovers": leftovers,
        "problems": [
            {"file": b.path, "problem": b.fault.problem, "message": b.fault.message, "hint": b.fault.hint}
            for b in snapshot.broken
        ],
    }


def _target(target: Target, judgement: Judgement, snapshot: Snapshot) -> dict[str, Any]:
    record, module = snapshot.records.get(target), snapshot.modules.get(target.module)
    attempt = record.attempt if record else None
    installed = record.installed if record else None
    return {
        "module": target.module,
        "version": module.file.module.version if module else "",
        "required": module.required if module else True,
        "kernel": target.kernel,
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "problem": judgement.problem,
        "hint": judgement.hint,
        "objects": [
            {
                "name": item.name,
                "path": item.path,
                "sha256": item.sha256,
                "signer": item.signer,
                "compressed": item.compressed,
            }
            for item in (installed.objects if installed else ())
        ],
        "fingerprint": _fingerprint(target, snapshot),
        "warnings": list(record.built.warnings) if record and record.built else [],
        "last_attempt": {
            "began": attempt.began,
            "ended": attempt.ended,
            "outcome": attempt.outcome,
            "problem": attempt.problem,
            "log": attempt.log,
        }
        if attempt
        else None,
    }


def _fingerprint(target: Target, snapshot: Snapshot) -> str:
    record = snapshot.records.get(target)
    return fingerprint(record.built.inputs) if record and record.built else ""


def summary(judgements: Mapping[Target, Judgement]) -> str:
    """Return one line of counts, the worst first, such as "1 failed, 3 ready"."""
    counts = [(verdict, sum(j.verdict is verdict for j in judgements.values())) for verdict in ORDER]
    return ", ".join(f"{count} {verdict.value}" for verdict, count in counts if count) or "nothing registered"
