"""Starts a program and watches it to its end: a fork that waits for nothing, so that starting can be cut short, too.

asyncio's own way cannot be cancelled while it starts: it then waits for whoever holds the pipes, and leaves alive what
the program has started. Here the process is known from its first moment, what it prints is read as it comes, and a
kill is one of its whole group. For `run` alone. Must not: know what is run, or what its end means.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NoReturn, Optional

from ..core.sysroot import OPEN_FILES

PIECE = 1 << 16  # bytes that are read at once
LOST = 126  # exit status of a child that could not become the program
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python, and programs would inherit that
CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Order:
    """What is to be started.

    argv: the program's absolute path, and its arguments. feeds: its stdin is a pipe, else it is empty. merged: stderr
    goes where stdout does. prepare: what the child does before it becomes the program, such as setting limits.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Optional[Path]
    feeds: bool
    merged: bool
    pass_fds: Sequence[int]
    prepare: Callable[[], None]


class Child:
    """A program from its fork on. `gone` is done when it has ended; `close` is to be called in any case."""

    def __init__(self, order: Order) -> None:
        """Fork; the child has yet to become the program. Raises OSError, MemoryError and RuntimeError."""
        sys.audit("subprocess.Popen", order.argv[0], [*order.argv], order.cwd, order.env)  # as subprocess tells of it
        self.loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self.status: Optional[int] = None  # as Popen.returncode, once it is closed
        self.error: Optional[OSError] = None  # why it could not become the program
        self._said = b""  # the number of that error
        self._dead = False  # what is left of it is to be reaped
        self._closed = False
        self._pidfd = -1
        self._open: set[int] = set()
        theirs: set[int] = set()
        try:
            stdin, self._stdin = _pipe(theirs, self._open) if order.feeds else (_nothing(theirs), -1)
            self._stdout, stdout = _pipe(self._open, theirs)
            self._stderr, stderr = (-1, stdout) if order.merged else _pipe(self._open, theirs)
            self._report, report = _pipe(self._open, theirs)
            for descriptor in self._open:
                os.set_blocking(descriptor, False)
            self.pid = _fork(order, (stdin, stdout, stderr), report)
        except BaseException:
            _close(self._open)
            raise
        finally:
            _close(theirs)
        try:
            self._watch()
        except BaseException:
            self.kill()
            os.waitpid(self.pid, 0)
            _close(self._open)
            raise

    # -- its input and output ------------------------------------------------------------------------------------------
    def follow(
        self, stdin: bytes, out: Callable[[bytes], object], err: Callable[[bytes], object]
    ) -> asyncio.Future[list[None]]:
        """Feed it and hand on what it prints; done when it has ended and nobody holds its output any more.

        What out and err raise is the future's exception. It is not to be cancelled.
        """
        waits = [self.gone, self._read(self._stdout, out), self._read(self._report, self._hear)]
        if self._stderr >= 0:
            waits.append(self._read(self._stderr, err))
        if self._stdin >= 0:
            waits.append(self._feed(memoryview(stdin)))
        return asyncio.gather(*waits)

    def _hear(self, said: bytes) -> None:
        self._said += said
        number = int(self._said)
        self.error = OSError(number, os.strerror(number))

    def _read(self, descriptor: int, take: Callable[[bytes], object]) -> asyncio.Future[None]:
        ended: asyncio.Future[None] = self.loop.create_future()

        def read() -> None:
            try:
                chunk = os.read(descriptor, PIECE)
                if chunk:
                    take(chunk)
                    return
                ended.set_result(None)
            except BlockingIOError:
                return
            except Exception as error:
                ended.set_exception(error)
            self._shut(descriptor)

        self.loop.add_reader(descriptor, read)
        return ended

    def _feed(self, rest: memoryview) -> asyncio.Future[None]:
        """Write its stdin, as far as it reads that."""
        ended: asyncio.Future[None] = self.loop.create_future()

        def write() -> None:
            nonlocal rest
            try:
                rest = rest[os.write(self._stdin, rest) :] if rest else rest
            except BlockingIOError:
                return
            except OSError:  # it reads no more
                rest = rest[:0]
            if not rest:
                self._shut(self._stdin)
                ended.set_result(None)

        self.loop.add_writer(self._stdin, write)
        return ended

    def _shut(self, descriptor: int) -> None:
        self.loop.remove_reader(descriptor)
        self.loop.remove_writer(descriptor)
        self._open.discard(descriptor)
        os.close(descriptor)

    # -- its end -------------------------------------------------------------------------------------------------------
    def _watch(self) -> None:
        """Learn of its end; until `close` it stays a zombie, so that nobody else gets its number."""
        try:
            self._pidfd = os.pidfd_open(self.pid)
            self.loop.add_reader(self._pidfd, self._ended)
        except (OSError, AttributeError):  # before Linux 5.3, or no descriptor is left
            threading.Thread(target=self._wait, name=f"pid {self.pid}", daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        if self._pidfd >= 0:
            self.loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._dead = True
        if not self.gone.done():
            self.gone.set_result(None)
        if self._closed:
            self._reap()

    def _reap(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def kill(self) -> None:
        """Kill it and its group. First itself: then it neither becomes a leader nor starts others any more."""
        for kill in (os.kill, os.killpg):
            if self.status is None:
                with contextlib.suppress(ProcessLookupError):
                    kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Give up what is held for it. One that a kill has not ended yet, since a disk lets it wait, is reaped then."""
        if not self._closed:
            self._closed = True
            for descriptor in tuple(self._open):
                self._shut(descriptor)
            if self._dead:
                self._reap()


def _close(descriptors: set[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _pipe(reading: set[int], writing: set[int]) -> tuple[int, int]:
    """Return the ends of a new pipe, each noted in a set."""
    ends = os.pipe()
    reading.add(ends[0])
    writing.add(ends[1])
    return _above(ends[0], reading), _above(ends[1], writing)


def _nothing(reading: set[int]) -> int:
    """Return a descriptor from which nothing is read, noted in a set."""
    descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    reading.add(descriptor)
    return _above(descriptor, reading)


def _above(descriptor: int, noted: set[int]) -> int:
    """Return a descriptor that is none of the standard three, which the child puts others upon."""
    if descriptor > 2:
        return descriptor
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    noted.add(high)
    noted.discard(descriptor)
    os.close(descriptor)
    return high


def _fork(order: Order, standard: tuple[int, int, int], report: int) -> int:
    """Return the pid of a new child, which becomes the program, or writes the number of its error to report.

    No finalizer of this process's objects runs in the child, and no signal is taken for this process's there.
    """
    collects = gc.isenabled()
    gc.disable()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            _become(order, standard, report, parent, mask)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if collects:
            gc.enable()


def _become(order: Order, standard: tuple[int, int, int], report: int, parent: int, mask: Iterable[int]) -> NoReturn:
    """Turn a new child into the program."""
    number = errno.ENOMEM  # what any error but that of a call is taken for
    try:
        signal.set_wakeup_fd(-1)
        for caught in CAUGHT:
            if callable(signal.getsignal(caught)):
                signal.signal(caught, signal.SIG_DFL)
        for ignored in IGNORED:
            signal.signal(ignored, signal.SIG_DFL)
        os.setsid()
        order.prepare()
        if os.getppid() != parent:  # it died before prepare could ask to die with it
            os._exit(LOST)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for place, descriptor in enumerate(standard):
            os.dup2(descriptor, place)
        for name in os.listdir(OPEN_FILES):  # whoever started this process may have left it some
            with contextlib.suppress(OSError):  # it is the listing's own
                os.set_inheritable(int(name), int(name) <= 2 or int(name) in order.pass_fds)
        if order.cwd is not None:
            os.chdir(order.cwd)
        os.execve(order.argv[0], [*order.argv], order.env)
    except OSError as error:
        number = error.errno or number
    finally:  # nothing of this process's may run on here
        try:
            os.write(report, str(number).encode())
        finally:
            os._exit(LOST)
