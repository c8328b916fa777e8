"""A reboot waits for what changes what boots, and for nothing else, and never fails."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import pytest
from test_boot_telling import observed
from test_planner_guard import HELD, server
from worlds import K2, change

from kmodd.core.errors import Problem
from kmodd.ctl import waiting
from kmodd.ctl.inprocess import Observed


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of programs; each test gives systemctl its answer."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("KMODD_PROGRAM_PATH", f"{directory}:/usr/bin:/bin")
    for name, text in (("systemctl", "cat $0.jobs"), ("wall", 'echo "$2" >>$0.said')):
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    monkeypatch.setattr(waiting, "CONSOLE", tmp_path / "console")
    return directory


def jobs(programs: Path, *targets: str, kind: str = "start") -> None:
    lines = [f" {number} {target} {kind} waiting\n" for number, target in enumerate(targets, 1)]
    (programs / "systemctl.jobs").write_text("".join(lines) or "No jobs running.\n")


def wait(root: Path) -> int:
    return waiting.run_wait(argparse.Namespace(root=str(root)))


@pytest.mark.parametrize(
    ("targets", "looks"),
    [(("reboot.target", "shutdown.target"), True), (("kexec.target",), True), (("poweroff.target",), False),
     (("soft-reboot.target",), False), ((), False), (("multi-user.target",), False)],
)  # fmt: skip
def test_only_a_reboot_looks_whether_a_kernel_is_about_to_be_ready(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: tuple[str, ...], looks: bool
) -> None:
    looked: list[bool] = []
    monkeypatch.setattr(waiting, "_find_reason", lambda _root, _options, reboots: looked.append(reboots) or "")
    jobs(programs, *targets)
    assert wait(tmp_path) == 0
    assert looked == ([looks] if targets and targets[0] in (*waiting.REBOOTS, *waiting.ENDS) else [])


def test_it_says_what_it_waits_for_and_ends_with_it(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["6.1 to be ready (m: is being built)", "6.1 to be ready (m: is being built)", ""])
    monkeypatch.setattr(waiting, "_find_reason", lambda *_: next(answers))
    monkeypatch.setattr(waiting, "PAUSE", 0.0)
    jobs(programs, "reboot.target")
    assert wait(tmp_path) == 0
    said = (programs / "wall.said").read_text()
    assert said == (
        "kmodd: the reboot waits for 6.1 to be ready (m: is being built), at most 5 min; "
        "kmoddctl boot hurry ends that\n"
    )
    assert (tmp_path / "console").read_text() == said


def test_it_ends_when_it_is_hurried(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(programs, "reboot.target")
    monkeypatch.setattr(waiting, "PAUSE", 0.0)

    def hurry(*_: object) -> str:
        waiting.run_hurry(argparse.Namespace(root=str(tmp_path)))
        return "something that never ends"

    monkeypatch.setattr(waiting, "_find_reason", hurry)
    assert wait(tmp_path) == 0


def test_it_ends_after_the_delay(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(programs, "reboot.target")
    (tmp_path / "etc/kmodd").mkdir(parents=True)
    (tmp_path / "etc/kmodd/kmodd.toml").write_text('[boot]\ndelay = "10ms"\n')
    monkeypatch.setattr(waiting, "PAUSE", 0.0)
    monkeypatch.setattr(waiting, "_find_reason", lambda *_: "something that never ends")
    assert wait(tmp_path) == 0


def test_whatever_goes_wrong_a_reboot_goes_on(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise Problem("rpmdb-unreadable", "no")

    monkeypatch.setattr(waiting, "_find_reason", fail)
    jobs(programs, "reboot.target")
    assert wait(tmp_path) == 0
    (programs / "systemctl").unlink()
    assert wait(tmp_path / "gone") == 0


def test_a_release_that_runs_is_waited_for_at_any_end(tmp_path: Path) -> None:
    from kmodd.core.sysroot import Sysroot

    (tmp_path / "run/kmodd").mkdir(parents=True)
    (tmp_path / "run/kmodd/releasing").touch()
    reason = waiting._find_reason(Sysroot(tmp_path), argparse.Namespace(root=str(tmp_path)), reboots=False)
    assert reason == "a new kernel that is being made bootable"


def test_it_observes_the_root_while_a_kernel_is_being_built(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Observing has an event loop of its own."""
    building = server(held=HELD)
    building = change(building, running={t for t in building.targets if t.kernel == K2})
    seen = iter([observed(building), observed(server(ready=True))])

    async def see() -> Observed:
        return next(seen)

    monkeypatch.setattr(waiting, "observe", lambda _: asyncio.run(see()))
    monkeypatch.setattr(waiting, "PAUSE", 0.0)
    jobs(programs, "reboot.target")
    assert wait(tmp_path) == 0
    assert f"waits for {K2} to be ready" in (programs / "wall.said").read_text()
