"""The daemon goes on whatever becomes of those that it reports to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Optional

import pytest
from worlds import settled

from kmodd.core.report import Report
from kmodd.core.settings import Settings
from kmodd.core.sysroot import Sysroot
from kmodd.daemon import Daemon


def test_observer_that_breaks_stops_neither_others_nor_the_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Optional[Report]] = []

    def broken(_previous: Optional[Report], _now: Report) -> None:
        raise KeyError("broken")

    async def look_twice() -> None:
        daemon = Daemon(Sysroot(tmp_path), Settings())
        daemon.reports.observers = [broken, lambda previous, _now: told.append(previous)]
        daemon.reconciler.snapshot = settled()
        daemon.reports.make()
        daemon.reports.make()

    asyncio.run(look_twice())
    first, second = told
    assert first is None and second is not None and second.kernels
    assert capsys.readouterr().err.count("unforeseen error") == 2
