"""A GNU make jobserver that all builds share, so that together they run no more jobs than there are cores.

Protocol: a pipe that holds one byte per free job (GNU make manual, "POSIX Jobserver Interaction"). Every build
itself takes one byte from it while it runs, which is the job that its make owns without asking. Tokens that a
killed or hostile make took with it are restored as soon as no build runs. Must not: know what is built.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator

SPARE = 10  # the first descriptor that scripts leave alone: configure, for one, uses those below for itself


class Jobserver:
    """jobs: how many may run at once, at least 1. Make it inside the running event loop."""

    def __init__(self, jobs: int) -> None:
        self.jobs = max(1, jobs)
        self.running = 0
        self._pipe: tuple[int, int] = (-1, -1)
        self._reader = -1
        self._freed = asyncio.Event()
        self._queue = asyncio.Lock()

    def _renew(self) -> None:
        """Start again with a full pipe; only while no build runs."""
        self.close()
        ends = os.pipe()
        source, sink = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, SPARE) for end in ends)
        self._pipe = (source, sink)
        for end in ends:
            os.close(end)
        # Reading without blocking must not change the flags that make sees, hence a second open file description.
        self._reader = os.open(f"/proc/self/fd/{self._pipe[0]}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(self._pipe[1], b"+" * self.jobs)

    def close(self) -> None:
        """Close the pipe."""
        for descriptor in (*self._pipe, self._reader):
            if descriptor >= 0:
                os.close(descriptor)
        self._pipe, self._reader = (-1, -1), -1

    @property
    def descriptors(self) -> tuple[int, int]:
        """Return the two ends that a make must inherit."""
        return self._pipe

    @property
    def flags(self) -> str:
        """Return MAKEFLAGS for a make that takes part."""
        return f" -j --jobserver-auth={self._pipe[0]},{self._pipe[1]}"

    def _take(self) -> bool:
        if self.running == 0:
            self._renew()
        try:
            return bool(os.read(self._reader, 1))
        except BlockingIOError:
            return False

    async def _wait(self) -> None:
        """Wait until a token may be there or a build ended."""
        self._freed.clear()
        readable = asyncio.Event()
        loop, reader = asyncio.get_running_loop(), self._reader
        loop.add_reader(reader, readable.set)
        waits = [asyncio.ensure_future(readable.wait()), asyncio.ensure_future(self._freed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(reader)
            for wait in waits:
                wait.cancel()

    @contextlib.asynccontextmanager
    async def job(self) -> AsyncIterator[None]:
        """Hold one job for the length of the block; waits for it, first come, first served."""
        async with self._queue:
            while not self._take():
                await self._wait()
            self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            with contextlib.suppress(OSError):
                os.write(self._pipe[1], b"+")
            self._freed.set()
