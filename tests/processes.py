"""Processes that tests start: which are left, and stubborn ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import meanwhile, wait_until, within_limit

from kmodd.system.run import run

#: Ignores what it can, holds the pipes, and has a child that does so, too.
STUBBORN = "trap '' TERM HUP INT; (trap '' TERM HUP INT; while :; do sleep 1; done) & while :; do sleep 1; done"


@contextlib.contextmanager
def nothing_left(mark: str) -> Iterator[None]:
    """Fail if, at the end of the block, a process that has a text in its environment, a child or a descriptor stays."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    wait_until(lambda: not find_marked(mark) and not find_children(), "the end of what was started")
    assert len(os.listdir("/proc/self/fd")) <= before


def find_marked(mark: str) -> list[str]:
    """Return the processes that have a text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def find_children() -> list[str]:
    """Return this process's children, zombies and those that are no program yet included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.append(path.parent.name)
    return found


async def cancel_one(seed: int, mark: str) -> None:
    """Start a stubborn program and cancel that at some instant, most often while it begins."""
    chance = random.Random(seed)
    task = asyncio.ensure_future(run(["sh", "-c", STUBBORN], env={"MARK": mark}, stdin=b"x" * (1 << 20)))
    delay = chance.choice((0.0, 0.0005, 0.002, 0.01, 0.05)) * chance.random()
    for _ in range(chance.randrange(6)):
        await asyncio.sleep(0)
    await meanwhile(delay)
    task.cancel()
    if chance.random() < 0.2:  # impatience
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def cancel_many(many: int, mark: str) -> None:
    """Cancel so many programs at random instants, five side by side."""

    async def cancel() -> None:
        for first in range(0, many, 5):
            await asyncio.gather(*(cancel_one(seed, mark) for seed in range(first, first + 5)))

    asyncio.run(within_limit(cancel()))
