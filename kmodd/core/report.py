"""What a pass found, as it is reported to listeners: all verdicts, what changed, and the line that STATUS= is. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

from .documents.status import status_document
from .model import Judgement, Policy, Snapshot, Target, Verdict
from .planner import judge_kernel, make_guarding
from .planner.guard import Guarding

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
    """What one pass found.

    settled and settled_kernels hold the last verdict that was not "building", which may be an earlier pass's: a
    build is not reported, its outcome is.
    """

    snapshot: Snapshot
    judgements: Mapping[Target, Judgement]
    kernels: Mapping[str, Judgement]  # of those that are present
    settled: Mapping[Target, Judgement]
    settled_kernels: Mapping[str, Judgement]
    looked: float  # seconds since the epoch

    @functools.cached_property
    def guarding(self) -> Guarding:
        """Return how the boot guard sees it, for what no setting changes."""
        return make_guarding(self.snapshot, Policy(), self.looked, self.judgements)

    def document(self, holder: Optional[str] = None, activity: Optional[str] = None) -> dict[str, Any]:
        return status_document(self.snapshot, self.judgements, holder=holder, looked=self.looked, activity=activity)

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


#: Receives the previous report, None at first, and the new one. Must return at once, and raises nothing.
Observer = Callable[[Optional[Report], Report], None]


def make_report(
    snapshot: Snapshot, judgements: Mapping[Target, Judgement], looked: float, previous: Optional[Report]
) -> Report:
    """Return the report of a pass, which goes on from the previous one."""
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


def summary(judgements: Mapping[Target, Judgement]) -> str:
    """Return one line of counts, the worst first, such as "1 failed, 3 ready"."""
    counts = [(verdict, sum(j.verdict is verdict for j in judgements.values())) for verdict in ORDER]
    return ", ".join(f"{count} {verdict.value}" for verdict, count in counts if count) or "nothing registered"
