"""What large objects cost: how much memory the process takes that builds, signs, installs and checks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from patience import LIMIT
from world import GOOD, QUICK, World

pytestmark = pytest.mark.system

NAMES = ("one", "two", "three")
#: Objects are as large as somebody wants them, and mostly holes.
MAKEFILE = """\
obj-m := one.o two.o three.o
ifeq ($(KERNELRELEASE),)
all:
	make -C $(T) M=/build/source modules
	truncate -s {size} one.ko two.ko three.ko
endif
"""
SYNC = r"""
import re, sys
import kmodd.ctl
sys.argv = ["kmoddctl", "sync", "--root", sys.argv[1]]
try:
    kmodd.ctl.main()
finally:
    status = open("/proc/self/status").read()  # ru_maxrss counts what the parent had when it forked, too
    print(re.search(r"VmHWM:\s+(\d+)", status)[1], file=sys.stderr)
"""


def sync(world: World) -> tuple[int, float]:
    """Bring the root to what is registered; returns the exit status, and how much memory it took at most, in MiB."""
    top = Path(__file__).resolve().parents[2]
    argv = [sys.executable, "-c", SYNC, str(world.root)]
    done = subprocess.run(argv, cwd=top, capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, int(done.stderr.splitlines()[-1]) / 1024


def add(world: World, size: str) -> None:
    world.settings(QUICK)
    files = {f"{name}.c": GOOD.format(name=name) for name in NAMES}
    more = '[build]\ncommand = ["make", "T={build_tree}"]\nstrip = false\n'
    world.add("large", {**files, "Makefile": MAKEFILE.format(size=size)}, more)


def test_objects_are_held_one_at_a_time(world: World) -> None:
    add(world, "48M")
    status, most = sync(world)
    assert (status, world.verdict("large")) == (0, "ready"), world.target("large")
    assert most < 180, f"{most:.0f} MiB, of which some 45 are the program's own"


def test_objects_that_are_too_large_are_neither_read_nor_copied(world: World) -> None:
    add(world, "1G")
    status, most = sync(world)
    last = world.target("large")["last_attempt"]
    assert (status, last["problem"]) == (1, "object-too-large"), last
    assert most < 120, f"{most:.0f} MiB"
