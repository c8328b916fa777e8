"""Messages to systemd (sd_notify(3)); none without NOTIFY_SOCKET. Must not: decide when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Optional

import sdnotify

LATER = 0.5  # seconds until a full socket is tried again


class Notifier:
    """Speaks to the service manager, and never waits for it: what its socket has no space for is said later.

    Needs a running event loop only for that.
    """

    def __init__(self) -> None:
        self._socket: Optional[socket.socket] = getattr(sdnotify.SystemdNotifier(), "socket", None)
        if self._socket is not None:
            self._socket.setblocking(False)
        self._status = ""
        self._pending: list[str] = []
        self._timer: Optional[asyncio.TimerHandle] = None

    def _say(self, text: str) -> None:
        if self._socket is None:
            return
        stale = {"STATUS": "STATUS=", "WATCHDOG": "WATCHDOG="}.get(text.partition("=")[0], text)
        self._pending = [other for other in self._pending if not other.startswith(stale)] + [text]
        self._flush()

    def _flush(self) -> None:
        while self._pending and self._socket is not None:
            try:
                self._socket.sendall(self._pending[0].encode())
            except BlockingIOError:
                self._flush_later()
                return
            except OSError:
                self._pending.clear()  # nobody is there any more
                return
            del self._pending[0]

    def _flush_later(self) -> None:
        if self._timer is None:
            with contextlib.suppress(RuntimeError):  # without a loop there is no later
                self._timer = asyncio.get_running_loop().call_later(LATER, self._flush_now)

    def _flush_now(self) -> None:
        self._timer = None
        self._flush()

    def ready(self) -> None:
        self._say("READY=1")

    def reloading(self, monotonic_us: int) -> None:
        """Say that the configuration is read again; monotonic_us: CLOCK_MONOTONIC, wanted by Type=notify-reload."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def watchdog(self) -> None:
        self._say("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows, if it changed."""
        if text != self._status:
            self._status = text
            self._say(f"STATUS={text}")

    @staticmethod
    def watchdog_interval() -> Optional[float]:
        """Return the seconds between two signs of life, half of WATCHDOG_USEC; None where nobody waits for them."""
        usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        if not usec.isdigit() or (pid and pid != str(os.getpid())):
            return None
        return int(usec) / 2_000_000
