"""How tests wait: for a condition, on however slow a machine. No other place of the tests sleeps or limits a time.

A build that must not end before something was seen is held, too (world.HELD), rather than made to last some seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Callable, TypeVar

if TYPE_CHECKING:
    import pytest

#: Seconds after which what is waited for will never come. It only ends what hangs: a good test takes none of it.
LIMIT = 600.0
T = TypeVar("T")


def wait_until(reached: Callable[[], bool], what: object = "", over: Callable[[], bool] = lambda: False) -> None:
    """Wait for a condition. what: for the message. over: tells that it will not come any more."""
    end = time.monotonic() + LIMIT
    while not reached():
        assert not over() and time.monotonic() < end, f"waited in vain for {what or reached}"
        time.sleep(0.05)


async def until(reached: Callable[[], bool], what: object = "") -> None:
    """Wait for a condition in a loop that goes on meanwhile. what: for the message."""
    end = time.monotonic() + LIMIT
    while not reached():
        assert time.monotonic() < end, f"waited in vain for {what or reached}"
        await asyncio.sleep(0.01)


async def within_limit(work: Awaitable[T]) -> T:
    """Return what some work comes to."""
    return await asyncio.wait_for(work, LIMIT)


def skip(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let everybody in this process believe that so many seconds have passed; less than LIMIT in all."""
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + seconds)


async def turns(count: int = 10) -> None:
    """Let the running loop do what is due."""
    for _ in range(count):
        await asyncio.sleep(0)


async def meanwhile(seconds: float) -> None:
    """Let a while pass in which something must not happen. A slow machine has less chance to show that it does."""
    await asyncio.sleep(seconds)


def pause(seconds: float) -> None:
    """As meanwhile, where there is no loop."""
    time.sleep(seconds)
