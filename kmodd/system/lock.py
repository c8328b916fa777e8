"""Who may change a root: one process at a time, by a lock on /var/lib/kmodd/lock; and what that one is doing.

It is a write lock of an open file description (fcntl(2), F_OFD_SETLK): it goes with its process, however that ends, can
be asked for without being taken, and only who may write the file can take it. It does not lie in /run/kmodd, which may
be wiped while builds run. The file stays and means nothing. Must not: wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
from collections.abc import Iterable
from typing import Any, Optional

from ..core.errors import Problem
from ..core.model import Target
from ..core.sysroot import PROCESSES, Sysroot
from .files import explained, make_directory, read_own, replace_file

#: struct flock of 64-bit Linux (asm-generic/fcntl.h): l_type, l_whence, [4 bytes] l_start, l_len, l_pid, [4 bytes].
FLOCK = struct.Struct("@hhqqi4x")
MODE = 0o600  # who may only read it could keep others out by a read lock


class Lock:
    """The right to change a root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self._descriptor = -1
        self._what = ""

    def acquire(self, what: str) -> None:
        """Take the lock. what: the program's name for the message to others. Raises Problem already-running."""
        path = self.sysroot.lock
        with explained(f"opening {self.sysroot.inside(path)}"):
            make_directory(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            os.close(descriptor)
            holder = self.holder() or "another process"
            text = f"{holder} is at work on {self.sysroot.root}"
            hint = "kmoddctl status shows what it is doing; only one may change a root at a time"
            raise Problem("already-running", text, hint) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{what} (pid {os.getpid()})".encode(), 0)
        self._descriptor, self._what = descriptor, what
        self.tell((), "starting")

    def keep(self) -> None:
        """Take the lock anew where its file was deleted. Raises Problem already-running if another has it by now."""
        if self._descriptor < 0:
            return
        held = os.fstat(self._descriptor)
        with contextlib.suppress(OSError):
            found = self.sysroot.lock.lstat()
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return
        lost = self._descriptor
        self.acquire(self._what)
        os.close(lost)

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
            descriptor = os.open(self.sysroot.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except PermissionError:
            return self._written_holder()
        except OSError:
            return None
        try:
            asked = FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)  # only a write lock stands in its way
            kind = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0]
            if kind == fcntl.F_UNLCK:
                return None
            return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        finally:
            os.close(descriptor)

    def _written_holder(self) -> Optional[str]:
        """Return the holder where the lock may not be opened: as its file says, if that process still runs."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            told = self._progress()["holder"]
            if _began(int(told["pid"])) == str(told["began"]):
                return str(told["name"])
        return None

    # -- progress --------------------------------------------------------------------------------------------------
    def tell(self, running: Iterable[Target], activity: str) -> None:
        """Let others see what the holder is doing; a full disk is no reason to stop."""
        pid = os.getpid()
        with contextlib.suppress(OSError):
            data = {
                "holder": {"name": f"{self._what} (pid {pid})", "pid": pid, "began": _began(pid)},
                "running": [[t.module, t.kernel] for t in sorted(running)],
                "activity": activity,
            }
            replace_file(self.sysroot.progress, json.dumps(data).encode())

    def running(self) -> frozenset[Target]:
        """Return the targets that the holder is building now."""
        if self.holder() is None:
            return frozenset()
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return frozenset(Target(str(m), str(k)) for m, k in self._progress()["running"])
        return frozenset()

    def activity(self) -> Optional[str]:
        """Return what the holder says that it does, such as idle or building; None where there is none."""
        if self.holder() is None:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return str(self._progress()["activity"])
        return None

    def _progress(self) -> Any:
        return json.loads(read_own(self.sysroot.progress))


def _began(pid: int) -> str:
    """Return when a process began, in ticks since the boot (proc(5)); no other of that pid did. Raises OSError."""
    return (PROCESSES / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[19]
