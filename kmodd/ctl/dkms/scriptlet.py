"""Whether this process runs inside an rpm transaction, as scriptlets do; and --rpm_safe_upgrade, which spans one.

Must not: wait, or ask rpm anything.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Optional

from ...core.errors import Problem
from ...core.sysroot import Sysroot
from ...system.files import explained, replace_file
from ...watch.transaction import transaction_holder

PROCESSES = Path("/proc")


def find_transaction(sysroot: Sysroot) -> Optional[int]:
    """Return the pid of the rpm transaction that this process is a part of, None where it is none's.

    A transaction that may be our own (its holder is in another pid namespace, or there is no /proc) counts as that: who
    waits for its own transaction waits for ever.
    """
    try:
        holder = transaction_holder(sysroot)
    except Problem:
        return None  # a process that may not read it is no child of rpm
    if holder is None or holder <= 0:
        return holder
    ancestors = _ancestors()
    return holder if ancestors is None or holder in ancestors else None


def _ancestors() -> Optional[set[int]]:
    """Return the pids above this process, None where /proc does not tell."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0:
        fields = _stat(pid)
        if fields is None:
            return None
        pid = int(fields[1])  # proc(5): state, ppid, ...
        found.add(pid)
    return found


def _stat(pid: int) -> Optional[list[str]]:
    """Return the fields of /proc/PID/stat after the name, which may hold anything."""
    with contextlib.suppress(OSError, ValueError):
        return (PROCESSES / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return None


def _began(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""  # starttime


class SafeUpgrade:
    """Remembers what was added by which transaction, so that a removal by the same one is recognized (dkms(8))."""

    def __init__(self, sysroot: Sysroot, name: str, version: str) -> None:
        self.sysroot = sysroot
        self.path = sysroot.below(sysroot.runtime, "dkms") / f"{name}-{version}"

    def mark(self, pid: int) -> None:
        """Remember an addition by a transaction. Raises Problem."""
        with explained(f"writing {self.sysroot.inside(self.path)}"):
            replace_file(self.path, f"{pid} {_began(pid)}".encode())

    def claim(self, pid: int) -> bool:
        """Tell whether this very transaction added it, and forget it."""
        try:
            said = self.path.read_text()
            self.path.unlink()
        except OSError:
            return False
        return said == f"{pid} {_began(pid)}"
