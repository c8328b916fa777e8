"""Builds leave the reserve of free space alone: file systems that are small indeed, and builds that fill them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from world import GOOD, HELD, QUICK, World
from worlds import settings_of

from kmodd.core.sysroot import Sysroot
from kmodd.reconcile.reserve import Reserve

pytestmark = pytest.mark.system

MEBIBYTE = 1 << 20
SIZE, RESERVE, FILLED = 200, 16, 100  # MiB
#: Fills the disk down into the reserve, and goes on as soon as there is more.
FILL = f"""\
import os, time
os.chdir("/build/source")
with open("filling", "wb") as stream:
    for _ in range({FILLED}):
        stream.write(bytes({MEBIBYTE}))
        stream.flush()
while os.statvfs(".").f_bavail * os.statvfs(".").f_frsize < {RESERVE * MEBIBYTE}:
    time.sleep(0.1)
"""


def fill(directory: Path, leave: float) -> Path:
    """Fill a file system but for so many MiB; returns the file that does it."""
    ballast = directory / "ballast"
    found = os.statvfs(directory)
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, found.f_bavail * found.f_frsize - int(leave * MEBIBYTE))
    return ballast


def mount(world: World, place: str, size: int = SIZE) -> Path:
    directory = world.root / place
    world.mount(directory, "-t", "tmpfs", "-o", f"size={size}m", "none")
    return directory


def small(world: World) -> Path:
    world.settings(f'{QUICK}[build]\nreserve = "{RESERVE}MiB"\n')
    return mount(world, "var/cache/kmodd")


def refused(world: World, module: str) -> dict[str, Any]:
    """Return a target's status as it is once the build failed for want of space; a moment later it is tried again."""
    found: dict[str, Any] = {}

    def is_refused() -> bool:
        found.update(world.target(module))
        return found.get("problem") == "disk-full"

    world.wait(is_refused, f"{module} fails for want of space")
    return found


def test_the_build_that_takes_the_reserve_is_stopped_and_no_other(world: World) -> None:
    ballast = fill(small(world), FILLED + RESERVE - 1)
    makefile = "obj-m := {}.o\n"
    world.add("other", {"other.c": GOOD.format(name="other"), "Makefile": makefile.format("other") + HELD})
    world.start()
    world.hold()
    (held,) = world.held()
    hog = {"hog.c": GOOD.format(name="hog"), "fill.py": FILL}
    world.add("hog", {**hog, "Makefile": makefile.format("hog") + "$(shell python3 /build/source/fill.py)\n"})
    found = refused(world, "hog")
    assert (found["verdict"], "disk-full" in world.log.read_text()) == ("failed", True), found
    assert "are free on the file system of /var/cache/kmodd, and 16.0 MiB are to stay free" in found["reason"]
    assert (world.held(), world.verdict("other")) == ([held], "building")
    world.release()
    world.wait_for("other", "ready")
    ballast.unlink()
    world.wait_for("hog", "ready")


def test_no_build_begins_while_the_reserve_is_in_use(world: World) -> None:
    ballast = fill(small(world), RESERVE - 1)
    world.add("alpha")
    world.start()
    assert refused(world, "alpha")["verdict"] == "failed"
    assert "CC [M]" not in world.build_log("alpha")
    ballast.unlink()
    world.wait_for("alpha", "ready")


def test_reserve_of_zero_is_none(world: World) -> None:
    fill(small(world), RESERVE - 1)
    world.settings(f"{QUICK}[build]\nreserve = 0\n")
    world.add("alpha")
    assert world.sync().returncode == 0
    assert world.verdict("alpha") == "ready"


@pytest.mark.parametrize("place", ["var/cache/kmodd", "var/lib/kmodd", "var/log/kmodd"])
def test_each_file_system_counts_and_of_a_small_one_a_tenth(bare: World, place: str) -> None:
    directory = mount(bare, place, 20)
    reserve = Reserve(Sysroot(bare.root), settings_of('[build]\nreserve = "4096MiB"\n'))
    # The root's own file system is large, but what is free there is another's affair.
    others = [p for p in ("var/cache/kmodd", "var/lib/kmodd", "var/log/kmodd") if p != place]
    for other in others:
        mount(bare, other, 20)
    assert reserve.left()[1] is None
    for leave, full in ((2.5, False), (1.5, True)):
        ballast = fill(directory, leave)
        problem = reserve.left()[1]
        assert (problem is not None) == full
        if problem is not None:
            assert (problem.code, problem.transient, f"/{place}," in problem.message) == ("disk-full", True, True)
        ballast.unlink()
    assert (reserve.left(19 * MEBIBYTE)[1] is not None, reserve.left(17 * MEBIBYTE)[1]) == (True, None)
