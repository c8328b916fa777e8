"""A GNU make jobserver for all builds, so that together they run no more jobs than there are cores.

Protocol: make reads a byte (a token) from a pipe for each job beyond its first and writes it back when the job ended
(GNU make manual, "POSIX Jobserver Interaction"). Every build has two pipes of its own: one from which its makes read
what this process gives them, and one into which they write what they give back. So a build can take, keep, forge or
block only what is its own. This process never blocks on a pipe: its ends are its own open file descriptions, whose
flags a build cannot change. Why: docs/decisions/0001-jobserver.md. Must not: know what is built.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator, Callable
from typing import Optional

SPARE = 10  # the first descriptor that scripts leave alone: configure, for one, uses those below for itself
TICK = 0.1  # seconds after which tokens that one build left unread go to another
SHY = 20  # ticks for which a build that left its tokens unread comes after the others
PATIENCE = 20.0  # seconds that a build waits for its start while others keep all tokens
MOST = 4096  # bytes of what is given back that are read at once


class Share:
    """The part of one build: its two pipes, and how many tokens it has. given_back is called when some are back."""

    def __init__(self, given_back: Callable[[], None]) -> None:
        self.granted = 0  # tokens that it has, read or not, besides the one job that it always may run
        self.shy = 0  # ticks for which others that want tokens come first
        self.is_paused = False  # gave back more than it had: not listened to until the next tick
        self._given_back = given_back
        self._loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as opened:
            self._source, self._supply = _open_pipe(opened)
            self._returns, self._sink = _open_pipe(opened)
            # Taking back must not change the flags that make sees, hence another open file description.
            self._unread = os.open(f"/proc/self/fd/{self._source}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, self._unread)
            self._opened = opened.pop_all()
        for descriptor in (self._supply, self._returns):
            os.set_blocking(descriptor, False)
        self.listen()

    def close(self) -> None:
        """Close both pipes."""
        self._ignore()
        self._opened.close()

    @property
    def descriptors(self) -> tuple[int, int]:
        """Return the two ends that a make must inherit."""
        return self._source, self._sink

    @property
    def flags(self) -> str:
        """Return MAKEFLAGS for a make that takes part."""
        return f" -j --jobserver-auth={self._source},{self._sink}"

    @property
    def unread(self) -> int:
        """Return how many tokens no make has read yet."""
        (count,) = struct.unpack("i", fcntl.ioctl(self._unread, termios.FIONREAD, bytes(4)))
        return int(count)

    def give(self) -> bool:
        """Give it a token; tells whether the pipe had space for it."""
        try:
            self.granted += os.write(self._supply, b"+")
        except BlockingIOError:
            return False
        return True

    def take_unread(self) -> bool:
        """Take back a token that no make has read; tells whether there was one."""
        with contextlib.suppress(BlockingIOError):
            if self.granted and os.read(self._unread, 1):
                self.granted -= 1
                return True
        return False

    def listen(self) -> None:
        """Read what is given back from now on."""
        self.is_paused = False
        self._loop.add_reader(self._returns, self._read)

    def _ignore(self) -> None:
        self.is_paused = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._returns)

    def _read(self) -> None:
        count = 0
        with contextlib.suppress(BlockingIOError):
            count = len(os.read(self._returns, MOST))
        if count > self.granted:
            self._ignore()  # a build that forges tokens costs one reading a tick
        self.granted -= min(count, self.granted)
        self._given_back()


class Jobserver:
    """jobs: tells how many may run at once. patience: seconds. Use it in one running event loop."""

    def __init__(self, jobs: Callable[[], int], patience: float = PATIENCE) -> None:
        self._jobs = jobs
        self.patience = patience
        self.shares: list[Share] = []  # one for each build that runs
        self._starting: collections.deque[asyncio.Future[Share]] = collections.deque()
        self._waited = 0.0  # seconds for which the first of them has waited
        self._timer: Optional[asyncio.TimerHandle] = None

    @property
    def jobs(self) -> int:
        """Return how many jobs may run at once, at least 1."""
        return max(1, self._jobs())

    @property
    def running(self) -> int:
        """Return how many builds run."""
        return len(self.shares)

    @property
    def granted(self) -> int:
        """Return how many jobs may run now: one a build, and one a token that it has."""
        return sum(1 + share.granted for share in self.shares)

    def close(self) -> None:
        """Close the pipes of all builds."""
        while self.shares:
            self.shares.pop().close()
        self._schedule()

    @contextlib.asynccontextmanager
    async def job(self) -> AsyncIterator[Share]:
        """Hold one job for the length of the block; waits for it, first come, first served."""
        start: asyncio.Future[Share] = asyncio.get_running_loop().create_future()
        self._starting.append(start)
        self._balance()
        try:
            yield await start
        finally:
            if start in self._starting:  # cancelled while it waited
                self._starting.remove(start)
            elif not start.cancelled() and start.exception() is None and start.result() in self.shares:
                self.shares.remove(start.result())
                start.result().close()
            self._balance()

    def _balance(self) -> None:
        """Start what can start, and give the running builds what is left."""
        while self._starting and self._find_token():
            start = self._starting.popleft()
            if not start.cancelled():
                self._start(start)
        if not self._starting:
            self._distribute()
        self._schedule()

    def _start(self, start: asyncio.Future[Share]) -> None:
        self._waited = 0.0
        try:
            share = Share(self._balance)
        except OSError as error:  # no descriptors are left
            start.set_exception(error)
            return
        self.shares.append(share)
        start.set_result(share)

    def _find_token(self) -> bool:
        """Tell whether there is a free token, for which those that no make has read are taken back."""
        while self.granted >= self.jobs:
            if not any(share.take_unread() for share in self.shares):
                return False
        return True

    def _distribute(self) -> None:
        """Give away all free tokens: to those that have read what they had, and of them to whom has least."""
        candidates = list(self.shares)
        while candidates and self.granted < self.jobs:
            share = min(candidates, key=lambda share: (share.shy > 0, share.unread, share.granted))
            if not share.give():
                candidates.remove(share)

    # -- what no event tells: that tokens are not wanted, or do not come back -------------------------------------
    def _schedule(self) -> None:
        needed = len(self.shares) > 1 or self._starting or any(share.is_paused for share in self.shares)
        if self._timer is None and needed and self.shares:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
        elif self._timer is not None and not (needed and self.shares):
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        for share in self.shares:
            share.shy = max(share.shy - 1, 0)
            if share.is_paused:
                share.listen()
        if self._starting:
            self._waited += TICK
            if self._waited >= self.patience and self.running < self.jobs:
                self._write_off()
        else:
            self._even_out()
        self._balance()

    def _even_out(self) -> None:
        """Give tokens that some leave unread to those that have read all of theirs."""
        for share in self.shares:
            if share.unread or share.shy:
                continue
            other = max(self.shares, key=lambda other: other.unread)
            if other.take_unread():
                other.shy = 0 if other.unread else SHY
                share.give()

    def _write_off(self) -> None:
        """Let a build start although one that has more than its first job keeps all of it; it returns to nobody."""
        share = max(self.shares, key=lambda share: share.granted)
        share.granted = max(share.granted - 1, 0)


def _open_pipe(opened: contextlib.ExitStack) -> tuple[int, int]:
    """Open a pipe above the descriptors that scripts use."""
    with contextlib.ExitStack() as low:
        ends = os.pipe()
        for end in ends:
            low.callback(os.close, end)
        source, sink = (_above(end, opened) for end in ends)
    return source, sink


def _above(end: int, opened: contextlib.ExitStack) -> int:
    descriptor = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, SPARE)
    opened.callback(os.close, descriptor)
    return descriptor
