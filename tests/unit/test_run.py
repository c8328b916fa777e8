"""What happens to a program that is waited for when nobody wants it any more."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from kmodd.errors import Problem
from kmodd.run import run


def test_a_cancellation_that_comes_with_the_result_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.subprocess.Process.communicate

    async def wait() -> None:
        async def communicate(self: asyncio.subprocess.Process, stdin: Any = None) -> tuple[bytes, bytes]:
            said = await real(self, stdin)
            task.cancel()
            return said

        monkeypatch.setattr(asyncio.subprocess.Process, "communicate", communicate)
        task = asyncio.ensure_future(run(["true"]))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(wait())


def test_a_program_beyond_its_time_is_killed() -> None:
    with pytest.raises(Problem) as caught:
        asyncio.run(run(["sleep", "60"], timeout=0.05))
    assert caught.value.code == "tool-timeout"


def test_what_it_printed_and_how_it_ended() -> None:
    done = asyncio.run(run(["sh", "-c", "cat; echo no >&2; exit 3"], check=False, stdin=b"yes"))
    assert (done.status, done.text, done.stderr) == (3, "yes", b"no\n")


def test_who_yields_is_nice_and_the_first_to_be_killed() -> None:
    argv = ["sh", "-c", "nice; cat /proc/self/oom_score_adj"]
    assert asyncio.run(run(argv, yields=True)).text.split() == [str(min(19, os.nice(0) + 10)), "1000"]
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    assert asyncio.run(run(argv)).text.split() == [str(os.nice(0)), own]
