"""Who may change a root: one process at a time, by flock(2) on /run/kmodd/lock; and what that one is doing.

The lock goes with its process, however that ends; the file stays and means nothing. Must not: wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from typing import Optional

from .errors import Problem
from .files import explained, replace_file
from .model import Target
from .paths import Sysroot


class Lock:
    """The right to change a root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self._descriptor = -1

    def acquire(self, what: str) -> None:
        """Take the lock. what: the program's name for the message to others. Raises Problem already-running."""
        path = self.sysroot.lock
        with explained(f"opening {self.sysroot.inside(path)}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            holder = self.holder() or "another process"
            text = f"{holder} is at work on {self.sysroot.root}"
            hint = "kmoddctl status shows what it is doing; only one may change a root at a time"
            raise Problem("already-running", text, hint) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{what} (pid {os.getpid()})".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(OSError):
                self.sysroot.progress.unlink()

    def holder(self) -> Optional[str]:
        """Return who holds the lock, such as "kmodd (pid 12)", or None."""
        try:
            with self.sysroot.lock.open("rb") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return stream.read(200).decode(errors="replace") or "another process"
        except OSError:
            pass
        return None

    # -- progress --------------------------------------------------------------------------------------------------
    def tell(self, running: Iterable[Target], activity: str) -> None:
        """Let others see what the holder is doing; a full disk is no reason to stop."""
        data = {"running": [[t.module, t.kernel] for t in sorted(running)], "activity": activity}
        with contextlib.suppress(OSError):
            replace_file(self.sysroot.progress, json.dumps(data).encode())

    def running(self) -> frozenset[Target]:
        """Return the targets that the holder is building now."""
        if self.holder() is None:
            return frozenset()
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            data = json.loads(self.sysroot.progress.read_bytes())
            return frozenset(Target(str(m), str(k)) for m, k in data["running"])
        return frozenset()
