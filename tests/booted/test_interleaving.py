"""Stop, reload, upgrade, erasure and kernels that come and go, in any interleaving: no failed unit, and no alarm."""

from __future__ import annotations

import random
import subprocess
import threading

import pytest
from ground.smallrpm import make_small
from nspawn import Machine, Repository
from patience import pause

pytestmark = pytest.mark.booted

ROUNDS = 100
ALARMS = "Triggering OnFailure|kmodd.*Failed with result"


class Operations:
    """What an administrator and rpm do; each tells whether it succeeded."""

    def __init__(self, machine: Machine, repository: Repository) -> None:
        self.machine = machine
        self.repository = repository

    def _does(self, *argv: object) -> bool:
        try:
            self.machine.run(*argv)
        except AssertionError:  # such as a stop whose place a reload took, or what another has erased already
            return False
        return True

    def stop(self) -> bool:
        return self._does("systemctl", "stop", "kmodd.service")

    def reload(self) -> bool:
        return self._does("systemctl", "reload", "kmodd.service")

    def upgrade(self) -> bool:
        has_first = self.machine.run("rpm", "-q", "kmodd", check=False).strip().endswith("-1.x86_64")
        package = self.repository.later if has_first else self.repository.kmodd
        return self._does("rpm", "-U", "--oldpackage", package)

    def erase(self) -> bool:
        return self._does("rpm", "-e", "kmodd")

    def kernel(self) -> bool:
        return self._does("rpm", "-i", "/small-1-1.noarch.rpm") and self._does("rpm", "-e", "small")


NAMES = ("stop", "reload", "upgrade", "erase", "kernel")


def perform(operations: Operations, what: list[tuple[str, float]]) -> list[tuple[str, bool]]:
    """Do all at once, each after a pause of so many seconds; returns which succeeded."""
    done: list[tuple[str, bool]] = []

    def one(name: str, after: float) -> None:
        pause(after)
        done.append((name, getattr(operations, name)()))

    threads = [threading.Thread(target=one, args=item) for item in what]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def begin(machine: Machine, repository: Repository) -> None:
    if not machine.run("rpm", "-q", "kmodd", check=False).startswith("kmodd-"):
        machine.run("rpm", "-i", repository.kmodd)
    machine.run("systemctl", "start", "kmodd.service")
    assert machine.active("kmodd") == "active"


def is_settled(machine: Machine) -> bool:
    """Tell whether nothing of what was asked for is under way."""
    jobs = machine.run("systemctl", "list-jobs")
    return "kmodd" not in jobs and machine.active("kmodd") not in ("activating", "reloading", "deactivating")


def test_whatever_coincides_the_unit_is_as_asked_and_raises_no_alarm(machine: Machine, repository: Repository) -> None:
    """A stop may be cancelled by a reload of the same moment, which it says; an erasure never is."""
    make_small(machine.root)
    operations = Operations(machine, repository)
    before = len(machine.journal("--grep", ALARMS))
    for number in range(ROUNDS):
        luck = random.Random(number)
        begin(machine, repository)
        what = [(luck.choice(NAMES), luck.uniform(0, 0.6)) for _ in range(luck.randint(2, 4))]
        done = perform(operations, what)
        machine.wait(lambda: is_settled(machine), "systemd's jobs, and the answer to a reload")
        state, names = machine.active("kmodd"), [name for name, _ in what]
        if ("stop", True) in done or ("erase", True) in done:
            assert state == "inactive", (number, what, done)
        elif "stop" in names:
            assert state in ("active", "inactive"), (number, what, done)
        else:
            assert state == "active", (number, what, done)
        assert len(machine.journal("--grep", ALARMS)) == before, (number, what, done)


def test_a_reload_that_is_stopped_in_its_midst_is_no_failure(machine: Machine, repository: Repository) -> None:
    """Where kill(1) takes its time: the race that a quick one only sometimes shows."""
    begin(machine, repository)
    slow = "[Service]\nExecReload=\nExecReload=-/bin/sh -c 'touch /var/cache/kmodd/reloading; exec sleep 1h'\n"
    machine.configure("reload", slow)
    words = ["nsenter", "-t", str(machine.leader), "-m", "-p", "-r", "-w", "--", "systemctl", "reload", "kmodd"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        machine.wait(lambda: (machine.root / "var/cache/kmodd/reloading").exists(), "the reload")
        machine.run("systemctl", "stop", "kmodd")
    assert machine.active("kmodd") == "inactive"
    (machine.root / "var/cache/kmodd/reloading").unlink()
