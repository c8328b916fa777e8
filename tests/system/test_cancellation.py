"""Whenever work is stopped that has only just begun, it ends, and nothing of it is left behind."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from patience import pause
from processes import cancel_many, nothing_left
from world import World


def test_hundreds_of_cancellations_at_random_instants_leave_nothing(tmp_path: Path) -> None:
    mark = f"kmodd-test-{tmp_path}"
    with nothing_left(mark):
        cancel_many(500, mark)


def test_a_daemon_that_is_stopped_right_after_builds_began_ends(world: World) -> None:
    """The root's fixture fails if a process of it is left."""
    for name in ("one", "two", "three"):
        slow = "obj-m := x.o\n$(shell trap '' TERM; sleep 600)\n"
        world.add(name, {"Makefile": slow, "x.c": ""})
    chance = random.Random(7)
    for turn in range(20):
        world.log.write_text("")
        world.start()
        world.wait(lambda: "build started" in world.log.read_text(), "a build")
        if turn % 2:  # else in the very moment when the sandbox is being started
            pause(chance.random() * 0.2)
        assert world.kill(signal.SIGTERM) == 0
