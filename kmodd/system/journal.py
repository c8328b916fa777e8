"""Sends entries to the journal, and never waits for it (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).

Entries that its socket has no space for are sent later, the oldest of too many are dropped and counted.
Must not: decide what an entry says.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping

from ..core.sysroot import JOURNAL_SOCKET

LATER = 0.5  # seconds until a full socket is tried again
MOST_PENDING = 512  # entries
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE  # journald wants all four


def encode(fields: Mapping[str, str]) -> bytes:
    """Return an entry; a value of several lines is preceded by its length, as 64 bits, little-endian."""
    entry = bytearray()
    for name, text in fields.items():
        value = text.encode(errors="backslashreplace")
        entry += name.encode()
        entry += b"\n" + struct.pack("<Q", len(value)) + value if b"\n" in value else b"=" + value
        entry += b"\n"
    return bytes(entry)


def _loss(dropped: int) -> dict[str, str]:
    """Return the entry that says how many others were dropped."""
    text = f"log entries dropped count={dropped}"
    return {"MESSAGE": text, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "kmodd", "KMODD_COUNT": str(dropped)}


def send_line(descriptor: int, line: str) -> None:
    """Write a line to a stream that leads to the journal (JOURNAL_STREAM), if that has space; it may be gone, too."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as stream:
        stream.send(f"{line}\n".encode(errors="backslashreplace"), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Journal:
    """A connection to the journal."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        self.path = path
        self.dropped = 0
        self._pending: deque[bytes] = deque()
        self._timer = False
        self._lock = threading.Lock()  # what reads the disk in a thread may log, too
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send an entry now or later; False where nobody receives entries."""
        with self._lock:
            self._pending.append(encode(fields))
            if len(self._pending) > MOST_PENDING:
                self._pending.popleft()
                self.dropped += 1
            return self._flush()

    def _flush(self) -> bool:
        while self._pending:
            try:
                self._transmit(self._pending[0])
            except BlockingIOError:
                self._flush_later()
                return True
            except OSError:
                self._pending.clear()
                return False
            self._pending.popleft()
            if self.dropped and not self._pending:
                self._pending.append(encode(_loss(self.dropped)))
                self.dropped = 0
        return True

    def _flush_later(self) -> None:
        if not self._timer:
            with contextlib.suppress(RuntimeError):  # without a loop, the next entry takes the others along
                asyncio.get_running_loop().call_later(LATER, self._flush_now)
                self._timer = True

    def _flush_now(self) -> None:
        with self._lock:
            self._timer = False
            self._flush()

    def _transmit(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self.path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._transmit_file(entry)

    def _transmit_file(self, entry: bytes) -> None:
        """Send an entry that is too large for a datagram as a sealed file in memory."""
        descriptor = os.memfd_create("kmodd-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(entry)
            stream.flush()
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            self._socket.sendmsg([], [rights], 0, self.path)
