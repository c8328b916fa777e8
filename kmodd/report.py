"""The state of a root as a document: what `status --json` prints (DESIGN section 8) and what STATUS= sums up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model import Judgement, Snapshot, Target, Verdict, fingerprint
from .planner import judge_kernel

ORDER = (Verdict.FAILED, Verdict.BLOCKED, Verdict.WAITING, Verdict.BUILDING, Verdict.READY)


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
