"""Reports what somebody else did to installed objects, once each. Must not: mend it, which an action does."""

from __future__ import annotations

from ..core.model import Snapshot, Target
from ..system.log import get_logger


class DamageReports:
    """The damage of one root that was reported."""

    def __init__(self) -> None:
        self.reported: dict[Target, str] = {}

    def report(self, snapshot: Snapshot) -> None:
        """Log what is new of the damage in a snapshot, before it is mended."""
        found = {
            target: row.damage.text
            for target, row in snapshot.targets.items()
            if row.damage is not None and target.kernel in snapshot.kernels and snapshot.kernels[target.kernel].present
        }
        for target, what in sorted(found.items()):
            if self.reported.get(target) != what:
                get_logger().warning(
                    "installed object changed", module=target.module, kernel=target.kernel, reason=what
                )
        self.reported = found
