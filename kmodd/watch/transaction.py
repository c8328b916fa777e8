"""The lock that rpm holds through a transaction, and the wait until a change is complete.

rpm takes an fcntl(2) write lock on .rpm.lock beside its database before a transaction's first file and lets it go
after the last %posttrans and %transfiletriggerin (lib/rpmlock.c, lib/rpmts.c). The file stays for ever.
Must not: take that lock, or ask rpm anything.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Optional

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.log import get_logger
from .triggers import Triggers, first_reasons

#: struct flock of 64-bit Linux (asm-generic/fcntl.h): l_type, l_whence, [4 bytes] l_start, l_len, l_pid, [4 bytes].
FLOCK = struct.Struct("@hhqqi4x")


def transaction_holder(sysroot: Sysroot) -> Optional[int]:
    """Return the pid of the process that is in an rpm transaction, or None.

    The pid is 0 for a process of a pid namespace that we cannot see and -1 for an open file description lock:
    both mean that the lock is held, so compare with None. A transaction of this very process is not seen, since
    F_GETLK reports only locks that conflict with the caller's; and because closing any descriptor of a file drops
    all of a process's locks on it (fcntl(2)), this must not be called by a process that has one open.
    Raises Problem rpmdb-unreadable.
    """
    path = sysroot.rpm_lock
    try:
        # read-only: no IN_CLOSE_WRITE, which would be a trigger of our own making
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(sysroot, error) from error
    try:
        # a read lock is asked about, with which only a write lock conflicts
        asked = FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, _whence, _start, _length, pid = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    except OSError as error:
        raise _unreadable(sysroot, error) from error
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(pid)


def _unreadable(sysroot: Sysroot, error: OSError) -> Problem:
    path = sysroot.inside(sysroot.rpm_lock)
    return Problem(
        "rpmdb-unreadable",
        f"the rpm transaction lock {path} cannot be read: {error.strerror}",
        "run as root, and check the file system that holds the rpm database",
        transient=True,
        path=path,
    )


async def settle(
    sysroot: Sysroot,
    triggers: Triggers,
    quiet: float = 0.25,
    longest: float = 5.0,
    poll: float = 0.5,
    on_transaction: Optional[Callable[[int], None]] = None,
) -> tuple[str, ...]:
    """Debounce: wait, after a trigger, until changes have ended and no rpm transaction runs; return all reasons.

    quiet: seconds without a trigger that count as the end. longest: seconds after which a pass begins although triggers
    do not cease, counted anew from the end of a transaction, which itself is always waited for. poll: seconds between
    two checks of a held lock, in case that its release triggers nothing. on_transaction: called once with the pid of
    each transaction.
    A lock that cannot be read counts as free: that must not keep a kernel waiting, and reading the database will
    tell of it.
    """
    now = asyncio.get_running_loop().time
    began = now()
    last = began if triggers.moving else began - quiet
    reasons = triggers.collect()
    told: Optional[int] = None
    unreadable = False
    while True:
        try:
            holder = transaction_holder(sysroot)
        except Problem as problem:
            holder = None
            if not unreadable:
                get_logger().debug("rpm transaction lock not read", problem=problem.code, message=problem.message)
            unreadable = True
        if holder is not None:
            if holder != told:
                told = holder
                get_logger().debug("rpm transaction awaited", pid=holder)
                if on_transaction is not None:
                    on_transaction(holder)
            pause = poll
        else:
            if told is not None:
                told, began = None, now()
            pause = min(last + quiet, began + longest) - now()
            if pause <= 0:
                return first_reasons(reasons, triggers.collect())
        if await triggers.arrival(pause):
            last = now() if triggers.moving else last
            reasons = first_reasons(reasons, triggers.collect())
