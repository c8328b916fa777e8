"""In which order builds begin that are due: the longest first, so that no long one runs alone at the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..actions import BuildModule
from ..model import Snapshot, Target

GUESS = 3.0  # seconds for each object of a module that was never built


def longest_first(builds: Sequence[BuildModule], snapshot: Snapshot) -> list[BuildModule]:
    """Return builds, of each kernel the longest first, counting what waits for it; kernels stay in their order."""
    waiting: dict[Target, list[Target]] = {}
    for build in builds:
        for needed in build.after:
            waiting.setdefault(needed, []).append(build.target)
    lengths: dict[Target, float] = {}

    def length(target: Target) -> float:
        if target not in lengths:
            after = max(map(length, waiting.get(target, ())), default=0.0)
            lengths[target] = estimate(target, snapshot) + after
        return lengths[target]

    kernels = list(dict.fromkeys(build.target.kernel for build in builds))
    return sorted(builds, key=lambda build: (kernels.index(build.target.kernel), -length(build.target)))


def estimate(target: Target, snapshot: Snapshot) -> float:
    """Return how many seconds a build may take: as long as the module's last one that succeeded, for any kernel."""
    attempts = [record.attempt for other, record in snapshot.records.items() if other.module == target.module]
    ended = [(a.ended, a.ended - a.began) for a in attempts if a and (a.stage, a.outcome) == ("build", "succeeded")]
    if ended:
        return max(ended)[1]
    recipe = snapshot.of(target).recipe
    return GUESS * max(1, len(recipe.objects if recipe else snapshot.modules[target.module].file.object))
