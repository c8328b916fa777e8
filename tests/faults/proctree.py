"""Which processes belong to a daemon, and what they are called, by proc(5)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Process(NamedTuple):
    pid: int
    parent: int
    name: str  # comm, 15 characters at most
    state: str


def _all() -> Iterator[Process]:
    for entry in os.listdir(PROC):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                text = (PROC / entry / "stat").read_text(errors="replace")
                head, _, rest = text.rpartition(")")
                state, parent = rest.split()[:2]
                yield Process(int(entry), int(parent), head.partition("(")[2], state)


def descendants(pid: int) -> list[Process]:
    """Return all children of a process, and theirs."""
    below: dict[int, list[Process]] = {}
    for process in _all():
        below.setdefault(process.parent, []).append(process)
    found, left = [], [pid]
    while left:
        children = below.get(left.pop(), [])
        found += children
        left += [child.pid for child in children]
    return found


def words(pid: int) -> str:
    """Return the command line of a process, "" where it is gone."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def using(text: str) -> list[str]:
    """Return the command lines that speak of something, such as a root, of processes that are not this one's own."""
    own = {os.getpid(), os.getppid()}
    lines = [words(process.pid) for process in _all() if process.state != "Z" and process.pid not in own]
    return [line for line in lines if text in line]


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; tells whether there was somebody to send it to."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
