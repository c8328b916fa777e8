"""Messages to systemd, received by a real datagram socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from patience import until

from kmodd.system.notify import Notifier


def test_a_manager_that_does_not_listen_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))

    async def main() -> list[str]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(path))
            listener.setblocking(False)
            notifier = Notifier()
            for number in range(2000):  # far more than net.unix.max_dgram_qlen
                notifier.status(f"look {number}")
                notifier.watchdog()
            notifier.ready()
            assert len(asyncio.get_running_loop()._scheduled) == 1, "one timer, however much is to be said"
            heard: list[str] = []

            def is_ready() -> bool:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        heard.append(listener.recv(4096).decode())
                return "READY=1" in heard

            await until(is_ready)
            return heard

    heard = asyncio.run(main())
    assert "STATUS=look 1999" in heard and heard[-1] == "READY=1"
    assert len(heard) < 2000, "what is stale by then is not said"


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready()
