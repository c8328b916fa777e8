"""The gate before a reboot and the check of a monitoring system, on real kernels that come by real rpm."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from patience import LIMIT
from world import GOOD, HELD, World

from kmodd.ctl.gate import DaemonEvents

pytestmark = pytest.mark.system

SLOW = {"alpha.c": GOOD.format(name="alpha"), "Makefile": f"obj-m := alpha.o\n{HELD}"}
BAD = {"bad.c": "#error no\n"}
HOLD = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"


def gate(world: World, *words: str) -> tuple[int, dict[str, Any], str]:
    done = world.ctl("gate", *words, "--json")
    return done.returncode, json.loads(done.stdout), done.stderr


def hold_rpm_lock(world: World) -> subprocess.Popen[str]:
    """Hold rpm's lock as a transaction does, until something is written to the process."""
    lock = subprocess.Popen(
        ["python3", "-c", HOLD, world.root / "var/lib/rpm/.rpm.lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert lock.stdout is not None and lock.stdout.readline() == "1\n"
    return lock


@contextlib.contextmanager
def gate_that_waits(world: World, said: str) -> Iterator[subprocess.Popen[str]]:
    """Run a gate that waits, once it has said for what."""
    argv = [sys.executable, "-m", "kmodd.ctl", "gate", "--wait", "10min", "--root", world.root]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        while said not in waiting.stderr.readline():
            assert waiting.poll() is None
        yield waiting


def test_gate_is_shut_for_a_kernel_that_the_daemon_has_not_seen_yet(world: World) -> None:
    """The daemon is stopped from before the kernel comes; its last word is that all is ready."""
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    assert gate(world)[0] == 0
    assert world.child is not None
    world.child.send_signal(signal.SIGSTOP)
    world.install(world.releases.other)
    progress = json.loads((world.root / "run/kmodd/progress.json").read_text())
    code, found, said = gate(world)
    assert progress["activity"] == "idle"
    assert (code, found["kernel"], found["chosen"]) == (4, world.releases.other, "newest")
    assert (found["verdict"], found["lacking"][0]["module"]) == ("building", "alpha")
    assert f"which kernel boots next cannot be determined; this is the newest, {world.releases.other}" in said
    assert gate(world, "--kernel", world.kernel)[0] == 0
    world.child.send_signal(signal.SIGCONT)
    code, found, said = gate(world, "--wait", "10min")
    assert (code, found["ready"], found["verdict"]) == (0, True, "ready")
    assert f"waiting for alpha (building) on {world.releases.other}" in said
    assert world.extra(world.releases.other) == ["alpha/alpha.ko.xz"]


def test_gate_and_check_look_at_the_kernel_that_boots_next(world: World) -> None:
    """The boot loader keeps the older kernel, which is ready; the newer one lacks its headers."""
    loader, old = world.root / "boot/loader", world.kernel
    (loader / "entries").mkdir(parents=True)
    (loader / "loader.conf").write_text(f"default {old}.conf\n")
    for release in (old, world.releases.other):
        (loader / f"entries/{release}.conf").write_text(f"version {release}\nlinux /vmlinuz-{release}\n")
    world.add("alpha")
    world.sync()
    world.rpm("-i", *world.releases.files[world.releases.other][:2])
    code, found, said = gate(world)
    assert (code, found["kernel"], found["chosen"], said) == (0, old, "default-boot", "")
    done = world.ctl("check")
    assert (done.returncode, done.stdout.split(" | ")[0]) == (
        1,
        f"KMODD WARNING - {world.releases.other}: alpha waiting; kmodd is not running",
    )
    (loader / "loader.conf").write_text(f"default {world.releases.other}.conf\n")
    assert gate(world)[:1] == (4,)
    done = world.ctl("check", "--default")
    assert done.returncode == 2
    assert done.stdout.startswith(f"KMODD CRITICAL - {world.releases.other} (boots next): alpha waiting; ")
    world.sync()
    motd = (world.root / "run/motd.d/kmodd").read_text()
    assert f"alpha on {world.releases.other} (waiting, which boots next)" in motd


def test_gate_is_shut_during_an_rpm_transaction(world: World) -> None:
    world.add("alpha")
    world.sync()
    assert gate(world)[0] == 0
    lock = hold_rpm_lock(world)
    code, found, _ = gate(world)
    assert (code, found["ready"], found["verdict"], found["transaction"]) == (4, False, "ready", lock.pid)
    assert f"rpm transaction is running (pid {lock.pid})" in world.ctl("gate").stdout
    with gate_that_waits(world, f"waiting for the rpm transaction of pid {lock.pid}") as waiting:
        lock.communicate("\n")
        assert waiting.wait(LIMIT) == 0


def test_gate_waits_for_a_build_and_for_headers(world: World) -> None:
    core, modules_core, devel = world.releases.files[world.releases.other]
    world.add("alpha", SLOW)
    world.start()
    world.rpm("-i", core, modules_core)
    code, found, _ = gate(world, "--wait", "1s")
    assert (code, found["verdict"]) == (4, "waiting")
    assert found["waited"] >= 1
    world.rpm("-i", devel)
    with gate_that_waits(world, "waiting for alpha (building)") as waiting:
        world.release_all(lambda: waiting.poll() is not None)  # the other kernel's build may come first
        assert waiting.wait(LIMIT) == 0


def test_wait_follows_the_daemon_and_does_without_it(world: World) -> None:
    news = DaemonEvents(str(world.root))
    news.listen()
    assert not news.wait(0, LIMIT)
    world.start()
    news.listen()
    world.add("alpha")
    assert news.wait(0, LIMIT)
    world.wait_for("alpha", "ready")
    world.stop()
    while news.wait(0, LIMIT):
        pass
    assert news._client is None


def test_gate_ends_its_wait_where_only_a_human_can_help(world: World) -> None:
    world.add("bad", BAD)
    world.add("alpha")
    world.sync()
    code, found, _ = gate(world, "--wait", "1h")
    assert (code, found["verdict"], found["hopeless"]) == (1, "failed", True)
    assert found["waited"] < 600
    assert (found["lacking"][0]["module"], found["lacking"][0]["problem"]) == ("bad", "build-failed")
    text = world.ctl("gate").stdout.splitlines()
    assert text[0] == f"{world.kernel}: not ready, failed"
    assert text[1].startswith("  bad: failed, bad.c:1:2: error: #error no")
    world.registry("bad").write_text('[module]\nrequired = false\n[source]\npath = "/usr/src/bad-1.0"\n')
    assert gate(world)[0] == 0
    (world.root / "etc/kernel").mkdir()
    (world.root / "etc/kernel/cmdline").write_text("module.sig_enforce=1\n")
    code, found, _ = gate(world, "--wait", "1h")
    assert (code, found["verdict"], found["hopeless"]) == (4, "blocked", True)


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--kernel", "6.1.0-nonesuch"), 2, "kernel-unknown"),
        (("--wait", "soon"), 2, "usage-wait"),
    ],
)
def test_gate_refuses_what_it_cannot_answer(world: World, words: tuple[str, ...], code: int, problem: str) -> None:
    found = gate(world, *words)
    assert (found[0], found[1]["error"]["problem"]) == (code, problem)


def test_gate_stays_shut_with_broken_settings(world: World) -> None:
    world.settings("[daemon]\nquiet = 'nonsense'\n")
    assert gate(world)[:1] == (1,)


#: Passes once as root, since the interpreter's own files may lie where nobody can import them from.
AS_NOBODY = """\
import contextlib, io, os, sys
import kmodd.ctl.check, kmodd.ctl.gate
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
    kmodd.ctl.main(["check", *sys.argv[-2:]])
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
kmodd.ctl.main(sys.argv[1:])
"""


def as_nobody(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", AS_NOBODY, *words, "--root", str(world.root)]
    return subprocess.run(argv, capture_output=True, text=True)


def test_check_tells_an_ordinary_user_all_states(world: World) -> None:
    world.add("alpha", more="[kernels]\n")
    world.sync()
    world.root.parent.chmod(0o755)
    done = as_nobody(world, "check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith("KMODD OK - 1 ready on 1 kernel; kmodd is not running | ready=1;;;0;1 building=0;;;0")
    assert as_nobody(world, "gate").returncode == 0

    world.add("bad", BAD, more="[module]\nrequired = false\n")
    world.start()
    world.wait_for("bad", "failed")
    done = as_nobody(world, "check")
    assert done.returncode == 1
    assert done.stdout.startswith(f"KMODD WARNING - {world.kernel} (newest): bad failed | ")
    assert f"WARNING: bad on {world.kernel}: failed, bad.c:1:2: error: #error no" in done.stdout

    world.registry("bad").write_text('[source]\npath = "/usr/src/bad-1.0"\n')
    done = as_nobody(world, "check", "--default")
    assert done.returncode == 2 and done.stdout.startswith("KMODD CRITICAL - ")
    assert json.loads(as_nobody(world, "check", "--json").stdout)["counts"]["failed"] == 1

    world.settings("[daemon]\nquiet = 'nonsense'\n")
    done = as_nobody(world, "check")
    assert done.returncode == 3
    assert done.stdout.startswith("KMODD UNKNOWN - /etc/kmodd/kmodd.toml: daemon.quiet: must be a time span")
    world.settings("")


@pytest.mark.parametrize(
    "words", [("--kernel", "6.1.0-nonesuch"), ("--nonsense",), ("--all", "--default"), ("--root", "/nonesuch")]
)
def test_check_says_unknown_to_a_wrong_question(words: tuple[str, ...]) -> None:
    argv = [sys.executable, "-m", "kmodd.ctl", "check", "--root", "/usr/share", *words]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout.startswith("KMODD UNKNOWN - ")
    assert "Traceback" not in done.stderr


def test_monitoring_takes_the_whole_output(world: World) -> None:
    """Every value of the performance data parses, and no other line has a "|"."""
    world.add("alpha")
    lines = world.ctl("check").stdout.splitlines()
    _, _, performance = lines[0].partition(" | ")
    values = dict(word.split("=") for word in performance.split())
    assert set(values) == {"ready", "building", "waiting", "blocked", "failed"}
    assert values["building"] == "1;;;0;1"
    assert not any("|" in line for line in lines[1:])
