"""The command that is shown is the one that runs, without asking back, and never again at once when it failed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

import pytest
from patience import turns
from worlds import K, T, settings_of

from kmodd.core.actions import Wait
from kmodd.core.remedy import Remedy, find_remedy
from kmodd.core.sysroot import Sysroot
from kmodd.deploy.fetch import fetch_words
from kmodd.reconcile import remedies as fetching
from kmodd.reconcile.remedies import Fetching

GET_DEVEL, GET_SOURCE = Remedy("fetch-devel", K), Remedy("fetch-source", "kernel-6.1-1.src.rpm")
#: Hints are for people: whatever they say, only the remedy is run.
EVIL = "sh -c 'touch /tmp/executed'"
DEVEL = Wait(T, "kernel-devel is not installed", "kernel-devel-missing", EVIL, remedy=GET_DEVEL)
SOURCE = Wait(T, "the source is missing", "kernel-source-missing", EVIL, remedy=GET_SOURCE)
OTHER = Wait(T, "needs another", "depends-not-ready", "dnf install other")
SAME = Wait(T, "kernel-devel is not installed", "kernel-devel-missing", "dnf install other")


def test_shown_command_runs_without_asking_back(tmp_path: Path) -> None:
    root = Sysroot(tmp_path)
    words = fetch_words(root, GET_DEVEL, "/srv/srpms")
    assert words == ["dnf", "--assumeyes", f"--installroot={tmp_path}", "install", f"kernel-devel-uname-r = {K}"]
    assert GET_DEVEL.shown(root) == f"dnf --installroot={tmp_path} install 'kernel-devel-uname-r = {K}'"
    words = fetch_words(root, GET_SOURCE, "/srv/srpms")
    assert words[3:] == ["download", "--source", f"--destdir={tmp_path}/srv/srpms", "kernel-6.1-1.src"]


@pytest.mark.parametrize(
    ("problem", "release", "package", "found"),
    [
        ("kernel-devel-missing", K, "", GET_DEVEL),
        ("kernel-devel-missing", "6.12.0-1.el10.x86_64+rt", "", Remedy("fetch-devel", "6.12.0-1.el10.x86_64+rt")),
        ("kernel-source-missing", K, "kernel-6.1-1.src.rpm", GET_SOURCE),
        ("kernel-source-missing", K, "", None),
        ("kernel-source-missing", K, "--setopt=x.src.rpm", None),
        ("kernel-devel-missing", "-x", "", None),
        ("kernel-devel-missing", "a b", "", None),
        ("build-tree-mismatch", K, "kernel-6.1-1.src.rpm", None),
        ("depends-not-ready", K, "kernel-6.1-1.src.rpm", None),
    ],
)
def test_remedy_is_made_of_what_the_kernel_is_called(
    problem: str, release: str, package: str, found: Optional[Remedy]
) -> None:
    assert find_remedy(problem, release, package) == found


ALLOWED = [
    ("", []),
    ("[kernels]\nfetch_devel = true\n", [GET_DEVEL]),
    ("[sources]\nfetch = true\n", [GET_SOURCE]),
    ("[sources]\nfetch = true\nsrpm_path = []\n", []),
    ("[kernels]\nfetch_devel = true\n[sources]\nfetch = true\n", [GET_DEVEL, GET_SOURCE]),
]


@pytest.mark.parametrize(("settings", "remedies"), ALLOWED)
def test_only_what_the_settings_allow_is_fetched_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, remedies: list[Remedy]
) -> None:
    monkeypatch.setenv("KMODD_PROGRAM_PATH", str(tmp_path))
    dnf = tmp_path / "dnf"
    dnf.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/ran\n')
    dnf.chmod(0o755)

    async def go() -> int:
        triggers: list[str] = []
        fetching = Fetching(Sysroot(tmp_path), settings_of(settings), triggers.append)
        for _ in range(4):  # what is fetched and still missing is not fetched again at once
            fetching.start([OTHER, SAME, DEVEL, OTHER, SOURCE, DEVEL])
            assert len(fetching.running) <= 1
            await asyncio.gather(*fetching.running.values())
        await turns()
        return len(triggers)

    assert asyncio.run(go()) == len(remedies)
    ran = (tmp_path / "ran").read_text().splitlines() if remedies else []
    assert ran == [" ".join(fetch_words(Sysroot(tmp_path), remedy, "/srv/srpms")[1:]) for remedy in remedies]


def test_failed_fetch_is_repeated_after_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMODD_PROGRAM_PATH", str(tmp_path))
    dnf = tmp_path / "dnf"
    dnf.write_text(f"#!/bin/sh\necho ran >>{tmp_path}/ran\necho Error: no match >&2\nexit 1\n")
    dnf.chmod(0o755)
    settings = settings_of('[kernels]\nfetch_devel = true\n[retry]\nfirst = "300s"\n')

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


ERRORS = [OSError(24, "Too many open files"), RuntimeError("can't start new thread"), Exception()]


@pytest.mark.parametrize("error", ERRORS)
def test_fetch_that_fails_for_any_reason_is_repeated_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried: list[Remedy] = []

    async def broken(sysroot: Sysroot, remedy: Remedy, directory: str) -> None:
        tried.append(remedy)
        raise error

    monkeypatch.setattr(fetching, "fetch", broken)

    async def go() -> None:
        work = Fetching(Sysroot(tmp_path), settings_of("[kernels]\nfetch_devel = true\n"), lambda _: None)
        for _ in range(20):
            work.start([DEVEL])
            await asyncio.gather(*work.running.values())
        await work.stop()

    asyncio.run(go())
    assert tried == [GET_DEVEL]


HOLD = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"


def test_nothing_is_fetched_while_an_rpm_transaction_runs(tmp_path: Path) -> None:
    lock = tmp_path / "var/lib/rpm/.rpm.lock"
    lock.parent.mkdir(parents=True)

    async def started() -> bool:
        fetching = Fetching(Sysroot(tmp_path), settings_of("[kernels]\nfetch_devel = true\n"), lambda _: None)
        fetching.start([DEVEL])
        found = bool(fetching.running)
        await fetching.stop()
        return found

    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        assert not asyncio.run(started())
        holder.kill()
    assert asyncio.run(started())
