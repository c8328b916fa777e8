"""What accidents of rmmod and modprobe do to a reload: nothing that is remembered of the module."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Optional

import pytest
from worlds import K, T, kernel, module, settled

from kmodd.core.actions import ReloadModule
from kmodd.core.errors import Problem
from kmodd.core.model import Loaded, Presence
from kmodd.core.record import Reload
from kmodd.core.sysroot import Sysroot
from kmodd.host.store import Store
from kmodd.reconcile import reload
from kmodd.reconcile.reload import ReloadWork

KILLED = "kill -KILL $$"
UNSTARTED = "echo 'error while loading shared libraries: x.so' >&2; exit 127"
REFUSED = "echo '{}: ERROR: Module m is in use' >&2; exit 1"
#: As systemd-run --wait --pipe --quiet does it: what befell the program is one status, and nothing is said.
SYSTEMD_RUN = (
    '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\n"$@" || { s=$?; [ $s -lt 128 ] && exit $s; exit 1; }\n'
)


class Machine:
    """A kernel's memory as a directory: rmmod and modprobe change it, and have accidents."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch, detached: bool) -> None:
        self.top = top
        self.memory = top / "memory"
        self.memory.mkdir()
        (self.memory / "m").touch()
        (top / "bin").mkdir()
        (top / "root").mkdir()
        self.calls = top / "calls"
        monkeypatch.setenv("KMODD_PROGRAM_PATH", f"{top / 'bin'}:/usr/bin:/bin")
        monkeypatch.setattr(reload, "SYSTEMD_RUNS", top if detached else top / "none")
        self.program("systemd-run", SYSTEMD_RUN)
        self.store = Store(Sysroot(top / "root"))
        for name in ("rmmod", "modprobe"):
            self.have(name)

    def program(self, name: str, text: str) -> None:
        (self.top / "bin" / name).write_text(text)
        (self.top / "bin" / name).chmod(0o755)

    def have(self, name: str, before: str = "", after: str = "") -> None:
        """Have a program do its work, but for what happens before or after it."""
        does = f"rm -f {self.memory}/$1" if name == "rmmod" else f"touch {self.memory}/$1"
        line = f"#!/bin/sh\necho {name} >> {self.calls}\n{before}\n{does}\n{after}\n"
        self.program(name, line.replace("{}", name))

    def reload(self) -> Optional[Problem]:
        """Reload m, as a look that finds an old one does; returns the problem that it ends with."""
        there = Presence.STALE if (self.memory / "m").exists() else Presence.ABSENT
        snapshot = settled(
            module(load={"reload": "if-unused"}),
            kernels=(kernel(running=True),),
            loaded={T: (Loaded("m", there),)},
            boot="b1",
        )
        try:
            asyncio.run(ReloadWork(self.store).reload(ReloadModule(T, ("m",), "old", ()), snapshot))
        except Problem as problem:
            return problem
        return None

    def remembered(self) -> Reload:
        found = self.store.record(T).reload
        assert found is not None
        return found


@pytest.fixture(params=[False, True], ids=["plain", "in a unit"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch, request.param)


@pytest.mark.parametrize("program", ["rmmod", "modprobe"])
@pytest.mark.parametrize("accident", [{"before": KILLED}, {"before": UNSTARTED}, {"after": KILLED}], ids=str)
def test_an_accident_is_no_failure_of_the_module(machine: Machine, program: str, accident: dict[str, str]) -> None:
    machine.have(program, **accident)
    problem = machine.reload()
    assert problem is not None and problem.transient, problem
    assert (machine.remembered().outcome, machine.remembered().objects) == ("began", ("m",))
    machine.have(program)
    assert machine.reload() is None
    assert (machine.remembered().outcome, (machine.memory / "m").exists()) == ("succeeded", True)


def test_what_is_out_is_loaded_at_once_again_after_an_accident(machine: Machine) -> None:
    machine.have("modprobe", f"[ $(grep -c modprobe {machine.calls}) -ge {reload.TRIES} ] || {KILLED}")
    assert machine.reload() is None
    assert machine.calls.read_text().split() == ["rmmod", *["modprobe"] * reload.TRIES]
    assert (machine.remembered().outcome, (machine.memory / "m").exists()) == ("succeeded", True)


def test_an_object_that_may_be_out_is_loaded_back(machine: Machine) -> None:
    machine.have("rmmod", after=KILLED)
    machine.reload()
    assert (machine.memory / "m").exists()


@pytest.mark.parametrize(("program", "code"), [("rmmod", "reload-refused"), ("modprobe", "reload-failed")])
def test_what_the_kernel_says_is_remembered(machine: Machine, program: str, code: str) -> None:
    machine.have(program, REFUSED)
    assert machine.reload() is None
    tried = machine.remembered()
    assert (tried.outcome, tried.problem, "Module m is in use" in tried.message) == ("failed", code, True), tried
    assert K in tried.message or "m" in tried.message
