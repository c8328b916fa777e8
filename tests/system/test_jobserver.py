"""The jobserver serves real makes: never more jobs than allowed, and no token is lost for good."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import resource
import shutil
import signal
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Callable

import pytest
from patience import turns, until, within_limit

from kmodd.kbuild.jobserver import Jobserver, Share

MAKEFILE = """
all: $(foreach n,$(NUMBERS),job-$(n))
job-%:
\t@echo + >> $(LOG); sleep 0.02; echo - >> $(LOG)
meet: left right
left:
\t@touch $(LOG).left; while ! test -e $(LOG).right; do sleep 0.01; done
right:
\t@touch $(LOG).right; while ! test -e $(LOG).left; do sleep 0.01; done
three: one-1 one-2 one-3
one-%:
\t@touch $(LOG).$*; while ! test -e $(LOG).1 -a -e $(LOG).2 -a -e $(LOG).3; do sleep 0.01; done
stay: stay-1 stay-2 stay-3
stay-%:
\t@echo + >> $(LOG); exec sleep 600
"""


#: The machine's make, as Enterprise Linux 8 and 9 have it (4.2, 4.3), and the 4.4 of later ones.
MAKES = {"own": shutil.which("make"), "4.4": shutil.which("make", path=str(Path(sys.executable).parent))}


@pytest.fixture(params=[name for name, program in MAKES.items() if program])
def makefile(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A Makefile, with the make to be run beside it."""
    (tmp_path / "make").symlink_to(str(MAKES[request.param]))
    path = tmp_path / "Makefile"
    path.write_text(MAKEFILE)
    return path


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def go(jobs: int, main: Callable[..., Awaitable[None]]) -> None:
    """Run a main with a jobserver of so many jobs; one of two arguments gets a list to set the number in."""
    allowed = [jobs]
    more = (allowed,) if len(inspect.signature(main).parameters) > 1 else ()

    async def guarded() -> None:
        server = Jobserver(lambda: allowed[0])
        try:
            await within_limit(main(server, *more))
            await turns()
            assert asyncio.all_tasks() == {asyncio.current_task()}
        finally:
            server.close()

    asyncio.run(guarded())


async def start(share: Share, makefile: Path, goal: str, log: Path, count: int = 0) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        makefile.with_name("make"), "-s", "-f", makefile, goal,
        f"LOG={log}", f"NUMBERS={' '.join(map(str, range(count)))}",
        pass_fds=share.descriptors, env={"PATH": "/usr/bin:/bin", "MAKEFLAGS": share.flags}, start_new_session=True,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def make(server: Jobserver, makefile: Path, goal: str, log: Path, count: int = 0) -> None:
    async with server.job() as share:
        child = await start(share, makefile, goal, log, count)
        _, said = await child.communicate()
        assert (child.returncode, said) == (0, b"")  # make warns of a jobserver that it cannot use


async def started(log: Path, count: int) -> None:
    """Wait until so many recipes run."""
    await until(lambda: log.exists() and log.read_text().count("+") >= count)


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
        async with server.job() as share:
            child = await start(share, makefile, "stay", log)
            await started(log, 2)
            os.killpg(child.pid, signal.SIGKILL)
            await child.communicate()
        await make(server, makefile, "meet", tmp_path / "other")

    go(2, main)


def test_make_that_is_killed_leaves_the_others_going(makefile: Path, tmp_path: Path) -> None:
    async def main(server: Jobserver) -> None:
        log = tmp_path / "log"
        async with server.job():
            async with server.job() as share:
                child = await start(share, makefile, "stay", log)
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
            await turns()
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
                await turns()

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


def test_build_that_keeps_every_token_cannot_stop_the_next(makefile: Path, tmp_path: Path) -> None:
    async def main(server: Jobserver) -> None:
        server.patience = 0.3
        async with server.job() as greedy:
            assert len(os.read(greedy.descriptors[0], 100)) == 2
            await make(server, makefile, "all", tmp_path / "log", 3)  # one of the tokens is written off for it
            os.write(greedy.descriptors[1], b"++")
            await until(lambda: server.granted == 3)
        await make(server, makefile, "meet", tmp_path / "other")

    go(3, main)


def test_build_that_forges_tokens_gets_none_for_them(makefile: Path, tmp_path: Path) -> None:
    async def main(server: Jobserver) -> None:
        async with server.job() as hostile:
            os.set_blocking(hostile.descriptors[1], False)
            written = 0
            with contextlib.suppress(BlockingIOError):
                while written < 1 << 20:
                    written += os.write(hostile.descriptors[1], b"+" * 4096)
            log = tmp_path / "log"
            await asyncio.gather(*(make(server, makefile, "all", log, 5) for _ in range(3)))
            assert peak(log) <= 1
            assert server.granted <= server.jobs

    go(2, main)


def test_full_pipes_and_changed_flags_of_one_build_are_no_other_builds(makefile: Path, tmp_path: Path) -> None:
    """The pipes of a build are full, and block or not as it likes; the others, and this process, go on."""

    async def main(server: Jobserver) -> None:
        async with server.job() as hostile:
            source, sink = hostile.descriptors
            supply = os.open(f"/proc/self/fd/{source}", os.O_WRONLY | os.O_NONBLOCK)  # as root it can have both ends
            for end in (supply, sink):
                os.set_blocking(end, False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(end, b"x" * 4096)
            for end in (supply, source, sink):
                os.set_blocking(end, True)
            os.close(supply)
            turns = 0
            work = asyncio.ensure_future(make(server, makefile, "meet", tmp_path / "log"))
            while not work.done():
                turns += 1
                await asyncio.sleep(0)
            await work
            assert turns > 1

    go(3, main)


def test_tokens_that_one_build_leaves_unread_go_to_another(makefile: Path, tmp_path: Path) -> None:
    async def main(server: Jobserver) -> None:
        async with server.job() as idle:
            assert idle.unread == 3
            await make(server, makefile, "three", tmp_path / "log")  # each of three recipes ends once all run
            await until(lambda: idle.unread == 3)
            assert server.granted == server.jobs

    go(4, main)


def test_fewer_jobs_hold_once_tokens_come_back(makefile: Path, tmp_path: Path) -> None:
    async def main(server: Jobserver, allowed: list[int]) -> None:
        async with server.job() as first:
            assert len(os.read(first.descriptors[0], 100)) == 3
            allowed[0] = 2
            os.write(first.descriptors[1], b"+++")
            await until(lambda: server.granted == 2)
            allowed[0] = 4
        log = tmp_path / "log"
        allowed[0] = 2
        await asyncio.gather(*(make(server, makefile, "all", log, 5) for _ in range(3)))
        assert peak(log) <= 2

    go(4, main)


def test_descriptors_that_run_out_fail_one_start_alone() -> None:
    async def main(server: Jobserver) -> None:
        low, high = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, high))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                async with server.job():
                    pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (low, high))
        async with server.job():
            assert server.running == 1

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
        server = Jobserver(lambda: 2)
        async with server.job() as share:
            found = share.descriptors
        server.close()
        return found

    assert min(asyncio.run(work())) >= 10
