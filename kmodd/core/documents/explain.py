"""The whole story of a module: its status, why it is that, and what ends it. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Optional, Union

from .. import versions
from ..actions import Action, Wait
from ..model import Judgement, Snapshot, Target, Verdict
from ..modulefile import canonical
from ..planner import INPUT_WORDS, RULES
from ..reloadplan import find_notes
from .plan import plan_document
from .status import module_rows, target_row


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
        "module": next((m for m in module_rows(snapshot) if m["name"] == module), None),
        "targets": [
            {
                **target_row(target, judgements[target], snapshot, notes.get(target)),
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
