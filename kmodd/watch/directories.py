"""Which directories are watched, and for which events: a pure reading of the directory tree.

The important ones come first, since the system limits how many there may be.
Must not: watch anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Optional

import pyinotify

from ..core.errors import Problem
from ..core.sysroot import DKMS_SOURCES, Sysroot

GONE = pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF
COMING = pyinotify.IN_CREATE | pyinotify.IN_MOVED_TO
GONE_ENTRY = pyinotify.IN_DELETE
ENTRIES = COMING | pyinotify.IN_DELETE | pyinotify.IN_MOVED_FROM
WRITTEN = pyinotify.IN_CLOSE_WRITE
CHANGES = ENTRIES | WRITTEN | pyinotify.IN_ATTRIB

#: The one file of the rpm database that counts: rpm closes it at the end of a transaction, while mere queries write
#: to others, such as rpmdb.sqlite-shm.
RPM_LOCK = ".rpm.lock"


class Interest(dict[Optional[str], int]):
    """Which events matter, by the entry's name; None stands for every name."""

    @property
    def mask(self) -> int:
        """Return what to ask inotify for."""
        every: int = GONE | pyinotify.IN_ONLYDIR | pyinotify.IN_DONT_FOLLOW
        for mask in self.values():
            every |= mask
        return every

    def merged(self, other: Interest) -> Interest:
        """Return the interest in what either is interested in."""
        both = Interest(self)
        for name, mask in other.items():
            both[name] = both.get(name, 0) | mask
        return both


def find_places(sysroot: Sysroot, more: Iterable[str] = ()) -> tuple[dict[str, Interest], list[Problem]]:
    """Return what to watch by host path, all of them existing directories, and what could not be found out.

    more: further directories, in-root, that the settings name.
    """
    places = _Places(sysroot)
    everything = Interest({None: CHANGES})
    kernels = places.want(lambda: sysroot.modules, everything)
    trees = places.want(lambda: sysroot.kernel_trees, Interest({None: ENTRIES}))
    places.want(lambda: sysroot.rpm_lock.parent, Interest({RPM_LOCK: WRITTEN}))
    places.want(lambda: sysroot.ring.parent, Interest({sysroot.ring.name: WRITTEN}))
    local = places.want(lambda: sysroot.registries[0], everything)
    vendor = places.want(lambda: sysroot.registries[1], everything)
    places.want(lambda: sysroot.configuration.parent, everything)
    places.want(lambda: sysroot.keys.parent, everything)  # that too, if the configuration is a link to elsewhere
    places.want(lambda: sysroot.keys, everything)
    places.want(lambda: sysroot.dkms_overrides, everything)
    places.want(lambda: sysroot.runtime, Interest({sysroot.socket.name: GONE_ENTRY}))
    places.want(lambda: sysroot.held, Interest({None: ENTRIES}))
    places.want(lambda: sysroot.boot_entries, Interest({None: ENTRIES}))
    for kind in ("modprobe", "modules-load", "depmod"):
        places.want(partial(sysroot.dropin_directory, kind), everything)
    for path in more:
        directory = places.want(partial(sysroot.resolve, path), everything)
        for below in places.subdirectories(directory if path == DKMS_SOURCES else None):
            places.add(below, Interest({"dkms.conf": CHANGES}))
    for registry in (local, vendor):
        for directory in places.subdirectories(registry):
            if directory.suffix == ".patches":
                places.add(directory, everything)
    for directory in places.subdirectories(trees):
        places.add(directory, Interest({None: ENTRIES, ".config": WRITTEN, "Module.symvers": WRITTEN}))
    releases = list(places.subdirectories(kernels))
    for directory in releases:
        places.add(directory, everything)
    for directory in releases:
        for below in places.below(directory / "extra"):
            places.add(below, everything)
    return places.found, places.faults


class _Places:
    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self.found: dict[str, Interest] = {}
        self.faults: list[Problem] = []

    def add(self, directory: Path, interest: Interest) -> None:
        known = self.found.get(str(directory))
        self.found[str(directory)] = interest if known is None else interest.merged(known)

    def want(self, find: Callable[[], Path], interest: Interest) -> Optional[Path]:
        """Add a directory and return it; where it is missing, add its nearest ancestor, for its coming."""
        try:
            path = find()
        except Problem as problem:  # a loop of links: what is wrong with one place concerns no other
            self.faults.append(problem)
            return None
        if path.is_dir():
            self.add(path, interest)
            return path
        while path != self.sysroot.root:
            path, name = path.parent, path.name
            if path.is_dir():
                self.add(path, Interest({name: COMING}))
                break
        return None

    def subdirectories(self, directory: Optional[Path]) -> Iterator[Path]:
        """Return the directories in a directory, links to directories of the root followed."""
        if directory is None:
            return
        try:
            with os.scandir(directory) as entries:
                found = sorted((e.name, e.is_symlink()) for e in entries if e.is_dir() or e.is_symlink())
        except OSError:  # it went
            return
        for name, is_link in found:
            path = directory / name
            if is_link:
                try:
                    path = self.sysroot.resolve(self.sysroot.inside(path))
                except Problem:
                    continue
                if not path.is_dir():
                    continue
            yield path

    def below(self, top: Path) -> Iterator[Path]:
        """Return a directory, where it is one, and all below it, links not followed."""
        pending = [top]
        while pending:  # however deep it is
            directory = pending.pop()
            try:
                with os.scandir(directory) as entries:
                    inner = sorted((Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)), reverse=True)
            except OSError:  # it went, or its path is too long
                continue
            yield directory
            pending += inner
