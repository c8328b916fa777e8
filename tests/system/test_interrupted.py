"""What an accident does to a tool is no verdict: the target waits, and is ready by itself once the accident is over."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from world import QUICK, World

from kmodd.core.actions import Wait
from kmodd.core.model import Judgement, Verdict
from kmodd.core.planner import judge, plan
from kmodd.core.settings import SettingsSource
from kmodd.core.sysroot import Sysroot
from kmodd.host.settingsfile import read_settings
from kmodd.reconcile import policy_of
from kmodd.reconcile.observe import make_observer

PATIENT = '[retry]\nfirst = "1h"\nlongest = "2h"\n[sign]\nalgorithm = "ecdsa"\n'
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: What happens to a tool, as its first words in the shell.
ACCIDENTS = {
    "killed": "kill -KILL $$",
    "terminated": "kill -TERM $$",
    "handed on": "exit 137",
    "no library": "echo 'x: error while loading shared libraries: libc.so.6' >&2; exit 127",
    "no memory": "echo 'x: ERROR: Cannot allocate memory' >&2; exit 1",
    "no files": "ulimit -n 3",
    "broken disk": "echo 'x: Input/output error' >&2; exit 1",
}


class Faulty:
    """Tools that fail as long as a file is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mark = directory / "broken"
        directory.mkdir()
        self.env = {"KMODD_PROGRAM_PATH": f"{directory}:{PATH}"}

    def break_(self, tool: str, accident: str) -> None:
        fake = self.directory / tool
        fake.write_text(f'#!/bin/sh\n[ -e {self.mark} ] && {{ {accident}; }}\nexec {shutil.which(tool)} "$@"\n')
        fake.chmod(0o755)
        self.mark.touch()

    def mend(self) -> None:
        self.mark.unlink()


@pytest.fixture
def faulty(built: World) -> Faulty:
    return Faulty(built.root.parent / "faulty")


def document(world: World, env: dict[str, str], command: str = "status") -> tuple[int, dict[str, Any]]:
    done = world.ctl(command, "--json", env=env)
    assert done.stdout, done.stderr
    (target,) = json.loads(done.stdout)["targets"]
    return done.returncode, target


def touch(world: World) -> None:
    """Have what was checked be checked again."""
    shutil.rmtree(world.root / "var/cache/kmodd", ignore_errors=True)


def look(world: World) -> Judgement:
    """Return the verdict of the only target, as a new process comes to it."""
    sysroot = Sysroot(world.root)
    settings = read_settings(sysroot)
    snapshot = asyncio.run(make_observer(sysroot, SettingsSource(settings), brief=True).observe())
    (found,) = judge(snapshot, policy_of(settings), time.time()).values()
    actions = plan(snapshot, policy_of(settings), time.time())
    if found.verdict is Verdict.WAITING:
        (wait,) = actions
        assert isinstance(wait, Wait) and wait.until is not None and wait.until > time.time()
    return found


def test_an_accident_of_a_tool_is_no_finding_and_is_not_remembered(
    built: World, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMODD_PROGRAM_PATH", faulty.env["KMODD_PROGRAM_PATH"])
    for tool in ("modprobe", "openssl"):
        for accident, script in ACCIDENTS.items():
            touch(built)
            faulty.break_(tool, script)
            found = look(built)
            assert (found.verdict, found.problem) == (Verdict.WAITING, "check-interrupted"), (tool, accident, found)
            faulty.mend()
            assert look(built).verdict is Verdict.READY, (tool, accident)


def test_files_that_cannot_be_read_now_are_neither_changed_nor_unreadable(
    built: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open
    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN):

        def refuse(path: Path, *words: Any, number: int = number, **more: Any) -> Any:
            if "/extra/" in str(path):
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *words, **more)

        touch(built)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", refuse)
            found = look(built)
        assert (found.verdict, found.problem) == (Verdict.WAITING, "look-interrupted"), (number, found)
        assert look(built).verdict is Verdict.READY


def test_the_commands_say_so_and_it_heals(built: World, faulty: Faulty) -> None:
    touch(built)
    faulty.break_("modprobe", ACCIDENTS["killed"])
    assert built.ctl("sync", env=faulty.env).returncode == 4
    code, target = document(built, faulty.env, "verify")
    assert (code, target["verdict"]) == (4, "waiting")
    assert {c["outcome"] for c in target["checks"]} <= {"passed", "skipped", "interrupted"}
    assert built.ctl("gate", "--kernel", built.kernel, env=faulty.env).returncode != 0
    faulty.mend()
    code, target = document(built, faulty.env)
    assert (code, target["verdict"]) == (0, "ready")


def test_what_openssl_does_not_say_is_no_bad_signature_and_what_it_says_is(
    built: World, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = built
    monkeypatch.setenv("KMODD_PROGRAM_PATH", faulty.env["KMODD_PROGRAM_PATH"])
    for said, problem in (
        ("error:0308010C:digital envelope routines::unsupported", "check-interrupted"),
        ("error:1700009E:CMS routines::verification failure:../crypto", "signature-invalid"),
    ):
        touch(world)
        faulty.break_("openssl", f"echo '{said}' >&2; exit 4")
        assert look(world).problem == problem


def test_the_daemon_checks_again_by_itself(built: World, faulty: Faulty) -> None:
    world = built
    world.settings(QUICK)
    touch(world)
    faulty.break_("modprobe", ACCIDENTS["killed"])
    world.start(env=faulty.env)
    world.wait_for("alpha", "waiting")
    faulty.mend()
    world.wait_for("alpha", "ready")
    world.stop()


def test_verify_has_the_daemon_forget_too(built: World, faulty: Faulty) -> None:
    world = built
    world.settings(PATIENT)
    touch(world)
    faulty.break_("openssl", "echo 'error:1700009E:CMS routines::verification failure:../crypto' >&2; exit 4")
    world.start(env=faulty.env)
    world.wait_for("alpha", "blocked")
    faulty.mend()
    assert world.verdict("alpha") == "blocked"
    assert world.ctl("verify").returncode == 0
    world.wait_for("alpha", "ready")
    world.stop()


def test_a_killed_compiler_neither_ends_what_is_installed_nor_stays(built: World, faulty: Faulty) -> None:
    world = built
    world.add("beta")
    faulty.break_("gcc", ACCIDENTS["killed"])
    faulty.break_("gcc-12", ACCIDENTS["killed"])
    done = world.ctl("status", "--json", env=faulty.env)
    found = {t["module"]: (t["verdict"], t["problem"]) for t in json.loads(done.stdout)["targets"]}
    assert found == {"alpha": ("ready", ""), "beta": ("waiting", "tool-killed")}
    faulty.mend()
    assert world.sync(env=faulty.env).returncode == 0


def test_a_killed_rpm_is_no_package_that_is_gone(built: World, faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMODD_PROGRAM_PATH", faulty.env["KMODD_PROGRAM_PATH"])
    sysroot = Sysroot(built.root)
    observer = make_observer(sysroot, SettingsSource(read_settings(sysroot)), brief=True)
    packages = asyncio.run(observer.observe()).kernels[built.kernel].devel_package
    assert packages
    faulty.break_("rpm", ACCIDENTS["killed"])
    for path in sysroot.resolve(sysroot.rpm_database).glob("*"):
        os.utime(path)  # it is asked again
    assert asyncio.run(observer.observe()).kernels[built.kernel].devel_package == packages
    assert observer.kernels.rpm_fault is not None and observer.kernels.rpm_fault.code == "tool-killed"
    faulty.mend()
    asyncio.run(observer.observe())
    assert observer.kernels.rpm_fault is None
