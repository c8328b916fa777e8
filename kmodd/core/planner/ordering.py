"""The order of targets: dependencies first. Pure: no I/O, no clock, no asyncio."""

from __future__ import annotations

from ..model import Snapshot, Target


def in_order(snapshot: Snapshot) -> list[Target]:
    """Return all targets, dependencies first."""
    done: dict[str, None] = {}

    def visit(name: str, trail: frozenset[str]) -> None:
        if name in done or name in trail or name not in snapshot.modules:
            return
        for dependency in needed[name]:
            visit(dependency, trail | {name})
        done[name] = None

    kernels = [kernel.release for kernel in snapshot.present()]
    needed = {
        name: sorted({d for release in kernels for d in snapshot.depends(Target(name, release))})
        for name in snapshot.modules
    }
    for name in sorted(snapshot.modules):
        visit(name, frozenset())
    return [Target(name, release) for release in kernels for name in done]
