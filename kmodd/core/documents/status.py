"""The status of a root: every kernel, module and target with its verdict. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .. import versions
from ..booting import Standing
from ..model import Judgement, Kernel, Policy, Snapshot, Target, fingerprint
from ..modulefile import canonical
from ..planner import find_refusals, make_guarding
from ..record import Attempt, InitRefusal, TargetRecord
from ..reloadplan import Note, find_notes
from ..rootwarnings import find_warnings, warning_rows
from .boot import behind_row, standing_row


def status_document(
    snapshot: Snapshot,
    judgements: Mapping[Target, Judgement],
    *,
    holder: Optional[str] = None,
    looked: Optional[float] = None,
    activity: Optional[str] = None,
) -> dict[str, Any]:
    """Return schema 1 of the status; fields are added, never renamed. Times are seconds since the epoch.

    holder: who is at work on the root, such as "kmodd (pid 12)". activity: what that one does, such as idle or
    building. looked: when. Kernels come oldest first.
    """
    order = functools.cmp_to_key(versions.compare)
    kernels, notes = [], find_notes(snapshot, judgements)
    guarding = make_guarding(snapshot, Policy(), looked or 0.0, judgements)
    for release in sorted(snapshot.kernels, key=order):
        kernel = snapshot.kernels[release]
        if kernel.present:
            kernels.append(_kernel(kernel, guarding.kernels[release], guarding.standing(release)))
    leftovers = sorted(release for release, kernel in snapshot.kernels.items() if not kernel.present)
    return {
        "schema": 1,
        "looked": looked,
        "holder": holder,
        "activity": activity,
        "kernels": kernels,
        "modules": module_rows(snapshot),
        "targets": [
            target_row(target, judgement, snapshot, notes.get(target))
            for target, judgement in sorted(judgements.items())
        ],
        "leftovers": leftovers,
        "behind": behind_row(guarding),
        "problems": [
            {"file": b.path, "problem": b.fault.problem, "message": b.fault.message, "hint": b.fault.hint}
            for b in (*snapshot.broken, *snapshot.skipped)
        ],
        "warnings": warning_rows(find_warnings(snapshot)),
    }


def _kernel(kernel: Kernel, judgement: Judgement, standing: Standing) -> dict[str, Any]:
    return {
        "release": kernel.release,
        "verdict": judgement.verdict.value,
        "running": kernel.running,
        "default_boot": kernel.default_boot,
        "build_tree": kernel.build_tree is not None,
        "reason": judgement.reason,
        "problem": judgement.problem,
        "hint": judgement.hint,
        "flavour": kernel.flavour,
        "architecture": kernel.architecture,
        "kernel_devel": kernel.devel_package,
        **standing_row(standing),
    }


def module_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return what is registered, broken module files included, and what is only remembered."""
    found = {
        name: {
            "name": name,
            "version": module.file.module.version,
            "registered": True,
            "required": module.required,
            "enabled": module.enabled,
            "file": module.path,
            "source": module.file.source.model_dump(mode="json", exclude_defaults=True),
            "depends": list(module.file.build.depends),
        }
        for name, module in snapshot.modules.items()
    }
    nothing = {"version": "", "required": True, "enabled": True, "file": "", "source": {}, "depends": []}
    for broken in snapshot.broken:
        found.setdefault(broken.name, {**nothing, "name": broken.name, "registered": True, "file": broken.path})
    for target in snapshot.records:
        found.setdefault(target.module, {**nothing, "name": target.module, "registered": False})
    return [found[name] for name in sorted(found)]


def target_row(target: Target, judgement: Judgement, snapshot: Snapshot, note: Optional[Note]) -> dict[str, Any]:
    record, module = snapshot.of(target).record, snapshot.modules.get(target.module)
    attempt = record.attempt if record else None
    installed = record.installed if record else None
    memory = {item.name: item.presence.value for item in snapshot.of(target).loaded}
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
                "in_memory": memory.get(canonical(item.name), "unknown"),
            }
            for item in (installed.objects if installed else ())
        ],
        "init_refused": _refusal(snapshot.of(target).init_refused),
        "stale_in_memory": {"reason": note.text, "hint": note.hint} if note else None,
        "fingerprint": _fingerprint(target, snapshot),
        "warnings": [
            *(record.built.warnings if record and record.built else ()),
            *snapshot.of(target).warnings,
            *_failed_rebuild(record),
            *(f"the next build will be refused: {f.message}; {f.hint}" for f in find_refusals(target, snapshot)),
        ],
        "last_attempt": _attempt(attempt) if attempt else None,
        "next_try": judgement.until,
    }


def _failed_rebuild(record: Optional[TargetRecord]) -> list[str]:
    """Return that building once more what is installed failed, where that was the last attempt."""
    attempt, built = (record.attempt, record.built) if record is not None else (None, None)
    if attempt is None or built is None or attempt.outcome != "failed" or attempt.stage != "build":
        return []
    text = f"the last build failed, and what is installed is from the one before: {attempt.message}"
    return [text] if attempt.inputs == built.inputs else []


def _refusal(refused: Sequence[InitRefusal]) -> Optional[dict[str, Any]]:
    """Return what is said of objects whose init function found no device at the last boot of their kernel."""
    if not refused:
        return None
    names = [item.name for item in refused]
    text = f"init refused: no such device (not a fault of the module): {', '.join(names)}"
    return {"objects": names, "reason": text, "when": max(item.when for item in refused)}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "began": attempt.began,
        "ended": attempt.ended,
        "stage": attempt.stage,
        "outcome": attempt.outcome,
        "problem": attempt.problem,
        "message": attempt.message,
        "transient": attempt.transient,
        "failures": attempt.failures,
        "log": attempt.log,
    }


def _fingerprint(target: Target, snapshot: Snapshot) -> str:
    record = snapshot.of(target).record
    return fingerprint(record.built.inputs) if record and record.built else ""
