"""Opens the listening socket: systemd's, where it passed one (sd_listen_fds(3)), else one of our own.

Must not: serve it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.files import explained, make_directory, temporary_name
from ..system.log import get_logger
from .address import short_name

FIRST = 3  # SD_LISTEN_FDS_START
EVERYBODY = 0o666  # may ask; who may change something is decided for each call


class Listener:
    """The socket, and its file as long as that is ours."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self._made: Optional[tuple[int, int]] = None
        self._passed = False

    def open(self) -> socket.socket:
        """Return the listening socket. Our own replaces what a killed daemon left: call it holding the lock.

        Raises Problem.
        """
        found = find_passed()
        self._passed = found is not None
        return found or self._bind(self.sysroot.socket)

    def _bind(self, path: Path) -> socket.socket:
        where = self.sysroot.inside(path)
        with explained(f"opening {where}"):
            make_directory(path.parent, durable=False)
            if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
                raise Problem("socket-unusable", f"{where} is no socket", "move it away and restart kmodd")
            temporary = temporary_name(path)
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with short_name(str(temporary)) as name:
                    found.bind(name)
                temporary.chmod(EVERYBODY)
                found.listen(socket.SOMAXCONN)
                temporary.rename(path)  # so that it is never there without its mode and a listener
                self._made = _identity(path)
            except BaseException:
                found.close()
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        return found

    def is_lost(self) -> bool:
        """Tell whether our own socket's file is gone, so that nobody finds it, or not made yet; not so systemd's."""
        try:
            return not self._passed and _identity(self.sysroot.socket) != self._made
        except OSError:
            return True

    def close(self) -> None:
        """Delete the socket's file, if it is ours."""
        with contextlib.suppress(OSError):
            if self._made is not None and _identity(self.sysroot.socket) == self._made:
                self.sysroot.socket.unlink()


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def find_passed() -> Optional[socket.socket]:
    """Return the socket that systemd passed to this process, None where it passed none that can be used."""
    given = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdigit():
        return None
    found: Optional[socket.socket] = None
    for descriptor in range(FIRST, FIRST + int(given["LISTEN_FDS"])):
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
        listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if found is None and listens and (passed.family, passed.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
            found = passed
        else:
            get_logger().warning("passed socket not used", descriptor=descriptor)
            passed.close()
    return found
