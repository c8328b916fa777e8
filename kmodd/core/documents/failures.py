"""The steps that failed since a moment, which sync and rebuild exit by. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..fault import Fault
from ..model import Snapshot


@dataclass(frozen=True)
class StepFailure:
    """A step that failed; module or kernel is "" where it is of none."""

    module: str
    kernel: str
    fault: Fault


def failures_document(snapshot: Snapshot, since: float, reported: Sequence[StepFailure] = ()) -> list[dict[str, str]]:
    """Return what failed since a moment, in seconds since the epoch: attempts and reloads as recorded, and others.

    reported: failures that no record has. The same one is there once.
    """
    found = []
    for target, record in sorted(snapshot.records.items()):
        if target.module not in snapshot.modules:
            continue
        attempt, reload = record.attempt, record.reload
        if attempt is not None and attempt.outcome == "failed" and attempt.ended >= since:
            found.append(StepFailure(target.module, target.kernel, attempt.fault))
        if reload is not None and reload.outcome == "failed" and reload.began >= since:
            found.append(StepFailure(target.module, target.kernel, reload.fault))
    return [
        {
            "module": failure.module,
            "kernel": failure.kernel,
            "problem": failure.fault.problem,
            "message": failure.fault.message,
            "hint": failure.fault.hint,
        }
        for failure in dict.fromkeys((*found, *reported))
    ]
