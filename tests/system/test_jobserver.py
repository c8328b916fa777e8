"""The jobserver serves real makes: never more jobs than allowed, and no token is lost for good."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Callable

import pytest

from kmodd.build.jobserver import Jobserver

PLENTY = 20.0  # seconds; nothing here takes them, a busy machine may
MAKEFILE = """
all: $(foreach n,$(NUMBERS),job-$(n))
job-%:
\t@echo + >> $(LOG); sleep 0.02; echo - >> $(LOG)
meet: left right
left:
\t@touch $(LOG).left; while ! test -e $(LOG).right; do sleep 0.01; done
right:
\t@touch $(LOG).right; while ! test -e $(LOG).left; do sleep 0.01; done
stay: stay-1 stay-2 stay-3
stay-%:
\t@echo + >> $(LOG); exec sleep 600
"""


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    path = tmp_path / "Makefile"
    path.write_text(MAKEFILE)
    return path


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def go(jobs: int, main: Callable[[Jobserver], Awaitable[None]]) -> None:
    async def guarded() -> None:
        server = Jobserver(jobs)
        try:
            await asyncio.wait_for(main(server), PLENTY)
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        finally:
            server.close()

    asyncio.run(guarded())


async def start(server: Jobserver, makefile: Path, goal: str, log: Path, count: int = 0) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "make", "-s", "-f", makefile, goal, f"LOG={log}", f"NUMBERS={' '.join(map(str, range(count)))}",
        pass_fds=server.descriptors, env={"PATH": "/usr/bin:/bin", "MAKEFLAGS": server.flags}, start_new_session=True,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def make(server: Jobserver, makefile: Path, goal: str, log: Path, count: int = 0) -> None:
    async with server.job():
        child = await start(server, makefile, goal, log, count)
        _, said = await child.communicate()
        assert (child.returncode, said) == (0, b"")  # make warns of a jobserver that it cannot use


async def started(log: Path, count: int) -> None:
    """Wait until so many recipes run."""
    while not log.exists() or log.read_text().count("+") < count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def peak(log: Path) -> int:
    most = running = 0
    for line in log.read_text().splitlines():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert running == 0
    return most


@pytest.mark.parametrize(("jobs", "makes"), [(1, 2), (2, 3), (3, 2)])
def test_all_makes_together_never_run_more_jobs_than_allowed(
    makefile: Path, tmp_path: Path, jobs: int, makes: int
) -> None:
    async def main(server: Jobserver) -> None:
        log = tmp_path / "log"
        await asyncio.gather(*(make(server, makefile, "all", log, 5) for _ in range(makes)))
        assert log.read_text().count("+") == 5 * makes
        assert peak(log) <= jobs

    go(jobs, main)


def test_one_make_may_use_every_job(makefile: Path, tmp_path: Path) -> None:
    async def main(server: Jobserver) -> None:
        await make(server, makefile, "meet", tmp_path / "log")  # each of two recipes ends only once both run

    go(2, main)


def test_tokens_of_a_killed_make_come_back(makefile: Path, tmp_path: Path) -> None:
    async def main(server: Jobserver) -> None:
        log = tmp_path / "log"
        async with server.job():
            child = await start(server, makefile, "stay", log)
            await started(log, 2)
            os.killpg(child.pid, signal.SIGKILL)
            await child.communicate()
        await make(server, makefile, "meet", tmp_path / "other")

    go(2, main)


def test_make_that_is_killed_leaves_the_others_going(makefile: Path, tmp_path: Path) -> None:
    async def main(server: Jobserver) -> None:
        log = tmp_path / "log"
        async with server.job():
            async with server.job():
                child = await start(server, makefile, "stay", log)
                await started(log, 1)
                os.killpg(child.pid, signal.SIGKILL)
                await child.communicate()
            await make(server, makefile, "all", tmp_path / "all", 3)
        assert server.running == 0
        await make(server, makefile, "meet", tmp_path / "other")

    go(3, main)


def test_cancelled_waiter_leaves_no_trace() -> None:
    async def main(server: Jobserver) -> None:
        async def wait() -> None:
            async with server.job():
                raise AssertionError("there is only one job")

        async with server.job():
            waiters = [asyncio.ensure_future(wait()) for _ in range(3)]
            await asyncio.sleep(0.02)
            for waiter in waiters:
                waiter.cancel()
            await asyncio.wait(waiters)
            assert server.running == 1
        async with server.job():
            assert server.running == 1
        assert server.running == 0

    go(1, main)


def test_waiters_are_served_in_order() -> None:
    async def main(server: Jobserver) -> None:
        served = []

        async def work(number: int) -> None:
            async with server.job():
                served.append(number)
                assert server.running == 1
                await asyncio.sleep(0)

        await asyncio.gather(*(work(number) for number in range(20)))
        assert served == list(range(20))

    go(1, main)


def test_failure_gives_the_job_back() -> None:
    async def main(server: Jobserver) -> None:
        for _ in range(3):
            with pytest.raises(RuntimeError):
                async with server.job():
                    raise RuntimeError
        assert server.running == 0

    go(1, main)


def test_greedy_build_that_takes_every_token_cannot_stop_the_next(tmp_path: Path) -> None:
    async def main(server: Jobserver) -> None:
        async with server.job():
            os.read(server.descriptors[0], 100)
            task = asyncio.ensure_future(asyncio.wait_for(enter(server), PLENTY))
            await asyncio.sleep(0.02)
            assert not task.done()
        await task

    async def enter(server: Jobserver) -> None:
        async with server.job():
            pass

    go(2, main)


def test_there_is_always_one_job() -> None:
    async def main(server: Jobserver) -> None:
        assert server.jobs == 1
        async with server.job():
            pass

    go(0, main)


def test_descriptors_are_above_those_that_scripts_use() -> None:
    """A configure script opens descriptors below 10 for itself, and runs make all the same."""

    async def work() -> tuple[int, int]:
        server = Jobserver(2)
        async with server.job():
            found = server.descriptors
        server.close()
        return found

    assert min(asyncio.run(work())) >= 10
