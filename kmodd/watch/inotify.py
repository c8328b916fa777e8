"""Triggers a pass when something changes in the directories that kmodd reads.

Level-triggered: what should be watched is computed from the disk and the difference applied, after every batch of
events that may have changed it. So events may be dropped, merged or lost to an overflow; a directory that is newly
watched is a trigger, because nobody saw what happened in it before. Idle costs nothing: there is no timer and no
polling, and opening or reading a file is no event.
Must not: read files, or know what a change means.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

import pyinotify

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.log import get_logger
from .directories import GONE, RPM_LOCK, Interest, find_places
from .triggers import Triggers

LOST = pyinotify.IN_Q_OVERFLOW | pyinotify.IN_IGNORED | pyinotify.IN_UNMOUNT | GONE
STRUCTURE = pyinotify.IN_CREATE | pyinotify.IN_DELETE | pyinotify.IN_MOVED_FROM | pyinotify.IN_MOVED_TO

#: Bytes read in one turn of the event loop, some 300 events; what is left makes the descriptor readable again.
READ = 16384
HEADER = struct.Struct("@iIII")  # struct inotify_event of inotify(7): wd, mask, cookie, len
PASSES = 8  # of searching new directories for new directories, before the event loop gets its turn
RETRY = 30.0  # seconds until watching is tried again after an unexpected error
SHARE = 10  # a pass of rearming is followed by at least this many times its own duration without one

LIMITS = {
    errno.ENOSPC: ("watches", "fs.inotify.max_user_watches"),
    errno.EMFILE: ("instances", "fs.inotify.max_user_instances"),
    errno.ENFILE: ("open files", "fs.file-max"),
}

# pyinotify writes to stderr through a handler of its own
pyinotify.log.handlers.clear()
pyinotify.log.propagate = False
pyinotify.log.disabled = True


class _Notifier(pyinotify.AsyncioNotifier):  # type: ignore[misc]
    """pyinotify's notifier, reading a bounded number of events per turn and only those that matter.

    pyinotify 0.9.6 itself reads the whole queue at once, which for a full one holds up the loop for a fifth of a
    second, coalescing or not, and it gives up a batch at the first file name that is not UTF-8.
    """

    def __init__(
        self,
        manager: Any,
        matters: Callable[[int, int, str], bool],
        process: Callable[[Any], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self.matters = matters
        self.fail = fail
        super().__init__(manager, asyncio.get_running_loop(), default_proc_fun=process)

    def handle_read(self, *_: Any) -> None:
        try:
            super().handle_read()
        except Exception as error:  # it would be called again at once, for ever
            self.fail(error)

    def read_events(self) -> None:
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            return
        kinds: set[tuple[int, int]] = set()
        offset = 0
        while offset < len(data):
            wd, mask, _cookie, length = HEADER.unpack_from(data, offset)
            offset += HEADER.size + length
            if (wd, mask) in kinds:
                continue
            name = os.fsdecode(data[offset - length : offset].rstrip(b"\0"))
            if self.matters(wd, mask, name):
                kinds.add((wd, mask))
                self.append_event(pyinotify._RawEvent(wd, mask, 0, name))


class Watcher:
    """Watches one root, and triggers a pass when it changes.

    faults: what is not watched and why, as of the last rearm(); the daemon goes on with what it has.
    """

    def __init__(
        self, sysroot: Sysroot, triggers: Triggers, find_more: Callable[[], Sequence[str]] = lambda: ()
    ) -> None:
        """find_more: returns directories that are watched besides, in-root."""
        self.sysroot = sysroot
        self.triggers = triggers
        self._named = {RPM_LOCK: "an rpm transaction ended", sysroot.ring.name: "a package's trigger asked for it"}
        self.find_more = find_more
        self.faults: list[Problem] = []
        self._manager: Any = None
        self._notifier: Optional[_Notifier] = None
        self._watches: dict[int, tuple[str, Interest]] = {}
        self._again: Optional[asyncio.TimerHandle] = None
        self._not_before = 0.0
        self._known_faults: set[str] = set()
        self._instance_error = 0
        self._started = False

    @property
    def watched(self) -> frozenset[str]:
        """Return the in-root paths of the directories that are watched."""
        return frozenset(path for path, _interest in self._watches.values())

    def start(self) -> None:
        """Begin to watch, in the running event loop. Triggers nothing, and raises nothing: see faults."""
        self._started = True
        self._open()
        self._rearm(tell=False)

    def stop(self) -> None:
        """Give everything back; start() may follow."""
        self._started = False
        self._close()

    def rearm(self) -> None:
        """Watch the directories that are there now; each new one is a trigger.

        Called by itself after events, and by the daemon before each pass. Does nothing when not started.
        """
        if self._started:
            try:
                if self._manager is None:
                    self._open()
                self._rearm(tell=True)
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Start again in a while, after an unexpected error, with a pass for what was missed."""
        if repr(error) not in self._known_faults:
            get_logger().error("watching failed", reason=repr(error), hint=f"it is tried again in {RETRY:.0f} s")
        self._close()
        self.faults, self._known_faults = [], {repr(error)}
        self._again = asyncio.get_running_loop().call_later(RETRY, self._begin_anew)

    def _begin_anew(self) -> None:
        self._again = None
        self.triggers.add("events were lost")
        self.rearm()

    # -- the descriptor --------------------------------------------------------------------------------------------
    def _open(self) -> None:
        self._close()
        ctypes.set_errno(0)
        try:
            manager = pyinotify.WatchManager()
        except OSError:  # without an errno of its own
            self._manager = None
            self._instance_error = ctypes.get_errno()
            return
        os.set_inheritable(manager.get_fd(), False)
        os.set_blocking(manager.get_fd(), False)
        self._manager = manager
        self._notifier = _Notifier(manager, self._matters, self._process, self._fail)

    def _close(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._notifier is not None:
            self._notifier.stop()
        self._notifier = self._manager = None
        self._watches = {}

    # -- events ----------------------------------------------------------------------------------------------------
    def _matters(self, wd: int, mask: int, name: str) -> bool:
        if mask & LOST:
            return True
        watch = self._watches.get(wd)
        return watch is not None and bool(mask & (watch[1].get(None, 0) | watch[1].get(name, 0)))

    def _process(self, event: Any) -> None:
        if event.mask & pyinotify.IN_Q_OVERFLOW:
            self.triggers.add("events were lost")
            self._rearm_soon()
            return
        watch = self._watches.get(event.wd)
        if watch is None:
            return
        path = watch[0]
        if event.mask & LOST:
            self.triggers.add(f"{path} went away")
        else:
            self.triggers.add(self._named.get(event.name, f"{path} changed"))
        if event.mask & (LOST | STRUCTURE):
            self._rearm_soon()

    def _rearm_soon(self) -> None:
        """Rearm in the loop's next turn, or later in a storm, so that it costs no more than a share of the time."""
        if self._again is None:
            loop = asyncio.get_running_loop()
            self._again = loop.call_at(max(self._not_before, loop.time()), self.rearm)

    # -- watches ---------------------------------------------------------------------------------------------------
    def _rearm(self, *, tell: bool) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        faults: list[Problem] = []
        if self._manager is None:
            faults.append(_limit(self._instance_error, 0))
        else:
            for _ in range(PASSES):
                # a directory made after the listing and before its parent's watch is found by the next pass
                places, faults = find_places(self.sysroot, tuple(self.find_more()))
                new, gone, failed = self._apply(places)
                faults += failed
                if new or gone:
                    get_logger().debug("watches changed", watches=len(self._watches), new=len(new), gone=gone)
                if tell:
                    for path in new:
                        self.triggers.add(f"{path} appeared")
                if not new:
                    break
            else:
                self._rearm_soon()
        self.faults = faults
        for problem in faults:
            if _key(problem) not in self._known_faults:
                get_logger().warning(
                    "watch incomplete", problem=problem.code, message=problem.message, hint=problem.hint
                )
        self._known_faults = {_key(problem) for problem in faults}
        self._not_before = loop.time() + SHARE * (loop.time() - began)

    def _apply(self, places: Mapping[str, Interest]) -> tuple[list[str], int, list[Problem]]:
        """Watch these host paths and nothing else; return what is new, how many are gone, and what failed.

        All are added again: that changes nothing for the same directory, and finds the one that replaced it.
        """
        found: dict[int, tuple[str, Interest]] = {}
        errors: dict[int, list[str]] = {}
        for place, interest in places.items():
            inside = self.sysroot.inside(self.sysroot.root / place)
            try:
                wd = self._manager.add_watch(place, interest.mask)[place]
            except UnicodeEncodeError:  # pyinotify knows only names in the locale's encoding
                continue
            if wd in found:  # the same directory by two ways (a bind mount); the mask is the directory's
                interest = interest.merged(found[wd][1])
                self._manager.add_watch(place, interest.mask)
            if wd > 0:
                found[wd] = (inside, interest)
            elif ctypes.get_errno() not in (errno.ENOENT, errno.ENOTDIR):  # those: it was deleted meanwhile
                errors.setdefault(ctypes.get_errno(), []).append(inside)
        gone = [wd for wd in self._watches if wd not in found]
        for wd in gone:
            if self._manager.get_watch(wd) is not None:
                self._manager.rm_watch(wd)
        new = [found[wd][0] for wd in found if wd not in self._watches]
        self._watches = found
        return new, len(gone), [_limit(code, len(paths), paths[0]) for code, paths in errors.items()]


def _key(problem: Problem) -> str:
    return f"{problem.code} {problem.attributes}"  # the message counts, and would be new again and again


def _limit(code: int, number: int, example: str = "") -> Problem:
    """Return the problem that an errno of inotify is. number: of the directories concerned, 0 for all."""
    what = f"{number} directories such as {example} are" if number else "nothing is"
    if code in LIMITS:
        things, sysctl = LIMITS[code]
        return Problem(
            "watch-limit",
            f"{what} not watched: the limit of inotify {things} is reached",
            f"raise it: sysctl {sysctl}, and a file in /etc/sysctl.d to keep it",
            transient=True,
            sysctl=sysctl,
        )
    return Problem("watch-failed", f"{what} not watched: {os.strerror(code)}", transient=True, errno=code)
