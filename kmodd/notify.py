"""What systemd is told (sd_notify(3)). Without NOTIFY_SOCKET nothing is. Must not: decide when."""

from __future__ import annotations

import os
from typing import Optional

import sdnotify


class Notifier:
    """Speaks to the service manager."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._status = ""

    def _say(self, text: str) -> None:
        self._notifier.notify(text)

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
