"""What verify says: every target with each check that was made of its objects. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..model import Judgement, Snapshot, Target
from .status import status_document


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
