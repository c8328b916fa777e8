"""Whatever a pass, a callback or a stream raises, the daemon goes on, and says so once."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable

import pytest
from patience import LIMIT, until
from worlds import K2, T, kernel, module, world

from kmodd.control.client import Client
from kmodd.core.actions import BuildModule, InstallModule
from kmodd.core.errors import Problem
from kmodd.core.model import Target
from kmodd.core.settings import Settings, SettingsSource
from kmodd.core.sysroot import Sysroot
from kmodd.daemon import Daemon, failures
from kmodd.daemon.failures import DaemonFailures
from kmodd.reconcile.reconciler import Reconciler
from kmodd.reconcile.steps import HOLD, Pass

ERRORS: list[Exception] = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    RuntimeError("can't start new thread"),
    MemoryError(),
    ValueError("nobody thought of it"),
    Problem("modules-unreadable", "/lib/modules cannot be read"),
]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmodd.daemon.BREATH", 0.0)
    monkeypatch.setattr("kmodd.daemon.MARGIN", 0.0)
    monkeypatch.setattr(failures, "FIRST", 0.01)


def serve(root: Path, act: Callable[[Daemon], Awaitable[object]], prepare: Callable[[Daemon], None]) -> None:
    """Run a daemon, do something beside it, and stop it; it must end well."""

    async def both() -> None:
        daemon = Daemon(Sysroot(root), Settings())
        prepare(daemon)
        serving = asyncio.ensure_future(daemon.serve())
        acting = asyncio.ensure_future(act(daemon))
        await asyncio.wait([serving, acting], return_when=asyncio.FIRST_COMPLETED)
        daemon.stopping.set()
        await serving
        await acting

    asyncio.run(both())


async def looked(daemon: Daemon) -> None:
    """Wait for a look that succeeded."""
    await until(lambda: daemon.passes.report is not None)


PLACES = ("watcher.rearm", "lock.keep", "_settle", "reports.make")


@pytest.mark.parametrize(
    ("where", "error"),
    [*(("reconciler.settle", error) for error in ERRORS), *((where, ERRORS[0]) for where in PLACES)],
    ids=str,
)
def test_look_that_fails_is_told_once_and_repeated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], error: Exception, where: str
) -> None:
    times = 4

    def prepare(daemon: Daemon) -> None:
        owner: Any = daemon
        *path, name = where.split(".")
        for part in path:
            owner = getattr(owner, part)
        real, failing = getattr(owner, name), iter(range(times))

        def fail(*words: Any, **more: Any) -> Any:
            if next(failing, None) is not None:
                raise error
            return real(*words, **more)

        setattr(owner, name, fail)

    serve(tmp_path, looked, prepare)
    said = capfd.readouterr().err
    assert said.count("error   look failed") == 1
    assert said.count("unforeseen error") == (1 if isinstance(error, ValueError) else 0)
    assert f"look succeeded again failures={times}" in said
    assert "kmodd stopped" in said


def test_pauses_after_looks_that_fail_grow_and_end(capfd: pytest.CaptureFixture[str]) -> None:
    found = DaemonFailures()
    pauses = [found.pass_failed(OSError(errno.EIO, "no"))[1] for _ in range(20)]
    assert pauses == sorted(pauses) and pauses[0] == failures.FIRST and pauses[-1] <= failures.LONGEST
    found.pass_succeeded()
    assert found.pass_failed(OSError(errno.EIO, "no"))[1] == failures.FIRST


def test_callback_that_fails_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyError("broken")

    async def act(daemon: Daemon) -> None:
        for _ in range(5):
            asyncio.get_running_loop().call_soon(fail)
        await looked(daemon)

    serve(tmp_path, act, lambda _: None)
    assert capfd.readouterr().err.count("callback failed") == 1


def test_end_comes_in_order_although_a_part_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    def prepare(daemon: Daemon) -> None:
        for part in (daemon.socket.server, daemon.reconciler, daemon.alerts, daemon.events):
            part.stop = fail  # type: ignore[method-assign]

    serve(tmp_path, looked, prepare)
    assert capfd.readouterr().err.count("step failed") == 4
    assert not Sysroot(tmp_path).socket.exists()


def test_wiped_runtime_directory_is_made_anew(tmp_path: Path) -> None:
    async def act(daemon: Daemon) -> None:
        await looked(daemon)
        for wipe in (shutil.rmtree, lambda path: (path / "io.kmodd.Manager").unlink()):
            wipe(daemon.sysroot.runtime)
            await until(lambda: not daemon.socket.listener.is_lost())
            status = await asyncio.to_thread(lambda: Client(str(daemon.sysroot.socket), LIMIT).call("Status"))
            assert status["holder"] == daemon.lock.holder()
        await until(daemon.sysroot.progress.exists)

    serve(tmp_path, act, lambda _: None)


@pytest.mark.parametrize("delay", [-5.0, 0.0, 10.0, 5 * 3600.0, 1e9])
def test_no_pause_is_longer_than_the_longest_whatever_the_clock_was_set_to(tmp_path: Path, delay: float) -> None:
    async def wake() -> None:
        daemon = Daemon(Sysroot(tmp_path), Settings())
        for _ in range(3):
            daemon._wake_in(delay)
        assert daemon.timer is not None
        left = daemon.timer.when() - asyncio.get_running_loop().time()
        assert left <= min(max(delay, 0.0), daemon.settings.now.retry.longest) + 0.001
        daemon._wake_in(None)
        assert daemon.timer is None

    asyncio.run(wake())


# -- timers ----------------------------------------------------------------------------------------------------------
def test_what_waits_for_others_sets_no_timers_and_is_forgotten_with_them(tmp_path: Path) -> None:
    async def hold() -> None:
        reconciler = Reconciler(Sysroot(tmp_path), SettingsSource(), lambda _: None)
        other = module("other")
        snapshot = world(module(), other, kernels=(kernel(), kernel(K2)))
        current = Pass(snapshot, {target: BuildModule(target, "") for target in [Target("other", T.kernel)]})
        for _ in range(3):
            assert not reconciler.installing.due(InstallModule(T, ""), current)
        assert not asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        wait = reconciler.next_wake(())
        assert wait is not None and 0 < wait <= HOLD
        await reconciler._pass()
        assert reconciler.next_wake(()) is None

    asyncio.run(hold())


# -- what kmoddctl prints ----------------------------------------------------------------------------------------------
def run_ctl(root: Path, *words: str, stdout: int) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "kmodd.ctl", *words, "--root", str(root)]
    return subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=LIMIT)


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("sync",), ("plan", "--json"), ("verify",)])
def test_output_that_nobody_reads_ends_a_command_quietly(tmp_path: Path, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run_ctl(tmp_path, *words, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_on_a_full_disk_is_an_error_in_words(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run_ctl(tmp_path, "status", "--json", stdout=full.fileno())
    assert done.returncode == 1
    assert "kmoddctl status: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
