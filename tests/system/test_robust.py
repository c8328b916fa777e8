"""The running daemon goes on through want of descriptors and memory, and through the loss of what is in /run."""

from __future__ import annotations

import os
import resource
import shutil

import pytest
from world import GOOD, World

from kmodd.core.sysroot import Sysroot
from kmodd.system.lock import Lock

pytestmark = pytest.mark.system

NEVER = {"slow.c": GOOD.format(name="slow"), "Makefile": "obj-m := slow.o\n$(shell sleep 4000)\n"}


def limit(world: World, what: int, most: int) -> tuple[int, int]:
    """Set a limit of the running daemon; returns what it was."""
    assert world.child is not None
    _, hard = resource.prlimit(world.child.pid, what)
    return resource.prlimit(world.child.pid, what, (most if most >= 0 else hard, hard))


def said(world: World, words: str) -> int:
    return world.log.read_text().count(words)


def test_want_of_descriptors_is_told_once_and_outlived(built: World) -> None:
    built.start()
    soft, _ = limit(built, resource.RLIMIT_NOFILE, 3)  # fewer than are open: nothing more can be opened
    built.add("beta")
    built.wait(lambda: said(built, "look failed") > 1, "a look that failed twice")
    assert said(built, "error   look failed") == 1
    limit(built, resource.RLIMIT_NOFILE, soft)
    built.wait_for("beta", "ready")
    assert said(built, "look succeeded again") == 1


def test_wiped_runtime_directory_takes_nothing_from_a_build(built: World) -> None:
    built.add("slow", NEVER)
    built.start()
    scratch = built.root / "var/cache/kmodd/build"
    built.wait(lambda: any(scratch.glob("slow@*")), "the build to begin")
    (directory,) = scratch.glob("slow@*")
    before = directory.stat().st_ino
    runtime = built.root / "run/kmodd"
    holder = Lock(Sysroot(built.root)).holder()
    for _ in range(3):
        shutil.rmtree(runtime)
        assert Lock(Sysroot(built.root)).holder() == holder  # a sync of now asks the daemon, or is refused
        built.wait(lambda: (runtime / "io.kmodd.Manager").exists(), "the socket to be made anew")
    assert built.status()["holder"] == holder
    assert directory.stat().st_ino == before
    shutil.rmtree(runtime)
    os.mkfifo(built.root / "run/kmodd")  # nor can it be made anew now
    done = built.ctl("sync")
    assert (done.returncode, "is at work on" in done.stderr) == (1, True), done.stderr
    assert directory.stat().st_ino == before
    (built.root / "run/kmodd").unlink()
