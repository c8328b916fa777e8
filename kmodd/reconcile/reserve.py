"""Free space that no build may use up: a build is stopped before the file systems that kmodd writes to are full.

Otherwise neither its outcome could be stored, nor could whatever else the server is for write there any more. Must
not: free space but by stopping builds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Optional, TypeVar

from ..core.errors import Problem
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.log import get_logger

PAUSE = 0.5  # seconds between two checks
SHORT_PAUSE = 0.05  # where little is left beyond the reserve
LITTLE = 4  # times the reserve
SHARE = 10  # of a file system's size no more than one in so many bytes is kept free
MEBIBYTE = 1 << 20

_Result = TypeVar("_Result")
_Task = asyncio.Task[Any]


class Reserve:
    """The free space of one root's file systems that hold scratch directories, state and logs (build.reserve)."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self._builds: dict[_Task, Path] = {}  # and their scratch directories
        self._stopped: dict[_Task, Problem] = {}
        self._watch: Optional[_Task] = None

    @property
    def size(self) -> int:
        """Return the bytes that are to stay free on each, 0 for none."""
        return self.settings.now.build.reserve

    # -- checking ---------------------------------------------------------------------------------------------------
    def left(self, more: int = 0) -> tuple[float, Optional[Problem]]:
        """Return how many times the reserve is free where least is, and the problem where that is less than once.

        more: bytes that are to be written to the state. What cannot be read, or is read-only, does not count:
        writing there says why it cannot be done.
        """
        worst: tuple[float, Optional[Problem]] = (sys.maxsize, None)
        seen: set[int] = set()
        sysroot = self.sysroot
        for place in (sysroot.state, sysroot.scratch, sysroot.logs) if self.size else ():
            with contextlib.suppress(OSError):
                path = _existing(place)
                device = path.stat().st_dev
                found = os.statvfs(path)
                if device in seen or found.f_flag & os.ST_RDONLY or not found.f_blocks:
                    continue
                seen.add(device)
                kept = max(min(self.size, found.f_blocks * found.f_frsize // SHARE), 1)
                free = found.f_bavail * found.f_frsize
                wanted = kept + (more if place == sysroot.state else 0)
                if free / wanted < worst[0]:
                    worst = free / wanted, self._problem(path, free, kept) if free < wanted else None
        return worst

    def check(self, more: int = 0) -> None:
        """Raise Problem disk-full where less than the reserve is free, or would be with so many bytes more."""
        problem = self.left(more)[1]
        if problem is not None:
            raise problem

    def _problem(self, path: Path, free: int, kept: int) -> Problem:
        where = self.sysroot.inside(_mount_point(path, self.sysroot.root))
        text = f"only {_shown(free)} are free on the file system of {where}, and {_shown(kept)} are to stay free"
        hint = "free some space there, or lower build.reserve; kmodd tries again by itself"
        return Problem("disk-full", text, hint, transient=True)

    # -- builds ----------------------------------------------------------------------------------------------------
    async def keep(self, scratch: Path, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return what a build's work comes to, which is cancelled where the build takes what is in reserve.

        scratch: where it writes; the work deletes it at its end. Raises Problem disk-full.
        """
        task = asyncio.ensure_future(work)
        self._builds[task] = scratch
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._keep_watch())
        try:
            return await task
        except asyncio.CancelledError:
            if task in self._stopped:
                raise self._stopped[task] from None
            raise
        finally:
            del self._builds[task]
            self._stopped.pop(task, None)
            if not self._builds:
                self._watch.cancel()

    async def _keep_watch(self) -> None:
        """Stop builds as long as too little is free, the one that takes most first, each at its end before the next."""
        while True:
            left, problem = await asyncio.to_thread(self.left)
            builds = {task: scratch for task, scratch in self._builds.items() if not task.done()}
            if problem is not None and builds and not any(task in self._stopped for task in builds):
                sizes = await asyncio.to_thread(_sizes, builds)
                most = max(sizes, key=lambda task: sizes[task])
                if not most.done():
                    get_logger().warning("build stopped", scratch=builds[most].name, reason=problem.message)
                    self._stopped[most] = problem
                    most.cancel()
            await asyncio.sleep(SHORT_PAUSE if left < LITTLE else PAUSE)


def _sizes(builds: Mapping[_Task, Path]) -> dict[_Task, int]:
    return {task: _used(scratch) for task, scratch in builds.items()}


def _existing(path: Path) -> Path:
    """Return a path, or the nearest directory above it that is there."""
    return next((place for place in (path, *path.parents) if place.exists()), path)


def _mount_point(path: Path, root: Path) -> Path:
    """Return the topmost directory of a path's file system inside a root."""
    device = path.stat().st_dev
    while path != root and path.parent.stat().st_dev == device:
        path = path.parent
    return path


def _used(top: Path) -> int:
    """Return the bytes that a directory takes, links not followed; most of all where it is too deep to be counted."""
    total, pending, seen = 0, [str(top)], set()
    while pending:
        try:
            with os.scandir(pending.pop()) as scan:
                for entry in scan:
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink == 1 or found.st_ino not in seen:
                        total += found.st_blocks * 512
                    if found.st_nlink > 1:
                        seen.add(found.st_ino)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return sys.maxsize
    return total


def _shown(size: int) -> str:
    return f"{max(size, 0) / MEBIBYTE:.1f} MiB"
