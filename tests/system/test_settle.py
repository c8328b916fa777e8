"""The triggers, and settle with locks held by real processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import LIMIT, meanwhile, skip, turns, until, within_limit
from watching import KERNEL, LOCK, go, no_leak, rings, root, watching, write

from kmodd.core.errors import Problem
from kmodd.core.sysroot import Sysroot
from kmodd.watch.transaction import settle, transaction_holder
from kmodd.watch.triggers import MOST_REASONS, Triggers

__all__ = ["no_leak", "root"]  # fixtures
pytestmark = pytest.mark.system

NEVER = 3 * LIMIT  # seconds


async def heard(triggers: Triggers) -> tuple[str, ...]:
    """Wait until the triggers has rung, and return the reasons."""
    await triggers.arrival()
    return triggers.collect()


# -- triggers -------------------------------------------------------------------------------------------------------
def test_bell_gives_distinct_reasons_in_order_and_forgets_them() -> None:
    async def main() -> None:
        triggers = Triggers()
        for reason in ("b", "a", "b", "c"):
            triggers.add(reason)
        assert await heard(triggers) == ("b", "a", "c")
        assert not await triggers.arrival(0.01)
        asyncio.get_running_loop().call_soon(triggers.add, "later")
        assert await heard(triggers) == ("later",)

    go(main)


def test_bell_keeps_a_bounded_number_of_reasons() -> None:
    async def main() -> None:
        triggers = Triggers()
        for number in range(10_000):
            triggers.add(str(number))
        assert await heard(triggers) == tuple(str(number) for number in range(MOST_REASONS))

    go(main)


def test_bell_loses_nothing_when_its_waiter_is_cancelled() -> None:
    async def main() -> None:
        triggers = Triggers()
        task = asyncio.ensure_future(heard(triggers))
        await turns()
        triggers.add("kept")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await heard(triggers) == ("kept",)

    go(main)


def test_bell_made_outside_a_loop_serves_several_loops() -> None:
    triggers = Triggers()
    for _ in range(2):
        asyncio.run(triggers.arrival(0.001))
    triggers.add("x")
    assert asyncio.run(heard(triggers)) == ("x",)


# -- rpm's lock -----------------------------------------------------------------------------------------------------
HOLDER = """
import fcntl, sys
with open(sys.argv[1], "r+") as lock:
    fcntl.lockf(lock, getattr(fcntl, sys.argv[2]))
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def holding(lock: Path, how: str = "LOCK_EX") -> Iterator[subprocess.Popen[str]]:
    """Hold the lock in another process, until a line is written to it."""
    write(lock)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout and child.stdout.readline() == "held\n"
        try:
            yield child
        finally:
            child.kill()


def release(child: subprocess.Popen[str]) -> None:
    assert child.stdin
    child.stdin.write("\n")
    child.stdin.flush()


def test_lock_file_that_is_missing_or_free_is_no_transaction(root: Path) -> None:
    assert transaction_holder(Sysroot(root)) is None
    write(root / LOCK)
    assert transaction_holder(Sysroot(root)) is None
    shutil.rmtree(root / "var")
    assert transaction_holder(Sysroot(root)) is None


def test_holder_of_the_lock_is_its_pid(root: Path) -> None:
    with holding(root / LOCK) as child:
        assert transaction_holder(Sysroot(root)) == child.pid
        assert transaction_holder(Sysroot(root)) == child.pid  # asking changed nothing
    assert transaction_holder(Sysroot(root)) is None


def test_lock_of_an_open_file_description_counts(root: Path) -> None:
    write(root / LOCK)
    with (root / LOCK).open("r+") as lock:
        set_lock = getattr(fcntl, "F_OFD_SETLK", 37)
        fcntl.fcntl(lock, set_lock, bytes(struct.pack("@hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)))
        assert transaction_holder(Sysroot(root)) == -1


def test_lock_from_another_pid_namespace_counts(root: Path) -> None:
    unshare = "/usr/bin/unshare"
    code = (
        "import pathlib; from kmodd.core.sysroot import Sysroot; "
        "from kmodd.watch.transaction import transaction_holder as t; "
        f"print(t(Sysroot(pathlib.Path({str(root)!r}))))"
    )
    with holding(root / LOCK):
        argv = [unshare, "-Urpf", sys.executable, "-c", code]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert done.stdout == "0\n"


def test_unreadable_lock_is_a_problem(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write(root / LOCK)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(Problem) as caught:
            transaction_holder(Sysroot(root))
    assert caught.value.code == "rpmdb-unreadable"
    assert "/var/lib/rpm/.rpm.lock" in caught.value.message


# -- settle ---------------------------------------------------------------------------------------------------------
def test_settle_waits_for_the_end_of_a_transaction(root: Path) -> None:
    async def main() -> None:
        told: list[int] = []
        with watching(root) as (_watcher, triggers), holding(root / LOCK) as child:
            await rings(triggers)
            task = asyncio.ensure_future(
                settle(Sysroot(root), triggers, 0.1, 0.2, poll=NEVER, on_transaction=told.append)
            )
            await until(lambda: bool(told))
            await meanwhile(0.6)
            assert not task.done()  # longest has passed
            assert told == [child.pid]
            (root / KERNEL).mkdir()
            await meanwhile(0.2)
            assert not task.done()
            release(child)
            reasons = await within_limit(task)  # sooner than poll: the release rang
            assert transaction_holder(Sysroot(root)) is None
            assert "/lib/modules changed" in reasons
            assert reasons[-1] == "an rpm transaction ended"
            assert told == [child.pid]

    go(main)


def test_settle_sees_a_release_that_rings_no_bell(root: Path) -> None:
    async def main() -> None:
        triggers = Triggers()
        triggers.add("unwatched")
        with holding(root / LOCK) as child:
            task = asyncio.ensure_future(settle(Sysroot(root), triggers, 0.05, poll=0.05))
            await meanwhile(0.3)
            assert not task.done()
            release(child)
            assert await within_limit(task) == ("unwatched",)

    go(main)


def test_settle_tells_of_each_transaction_once(root: Path) -> None:
    async def main() -> None:
        triggers, telling = Triggers(), Triggers()
        told: list[int] = []

        def tell(pid: int) -> None:
            told.append(pid)
            telling.add(str(pid))

        triggers.add("start")
        task = None
        for _ in range(2):
            with holding(root / LOCK) as child:
                if task is None:
                    task = asyncio.ensure_future(
                        settle(Sysroot(root), triggers, quiet=1.0, poll=0.02, on_transaction=tell)
                    )
                assert await within_limit(heard(telling)) == (str(child.pid),)
                triggers.add("more")
                await until(lambda: not triggers)
        assert task is not None
        assert await task == ("start", "more")
        assert len(told) == 2

    go(main)


def test_settle_ends_under_ceaseless_rings(root: Path) -> None:
    async def main() -> None:
        triggers = Triggers()

        async def ceaseless() -> None:
            number = 0
            while True:
                triggers.add(str(number := number + 1))
                await asyncio.sleep(0)

        noise = asyncio.ensure_future(ceaseless())
        await triggers.arrival()
        reasons = await within_limit(settle(Sysroot(root), triggers, quiet=NEVER, longest=0.5))
        assert len(reasons) == MOST_REASONS
        noise.cancel()
        await asyncio.wait([noise])

    go(main)


def test_settle_waits_for_silence_and_gathers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        triggers = Triggers()
        triggers.add("first")
        assert await triggers.arrival()
        task = asyncio.ensure_future(settle(Sysroot(root), triggers, quiet=100, longest=NEVER))
        for number in range(3):
            await turns()
            skip(monkeypatch, 60)
            await turns()
            assert not task.done()
            triggers.add(str(number))
        await turns()
        skip(monkeypatch, 101)
        assert await task == ("first", "0", "1", "2")

    go(main)


def test_settle_waits_for_the_end_of_changes_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        triggers = Triggers()
        triggers.add("asked", moving=False)
        task = asyncio.ensure_future(settle(Sysroot(root), triggers, quiet=NEVER))
        assert await within_limit(task) == ("asked",)
        triggers.add("changed")
        task = asyncio.ensure_future(settle(Sysroot(root), triggers, quiet=100, longest=NEVER))
        await turns()
        skip(monkeypatch, 60)
        triggers.add("asked", moving=False)
        await turns()
        assert not task.done()
        skip(monkeypatch, 41)
        assert await task == ("changed", "asked")

    go(main)


def test_settle_goes_on_where_the_lock_cannot_be_read(root: Path) -> None:
    async def main() -> None:
        triggers = Triggers()
        triggers.add("x")
        (root / "var/lib/rpm").rmdir()
        (root / "var/lib/rpm").symlink_to("rpm")
        assert await settle(Sysroot(root), triggers, quiet=0.05) == ("x",)

    go(main)


def test_settle_can_be_cancelled(root: Path) -> None:
    async def main() -> None:
        triggers = Triggers()
        triggers.add("x")
        task = asyncio.ensure_future(settle(Sysroot(root), triggers, quiet=NEVER))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    go(main)
