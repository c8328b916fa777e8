"""The log files of builds: made for root and one group of readers alone, and deleted with what they are of.

Logs quote sources, and grow: they are neither for everybody nor for ever. Must not: read them, or write into them.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
import time
from collections.abc import Container
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Snapshot, Target
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..kbuild.logfiles import new_name
from ..system.deleting import remove_tree
from ..system.files import explained, list_names, make_directory, remove_empty

DIRECTORY, FILE = 0o750, 0o640


class LogKeeper:
    """The logs of one root. Members of build.log_group may read them; root alone where there is no such group."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self.gid = 0  # as last looked up: a directory service may answer late

    # -- making ----------------------------------------------------------------------------------------------------
    def open(self, target: Target) -> Path:
        """Return the path of a new attempt's log, older ones beyond the limit deleted. Raises Problem."""
        directory = self.sysroot.log_directory(target.module, target.kernel)
        with explained(f"opening a log in {self.sysroot.inside(directory)}"):
            gid = self.gid = find_group(self.sysroot, self.settings.now.build.log_group)
            for place in (self.sysroot.logs, self.sysroot.below(self.sysroot.logs, target.module), directory):
                _make_directory(place, gid)
            there = sorted(directory.glob("*.log"), key=_age)
            began = time.time()
            same = [_age(path)[1] for path in there if path.name.startswith(new_name(began, 0)[:-1])]
            path = directory / f"{new_name(began, max(same, default=-1) + 1)}.log"
            _make_file(path, gid)
            for old in there[: max(len(there) + 1 - self.settings.now.build.keep_logs, 0)]:
                old.unlink()
        return path

    def heal(self) -> None:
        """Give logs that are there, such as an older version's, the group and the modes that new ones have.

        Links are left alone. Raises OSError.
        """
        gid = self.gid = find_group(self.sysroot, self.settings.now.build.log_group)
        for name, _, files in os.walk(self.sysroot.logs):
            _protect(Path(name), DIRECTORY, gid)
            for file in files:
                _protect(Path(name, file), FILE, gid)

    # -- deleting --------------------------------------------------------------------------------------------------
    def targets(self) -> list[Target]:
        """Return the targets that have logs, or directories for them."""
        found = []
        for module in list_names(self.sysroot.logs):
            with contextlib.suppress(Problem):  # links that lead nowhere
                directory = self.sysroot.below(self.sysroot.logs, module)
                found += [Target(module, release) for release in list_names(directory)]
        return found

    def sweep(self, snapshot: Snapshot, builds: Container[Target]) -> None:
        """Delete the logs of modules and kernels that are gone, of which nothing is remembered. Raises OSError.

        builds: that run. Nothing is deleted while module files or kernels cannot be read.
        """
        if snapshot.broken or snapshot.skipped:
            return
        present = {kernel.release for kernel in snapshot.present()}
        for target in self.targets():
            row = snapshot.of(target)
            known = row.record is not None or row.unseen is not None or target in builds
            if not known and (target.module not in snapshot.modules or target.kernel not in present):
                self.forget(target)
        for module in list_names(self.sysroot.logs):
            remove_empty(self.sysroot.logs / module)

    def forget(self, target: Target) -> None:
        """Delete a target's logs and the directories that become empty. Raises OSError."""
        directory = self.sysroot.log_directory(target.module, target.kernel)
        remove_tree(directory)
        remove_empty(directory.parent)


def _age(path: Path) -> tuple[str, int, str]:
    """Return what sorts logs by the start of their attempts."""
    stamp, _, number = path.stem.rpartition("-")
    return stamp, int(number) if number.isdecimal() else -1, path.name


def find_group(sysroot: Sysroot, name: str) -> int:
    """Return the id of a group in a root, 0 where it has none of that name.

    The root's own file is read first: a directory service, which only the host has, may answer late.
    """
    with contextlib.suppress(OSError):
        for line in sysroot.groups.read_text(errors="replace").splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[0] == name and fields[2].isdecimal():
                return int(fields[2])
    if sysroot.is_host:
        with contextlib.suppress(KeyError):
            return grp.getgrnam(name).gr_gid
    return 0


def _make_directory(path: Path, gid: int) -> None:
    """Make a directory that is never open to more than it is to be in the end, whatever the umask."""
    with contextlib.suppress(FileExistsError):
        make_directory(path.parent)
        path.mkdir(mode=0o700)
        _protect(path, DIRECTORY, gid)


def _make_file(path: Path, gid: int) -> None:
    """Make a file, likewise."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    _protect(path, FILE, gid)


def _protect(path: Path, mode: int, gid: int) -> None:
    """Set the mode and group of a directory or a plain file; without root, only a group of one's own can be set."""
    found = path.lstat()
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return
    if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (0, gid):
        os.chown(path, 0, gid, follow_symlinks=False)
    if stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
