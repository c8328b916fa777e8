"""Observe, plan, apply: what happens for any trigger, until every target is what it should be.

Imports nothing heavy: the reconciler is for those who change a root, the observer for those who only read.
"""

from __future__ import annotations

from ..core.model import Policy
from ..core.settings import Settings


def policy_of(settings: Settings) -> Policy:
    """Return what the settings mean for planning."""
    return Policy(
        retry_first=settings.retry.first,
        retry_longest=settings.retry.longest,
        guard=settings.boot.guard,
        hold_at_most=settings.boot.hold_at_most,
        keep_proven=settings.dnf.keep_proven,
    )
