"""What one pass has observed so far: the rows that the probes fill, each its part. Must not: read anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..core.model import Fault, Kernel, Target, TargetState
from ..core.modulefile import Module
from ..core.record import TargetRecord
from ..host.registry import Registry
from ..system.files import find_accident


@dataclass
class Observation:
    """One observation of a root. rows: one for each known target. unseen: what could not be read."""

    registry: Registry
    kernels: dict[str, Kernel]
    rows: defaultdict[Target, TargetState] = field(default_factory=lambda: defaultdict(TargetState))
    unseen: dict[Target, Fault] = field(default_factory=dict)

    def module(self, target: Target) -> Module:
        return self.registry.modules[target.module]

    def recorded(self) -> Iterator[tuple[Target, TargetState, TargetRecord]]:
        """Yield the targets of which something is remembered, by name."""
        for target, row in sorted(self.rows.items()):
            if row.record is not None:
                yield target, row, row.record

    def cannot_see(self, target: Target, what: str, error: Exception) -> None:
        """Note that something of a target could not be read now, which says nothing of it."""
        self.unseen[target] = unread(what, error)


def unread(what: str, error: Exception) -> Fault:
    """Return the fault that something could not be read."""
    said = find_accident(error) or str(error)
    return Fault("look-interrupted", f"{what} could not be read: {said}", "kmodd reads it again by itself")
