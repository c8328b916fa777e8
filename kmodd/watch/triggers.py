"""Collects triggers for the daemon's next reconcile pass; many become one.

A trigger has a reason to print and carries no facts, so a lost or doubled one does no harm.
Must not: be used from outside the event loop's thread, or start tasks or timers that outlive a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Optional

MOST_REASONS = 16  # kept; they are for reading, and a burst needs no list of all its files


def first_reasons(*groups: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct reasons of all groups, first ones first, at most MOST_REASONS."""
    return tuple(dict.fromkeys(reason for group in groups for reason in group))[:MOST_REASONS]


class Triggers:
    """Wakes whoever waits for a trigger, once for all that came meanwhile."""

    def __init__(self) -> None:
        self._reasons: dict[str, None] = {}
        self.moving = False  # whether one of them was of files that may be changing still
        self._waiters: set[asyncio.Future[None]] = set()

    def add(self, reason: str, moving: bool = True) -> None:
        """Trigger a pass: wake whoever waits.

        reason: a few words on what happened; the same words again cost nothing. moving: whether files may still be
        changing, so that the pass has to wait until they do not.
        """
        self.moving |= moving
        if len(self._reasons) < MOST_REASONS:
            self._reasons[reason] = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __bool__(self) -> bool:
        """Tell whether a trigger came whose reason was not collected yet."""
        return bool(self._reasons)

    async def arrival(self, timeout: Optional[float] = None) -> bool:
        """Wait for a trigger, or for timeout seconds, and tell whether one came; the reasons stay."""
        if not self._reasons:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                # not wait_for: before Python 3.12 it could swallow a cancellation that came with the result
                await asyncio.wait([waiter], timeout=timeout)
            finally:
                self._waiters.discard(waiter)
        return bool(self._reasons)

    def collect(self) -> tuple[str, ...]:
        """Return the reasons since they were last collected, first ones first, and forget them."""
        reasons = tuple(self._reasons)
        self._reasons.clear()
        self.moving = False
        return reasons
