"""What a look found, as others are told of it: the report that observers get, the documents that kmoddctl shows and
`--json` prints (kmoddctl(8)), and the line that STATUS= is. Pure.

A document is made of what JSON knows, so that it is the same whether it was made in kmoddctl or came from the daemon.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional, TypeVar, Union, cast

from . import versions
from .actions import Action, Wait
from .model import Judgement, Kernel, Snapshot, Target, Verdict, fingerprint
from .modulefile import canonical
from .planner import INPUT_WORDS, RULES, find_refusals, judge_kernel
from .record import Attempt, InitRefusal
from .reloading import Note, find_notes

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

    def document(self, holder: Optional[str] = None) -> dict[str, Any]:
        return status_document(self.snapshot, self.judgements, holder=holder, looked=self.looked)

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


def status_document(
    snapshot: Snapshot,
    judgements: Mapping[Target, Judgement],
    *,
    holder: Optional[str] = None,
    looked: Optional[float] = None,
) -> dict[str, Any]:
    """Return schema 1 of the status; fields are added, never renamed. Times are seconds since the epoch.

    holder: who is at work on the root, such as "kmodd (pid 12)". looked: when. Kernels come oldest first.
    """
    order = functools.cmp_to_key(versions.compare)
    kernels, notes = [], find_notes(snapshot, judgements)
    for release in sorted(snapshot.kernels, key=order):
        kernel = snapshot.kernels[release]
        if kernel.present:
            kernels.append(_kernel(kernel, judge_kernel(release, snapshot, judgements)))
    leftovers = sorted(release for release, kernel in snapshot.kernels.items() if not kernel.present)
    return {
        "schema": 1,
        "looked": looked,
        "holder": holder,
        "kernels": kernels,
        "modules": _modules(snapshot),
        "targets": [
            _target(target, judgement, snapshot, notes.get(target)) for target, judgement in sorted(judgements.items())
        ],
        "leftovers": leftovers,
        "problems": [
            {"file": b.path, "problem": b.fault.problem, "message": b.fault.message, "hint": b.fault.hint}
            for b in (*snapshot.broken, *snapshot.skipped)
        ],
    }


def _kernel(kernel: Kernel, judgement: Judgement) -> dict[str, Any]:
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
    }


def _modules(snapshot: Snapshot) -> list[dict[str, Any]]:
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


def _target(target: Target, judgement: Judgement, snapshot: Snapshot, note: Optional[Note]) -> dict[str, Any]:
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
            *(f"the next build will be refused: {f.message}; {f.hint}" for f in find_refusals(target, snapshot)),
        ],
        "last_attempt": _attempt(attempt) if attempt else None,
    }


def _refusal(refused: Sequence[InitRefusal]) -> Optional[dict[str, Any]]:
    """Return what is said of objects whose init function found no device at the last boot of their kernel."""
    if not refused:
        return None
    names = [item.name for item in refused]
    text = f"init refused: no such device (not a fault of the module): {', '.join(names)}"
    return {"objects": names, "reason": text, "when": max(item.when for item in refused)}


def verify_document(snapshot: Snapshot, judgements: Mapping[Target, Judgement]) -> dict[str, Any]:
    """Return what `kmoddctl verify --json` prints: every target with each check that was made of its objects."""
    targets = []
    for found in status_document(snapshot, judgements)["targets"]:
        target = Target(found["module"], found["kernel"])
        row = snapshot.of(target)
        checks = [asdict(check) for check in row.checks or ()]
        for item in found["objects"]:
            if row.checks is not None and not any(c["problem"] == "object-unreadable" for c in checks):
                said = {"outcome": "passed", "message": f"{item['path']} is what kmodd installed"}
            elif row.damage is not None and row.damage.path == item["path"]:
                said = {"outcome": "failed", "message": row.damage.text}
            else:
                continue
            checks.insert(0, {"object": item["name"], "check": "content", **said, "problem": "", "hint": ""})
        keys = ("module", "kernel", "required", "verdict", "reason", "problem", "hint", "objects")
        targets.append({**{key: found[key] for key in keys}, "checks": checks})
    return {"schema": 1, "targets": targets}


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


def plan_document(actions: Sequence[Action]) -> dict[str, Any]:
    """Return schema 1 of a plan: each action's kind, and what it holds."""
    plain = [{"action": action.name, "kind": action.kind, **asdict(cast("Any", action))} for action in actions]
    return {"schema": 1, "actions": json.loads(json.dumps(plain))}  # its tuples become lists


def explain_document(
    module: str,
    snapshot: Snapshot,
    judgements: Mapping[Target, Judgement],
    actions: Sequence[Action],
    *,
    kernel: Optional[str] = None,
    logs: Optional[Mapping[Target, Sequence[Mapping[str, Any]]]] = None,
) -> dict[str, Any]:
    """Return schema 1 of a module's whole story, on one kernel or on all.

    logs: of targets, the attempts whose logs are kept (build.logs). Each target has the keys of status, and more.
    """
    order = functools.cmp_to_key(versions.compare)
    notes = find_notes(snapshot, judgements)
    chosen = [t for t in judgements if t.module == module and kernel in (None, t.kernel)]
    return {
        "schema": 1,
        "module": next((m for m in _modules(snapshot) if m["name"] == module), None),
        "targets": [
            {
                **_target(target, judgements[target], snapshot, notes.get(target)),
                **_story(target, judgements[target], snapshot, actions),
                "attempts": list((logs or {}).get(target) or ()),
            }
            for target in sorted(chosen, key=lambda t: order(t.kernel))
        ],
    }


def _story(target: Target, judgement: Judgement, snapshot: Snapshot, actions: Sequence[Action]) -> dict[str, Any]:
    kernel, record = snapshot.kernels[target.kernel], snapshot.of(target).record
    built, attempt = (record.built, record.attempt) if record else (None, None)
    objects = {canonical(item.name) for item in snapshot.of(target).wanted}
    mine = [action for action in actions if action.concerns(target)]
    row = snapshot.of(target)
    inputs = row.inputs
    return {
        "rule": {"number": judgement.rule, "text": RULES.get(judgement.rule, "")},
        "kernel_facts": {
            "running": kernel.running,
            "default_boot": kernel.default_boot,
            "build_tree": kernel.build_tree,
            "kernel_devel": kernel.devel_package,
            "compiler": (inputs or {}).get("compiler", ""),
            "compression": kernel.compression,
            "signature_hash": kernel.signature_hash,
            "in_tree": sorted(objects & kernel.in_tree),
        },
        "built": {
            "objects": [item.name for item in built.objects],
            "compiler": built.compiler,
            "version": built.version,
            "ended": built.ended,
            "differs": _differences(built.inputs, inputs) if inputs else [],
        }
        if built
        else None,
        "findings": [asdict(fault) for fault in row.faults],
        "damage": row.damage.text if row.damage else "",
        "error": attempt.error.model_dump(mode="json") if attempt and attempt.error else None,
        "next": plan_document(mine)["actions"],
        "awaits": _awaited(judgement, mine),
    }


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return what changed since a build, as the planner words it; its dependencies are compared there."""
    return [words for name, words in INPUT_WORDS.items() if old.get(name) != new.get(name)]


#: What ends a waiting or a failure, by problem or else by rule.
EVENTS: dict[Union[int, str], str] = {
    1: "a change of the module file",
    2: "what it depends on being built",
    3: "the build tree or the source appearing",
    4: "a change of its source, patches or module file, of the kernel's build tree, or of the compiler",
    6: "a change of what was built, of the key, or of the module files",
    7: "a change of the files that were checked",
    "kernel-devel-missing": "its kernel-devel package",
    "signature-untrusted": "the enrolment of the key",
}


def _awaited(judgement: Judgement, actions: Sequence[Action]) -> Optional[dict[str, Any]]:
    """Return what a target waits for: an event, or a moment ("until", seconds since the epoch)."""
    if judgement.verdict in (Verdict.READY, Verdict.BUILDING):
        return None
    until = next((a.until for a in actions if isinstance(a, Wait) and a.until is not None), None)
    if until is not None:
        return {"until": until, "event": "the next try"}
    event = EVENTS.get(judgement.problem) or EVENTS.get(judgement.rule, "a change of the module file")
    return {"until": None, "event": event}


def summary(judgements: Mapping[Target, Judgement]) -> str:
    """Return one line of counts, the worst first, such as "1 failed, 3 ready"."""
    counts = [(verdict, sum(j.verdict is verdict for j in judgements.values())) for verdict in ORDER]
    return ", ".join(f"{count} {verdict.value}" for verdict, count in counts if count) or "nothing registered"
