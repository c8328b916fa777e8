"""Numbers the passes, for callers who wait for one that begins after they asked. Must not: cause a pass."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple, Optional

from ..core.errors import Problem
from ..core.report import Report


class _Wish(NamedTuple):
    number: int  # of the first pass that will do
    idle: bool  # it must leave nothing under way


class Passes:
    """Counts the passes, and gives their reports to those who wait."""

    def __init__(self) -> None:
        self.report: Optional[Report] = None  # the last one
        self._begun = self._ended = 0
        self._wishes: dict[asyncio.Future[Report], _Wish] = {}

    def begin(self) -> None:
        self._begun += 1

    def end(self, report: Report, idle: bool) -> None:
        """Note the report of the pass that was begun. idle: no build runs."""
        self.report = report
        self._ended = self._begun
        for future, wish in self._wishes.items():
            if wish.number <= self._begun and (idle or not wish.idle) and not future.done():
                future.set_result(report)

    def fail(self, problem: Problem) -> None:
        """Note the failure of the pass that was begun."""
        self._ended = self._begun
        for future, wish in self._wishes.items():
            if wish.number <= self._begun and not future.done():
                future.set_exception(problem)

    async def latest(self, disturbed: bool, moment: float, patience: float) -> Report:
        """Return the last report. Raises Problem.

        disturbed: something happened since that pass began; then the next one is waited for, a moment
        (seconds) at most, and for the first pass of all for as long as patience says.
        """
        if self.report is None:
            return await self._wait(_Wish(1, False), patience)
        if disturbed or self._begun > self._ended:
            with contextlib.suppress(Problem):
                return await self._wait(_Wish(self._begun + disturbed, False), moment)
        return self.report

    async def next(self, *, idle: bool) -> Report:
        """Return the report of a pass that begins from now on; idle: one that leaves no build. Raises Problem."""
        return await self._wait(_Wish(self._begun + 1, idle), None)

    async def _wait(self, wish: _Wish, patience: Optional[float]) -> Report:
        future: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self._wishes[future] = wish
        try:
            await asyncio.wait([future], timeout=patience)
            if not future.done():
                text = "kmodd has not finished its first pass yet"
                raise Problem("not-observed", text, "ask again in a while; STATUS= in systemctl status kmodd tells why")
            return future.result()
        finally:
            del self._wishes[future]
