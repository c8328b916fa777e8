"""The command that is shown is the one that runs, without asking back, and never again at once when it failed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from worlds import K, T

from kmodd.config import Settings
from kmodd.fetch import fetch_words
from kmodd.kernels import install_command
from kmodd.model import Wait
from kmodd.paths import Sysroot
from kmodd.reconcile.fetching import Fetching
from kmodd.tomlfile import parse

DEVEL = Wait(T, "kernel-devel is not installed", "kernel-devel-missing", "dnf install kernel-devel")
SOURCE = Wait(T, "the source is missing", "kernel-source-missing", "dnf download --source kernel")
OTHER = Wait(T, "needs another", "depends-not-ready", "dnf install other")


def test_shown_command_runs_without_asking_back(tmp_path: Path) -> None:
    words = fetch_words(Sysroot(tmp_path), install_command(Sysroot(tmp_path), K))
    assert words == ["dnf", "--assumeyes", f"--installroot={tmp_path}", "install", f"kernel-devel-uname-r = {K}"]


ALLOWED = [
    ("", []),
    ("[kernels]\nfetch_devel = true\n", [DEVEL.hint]),
    ("[sources]\nfetch = true\n", [SOURCE.hint]),
    ("[kernels]\nfetch_devel = true\n[sources]\nfetch = true\n", [DEVEL.hint, SOURCE.hint]),
]


@pytest.mark.parametrize(("settings", "commands"), ALLOWED)
def test_only_what_the_settings_allow_is_fetched_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, commands: list[str]
) -> None:
    monkeypatch.setenv("KMODD_PROGRAM_PATH", str(tmp_path))
    dnf = tmp_path / "dnf"
    dnf.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/ran\n')
    dnf.chmod(0o755)

    async def go() -> int:
        knocks: list[str] = []
        fetching = Fetching(Sysroot(tmp_path), parse(Settings, settings), knocks.append)
        for _ in range(4):  # what is fetched and still missing is not fetched again at once
            fetching.start([DEVEL, OTHER, SOURCE, DEVEL])
            assert len(fetching.running) <= 1
            await asyncio.gather(*fetching.running.values())
        await asyncio.sleep(0)
        return len(knocks)

    assert asyncio.run(go()) == len(commands)
    ran = (tmp_path / "ran").read_text().splitlines() if commands else []
    assert ran == [command.replace("dnf ", "--assumeyes ") for command in commands]


def test_failed_fetch_is_repeated_after_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMODD_PROGRAM_PATH", str(tmp_path))
    dnf = tmp_path / "dnf"
    dnf.write_text(f"#!/bin/sh\necho ran >>{tmp_path}/ran\necho Error: no match >&2\nexit 1\n")
    dnf.chmod(0o755)
    settings = parse(Settings, '[kernels]\nfetch_devel = true\n[retry]\nfirst = "300s"\n')

    async def go() -> None:
        fetching = Fetching(Sysroot(tmp_path), settings, lambda _: None)
        assert fetching.next_try() is None
        for failures in (1, 2):
            fetching.start([DEVEL])
            assert fetching.next_try() is None  # its end is waited for
            await asyncio.gather(*fetching.running.values())
            fetching.start([DEVEL])
            assert not fetching.running
            due = fetching.next_try()
            assert due is not None and 0 < due - time.monotonic() <= 300 * failures
            ((command, _),) = fetching._failed.items()
            fetching._failed[command] = (failures, time.monotonic())  # the pause is over
        fetching.start([])
        assert fetching.next_try() is None  # nobody wants it any more
        await fetching.stop()

    asyncio.run(go())
    assert (tmp_path / "ran").read_text() == "ran\nran\n"


HOLD = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"


def test_nothing_is_fetched_while_an_rpm_transaction_runs(tmp_path: Path) -> None:
    lock = tmp_path / "var/lib/rpm/.rpm.lock"
    lock.parent.mkdir(parents=True)

    async def started() -> bool:
        fetching = Fetching(Sysroot(tmp_path), parse(Settings, "[kernels]\nfetch_devel = true\n"), lambda _: None)
        fetching.start([DEVEL])
        found = bool(fetching.running)
        await fetching.stop()
        return found

    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        assert not asyncio.run(started())
        holder.kill()
    assert asyncio.run(started())
