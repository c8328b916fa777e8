"""What boots, what is held back and why: `kmoddctl boot`. Pure."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any, Optional

from .. import versions
from ..booting import BootEntry, Standing
from ..fault import Fault
from ..planner.guard import Guarding


def boot_document(guarding: Guarding) -> dict[str, Any]:
    """Return schema 1 of how a root boots. Kernels come oldest first, entries as in the menu."""
    booting = guarding.booting
    order = functools.cmp_to_key(versions.compare)
    return {
        "schema": 1,
        "loader": booting.loader,
        "unknown": booting.unknown,
        "default": {"entry": booting.default, "kernel": booting.boots_next},
        "saved": booting.saved,
        "once": booting.once,
        "guard": {
            "setting": guarding.policy.guard,
            "holds": not guarding.idle,
            "reason": guarding.idle,
            "modules": guarding.holding,
            "fallback": guarding.fallback,
        },
        "kernels": [_kernel(guarding, release) for release in sorted(guarding.kernels, key=order)],
        "entries": None if booting.entries is None else [_entry(entry) for entry in booting.entries],
        "behind": behind_row(guarding),
        "problems": [asdict(fault) for fault in guarding.faults()],
    }


def standing_row(standing: Standing) -> dict[str, Any]:
    """Return what documents say of how a kernel stands with the boot loader."""
    return {
        "bootable": standing.bootable,
        "held": standing.held.since if standing.held else None,
        "fit": standing.fit,
        "proven": standing.proven,
    }


def behind_row(guarding: Guarding) -> Optional[dict[str, Any]]:
    """Return that a newer kernel is installed than the one that runs, and what that waits for; None where none is."""
    found = guarding.find_behind()
    if found is None:
        return None
    fault = found.fault
    return {
        "running": found.running, "newer": found.newer, "held": found.held.since if found.held else None,
        "problem": fault.problem, "message": fault.message, "hint": fault.hint,
    }  # fmt: skip


def _kernel(guarding: Guarding, release: str) -> dict[str, Any]:
    kernel, judgement, standing = (
        guarding.snapshot.kernels[release],
        guarding.kernels[release],
        guarding.standing(release),
    )
    entry = guarding.booting.of(release) or BootEntry("")
    attempt = kernel.failures.get("release")
    return {
        "release": release,
        "running": kernel.running,
        "default_boot": kernel.default_boot,
        **standing_row(standing),
        "why": standing.why,
        "entry": entry.name,
        "image": entry.image,
        "initrds": list(entry.initrds),
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "last_release": _fault(attempt.fault, attempt.ended) if attempt else None,
    }


def _fault(fault: Fault, ended: float) -> dict[str, Any]:
    return {**asdict(fault), "ended": ended}


def _entry(entry: BootEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "file": entry.file,
        "title": entry.title,
        "kernel": entry.release,
        "image": entry.image,
        "initrds": list(entry.initrds),
        "left": entry.left,
        "fault": asdict(entry.fault) if entry.fault else None,
    }
