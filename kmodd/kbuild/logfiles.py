"""What the logs of a target's builds tell: the attempts, and how they ended.

One file an attempt, `<module>/<release>/<attempt>.log` under /var/log/kmodd; attempts are named by the time of their
start (UTC) and a number. Imports nothing heavy: kmoddctl reads logs without observing the root. Must not: write logs.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.files import list_names

#: What kmodd writes as a log's last line.
ENDING = "[kmodd: {outcome} after {seconds:.1f} s]"
_ENDING = re.compile(r"^\[kmodd: (succeeded|failed|stopped|discarded) after (\d{1,9}\.\d+|\d{1,9}) s\]$", re.ASCII)
_STAMP = re.compile(r"(\d{8}T\d{6})-\d+")
LARGEST = 32 << 20  # bytes of a log that are read; no more are written (config.LARGEST_LOG)
TAIL = 4096  # bytes in which the last line is searched


def new_name(began: float, number: int) -> str:
    """Return the name of an attempt that began then; number tells those of one second apart."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(began))}-{number}"


def is_ended(text: str) -> bool:
    """Tell whether the end of a log says that its build is over."""
    return bool(_ENDING.match(text.rstrip("\n").rpartition("\n")[2]))


@contextlib.contextmanager
def permitted(what: str) -> Iterator[None]:
    """Turn a refusal to read logs into a Problem that says who may."""
    try:
        yield
    except PermissionError as error:
        hint = "run it as root, or as a member of the group that may read logs: build.log_group of kmodd.toml(5)"
        raise Problem("permission-denied", f"{what} cannot be read: permission denied", hint) from error


class LogReader:
    """Reads the logs of one root. Raises Problem permission-denied where the caller may not."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot

    def modules(self) -> list[str]:
        """Return the modules that have logs."""
        with permitted(self.sysroot.inside(self.sysroot.logs)):
            return list_names(self.sysroot.logs)

    def kernels(self, module: str) -> list[str]:
        """Return the kernel releases that a module has logs for."""
        with permitted(f"the logs of {module}"):
            return list_names(self.sysroot.below(self.sysroot.logs, module))

    def attempts(self, module: str, release: str) -> list[dict[str, Any]]:
        """Return a target's attempts, newest first.

        Keys: attempt, kernel, log (in-root path), began (seconds since the epoch), outcome (succeeded, failed,
        stopped, discarded; "" where the log says nothing, as of one that runs or was killed), seconds, bytes.
        """
        with permitted(f"the logs of {module}"):
            return self._attempts(module, release)

    def _attempts(self, module: str, release: str) -> list[dict[str, Any]]:
        found = []
        directory = self.sysroot.log_directory(module, release)
        for name in list_names(directory, ".log"):
            path = directory / f"{name}.log"
            if path.is_symlink() or not path.is_file():
                continue
            began = _began(name)
            ending = self._ending(path)
            found.append(
                {
                    "attempt": name,
                    "kernel": release,
                    "log": self.sysroot.inside(path),
                    "began": began,
                    "outcome": ending[1] if ending else "",
                    "seconds": float(ending[2]) if ending else None,
                    "bytes": path.stat().st_size,
                }
            )
        return sorted(found, key=lambda one: (one["began"] or 0, len(one["attempt"]), one["attempt"]), reverse=True)

    def _ending(self, path: Path) -> Optional[re.Match[str]]:
        with path.open("rb") as stream:
            stream.seek(-min(TAIL, path.stat().st_size), os.SEEK_END)
            last = stream.read().decode(errors="replace").splitlines()[-1:]
        return _ENDING.match(last[0]) if last else None

    def read(self, log: str) -> str:
        """Return the text of a log, given by its in-root path. Raises Problem log-missing, permission-denied."""
        try:
            with permitted(log), self.sysroot.resolve(log).open("rb") as stream:
                return stream.read(LARGEST).decode(errors="replace")
        except OSError as error:
            raise Problem("log-missing", f"{log} cannot be read: {error.strerror}") from error

    def story(self, module: str, release: str) -> list[dict[str, Any]]:
        """Return what explain tells of a target's logs: the attempts, none where they cannot be read."""
        try:
            return self.attempts(module, release)
        except (OSError, Problem):
            return []


def _began(name: str) -> Optional[int]:
    """Return when an attempt began by its name, in seconds since the epoch; None where it does not tell."""
    stamp = _STAMP.fullmatch(name)
    try:
        return calendar.timegm(time.strptime(stamp[1], "%Y%m%dT%H%M%S")) if stamp else None
    except ValueError:  # no such day
        return None
