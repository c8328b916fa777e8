"""doctor on real roots: everything is well at first, and each thing that breaks is told with what mends it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ground.privateroot import find_packages
from world import World

from kmodd.core.model import Snapshot
from kmodd.core.settings import Settings, SettingsSource
from kmodd.core.sysroot import Sysroot
from kmodd.ctl import daemonunit
from kmodd.ctl.diagnosis import Finding, Host, machine
from kmodd.reconcile.observe import make_observer

pytestmark = pytest.mark.system
LINK = "system_u:object_r:modules_object_t:s0"


def examine(world: World) -> tuple[int, list[dict[str, Any]]]:
    env = {"KMODD_PROGRAM_PATH": str(world.root.parent / "bin")} if (world.root.parent / "bin").exists() else {}
    done = world.ctl("doctor", "--json", env=env)
    assert "Traceback" not in done.stderr, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    return done.returncode, document["checks"]


def replace(path: Path, text: str) -> None:
    """Write a file that may be a hard link to the template's."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def programs(world: World, without: str = "", **fake: str) -> None:
    """Give kmoddctl a PATH of its own; fake: what stands in for a program."""
    directory = world.root.parent / "bin"
    directory.mkdir()
    for place in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"):
        for path in Path(place).iterdir():
            if path.name != without and not (directory / path.name).exists():
                (directory / path.name).symlink_to(fake.get(path.name, path))


def break_key_pair(world: World) -> None:
    key = world.root / "etc/kmodd/keys/signing.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    key.chmod(0o600)


def expire(world: World) -> None:
    keys = world.root / "etc/kmodd/keys"
    key, made, request = keys / "signing.key", keys / "signing.x509", keys / "request"
    for argv in (
        ["openssl", "req", "-new", "-key", key, "-subj", "/CN=old", "-out", request],
        ["openssl", "x509", "-req", "-in", request, "-signkey", key, "-days", "-1", "-outform", "DER", "-out", made],
    ):
        subprocess.run(argv, check=True, capture_output=True)


def enforce(world: World) -> None:
    options = "title x\nversion {0}\nlinux /vmlinuz-{0}\noptions root=/dev/sda module.sig_enforce=1\n"
    replace(world.root / "boot/loader/entries/x.conf", options.format(world.kernel))


def change_compiler(said: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        path = world.root / "lib/modules" / world.kernel / "config"
        text = path.read_text() if path.exists() else (world.root / f"boot/config-{world.kernel}").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("CONFIG_CC_VERSION_TEXT")]
        replace(path, "\n".join([*lines, f'CONFIG_CC_VERSION_TEXT="{said}"']) + "\n")

    return change


def selinux(world: World) -> None:
    replace(world.root / "etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    for path in world.root.glob("lib/modules/*/extra/**/*.ko*"):
        os.setxattr(path, "security.selinux", b"unconfined_u:object_r:tmp_t:s0\0")


def dkms(world: World) -> None:
    (world.root / "var/lib/dkms/other/2.0/source").mkdir(parents=True)
    built = world.root / f"var/lib/dkms/other/2.0/{world.kernel}/x86_64/module/alpha.ko.xz"
    replace(built, "")


def second_copy(world: World) -> None:
    replace(world.root / "lib/modules" / world.kernel / "updates/alpha.ko", "")


def sign_file(world: World) -> Path:
    found = world.root / "usr/src/kernels" / world.kernel / "scripts/sign-file"
    copy = found.read_bytes()
    found.unlink()
    found.write_bytes(copy)
    return found


KEYS = "etc/kmodd/keys"
#: What breaks: how, the check that tells it, its level, a part of the text, a part of the fix.
BREAKS: dict[str, tuple[Callable[[World], object], str, str, str, str]] = {
    "no patch": (lambda w: programs(w, without="patch"), "programs", "fail", "patch is not", "dnf install patch"),
    "no bwrap": (lambda w: programs(w, without="bwrap"), "sandbox", "fail", "bwrap is not", "dnf install bubblewrap"),
    "bwrap fails": (lambda w: programs(w, bwrap="/bin/false"), "sandbox", "fail", "builds cannot run", "bwrap"),
    "no user": (
        lambda w: w.settings('[build]\nuser = "nobody-here"\n'), "build-user", "warning", "does not exist",
        "systemd-sysusers",
    ),
    "user is root": (
        lambda w: w.settings('[build]\nuser = "root"\n'), "build-user", "fail", "which is root", "build.user",
    ),
    "full disk": (
        lambda w: w.mount(w.root / "var/cache", "-t", "tmpfs", "-o", "size=16m", "tmpfs"), "space", "fail",
        "MiB are free in /var/cache", "du -xh",
    ),
    "little space": (
        lambda w: w.mount(w.root / "var/cache", "-t", "tmpfs", "-o", "size=300m", "tmpfs"), "space", "warning",
        "MiB are free in /var/cache", "du -xh",
    ),
    "no inodes": (
        lambda w: w.mount(w.root / "var/cache", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs"), "space", "fail",
        "no inodes are free in /var/cache", "du -xh",
    ),
    "read-only": (
        lambda w: w.mount(w.root / "var/cache", "-t", "tmpfs", "-o", "ro", "tmpfs"), "space", "fail",
        "/var/cache is read-only", "mount -o remount,rw",
    ),
    "wrong label": (selinux, "selinux", "fail", "alpha.ko (unconfined_u:object_r:tmp_t:s0)", "restorecon -RF"),
    "rpm database": (
        lambda w: replace(w.root / "var/lib/rpm/rpmdb.sqlite", "no database" * 1000), "rpm", "fail",
        "the rpm database /var/lib/rpm cannot be read", "rpm --rebuilddb",
    ),
    "module file": (
        lambda w: replace(w.registry("beta"), "[sauce]\n"), "module-files", "fail", "sauce", "kmodd.modules.d(5)",
    ),
    "settings": (lambda w: w.settings("[build]\njobs = 0\n"), "settings", "fail", "build.jobs", "kmodd.toml(5)"),
    "no headers": (
        lambda w: w.rpm("-e", *find_packages(w.root, f"kernel-devel-uname-r = {w.kernel}")), "kernel-devel", "fail",
        "is not installed",
        "install 'kernel-devel-uname-r = ",
    ),
    "no compiler": (change_compiler("clang version 99.1.0"), "compiler", "fail", "no clang", "dnf install clang"),
    "other compiler": (
        change_compiler("gcc (GCC) 4.8.5"), "compiler", "warning", "was built with gcc (GCC) 4.8.5",
        "dnf install gcc-toolset-4",
    ),
    "no sign-file": (lambda w: sign_file(w).unlink(), "sign-file", "fail", "sign-file cannot be run", "kernel-devel"),
    "open sign-file": (lambda w: sign_file(w).chmod(0o777), "sign-file", "fail", "others than root", "chmod go-w"),
    "open key directory": (
        lambda w: (w.root / KEYS).chmod(0o777), "keys", "fail", "open to others (mode 777)", "chmod 700",
    ),
    "open key": (lambda w: (w.root / KEYS / "signing.key").chmod(0o644), "keys", "fail", "by others", "chmod 600"),
    "lost key": (lambda w: (w.root / KEYS / "signing.key").unlink(), "keys", "fail", "is gone", "put it back"),
    "other key": (break_key_pair, "keys", "fail", "do not belong together", "put back"),
    "expired": (expire, "keys", "warning", "time ended on", "kmoddctl key rotate"),
    "enforced": (enforce, "enrolment", "fail", "module.sig_enforce", "kmoddctl key enroll"),
    "stale modules.dep": (
        lambda w: (w.root / "lib/modules" / w.kernel / "modules.dep").unlink(), "depmod", "fail",
        "modules.dep is missing", "depmod -b",
    ),
    "leftover": (
        lambda w: replace(w.root / "lib/modules/5.0.0-gone/extra/x/x.ko", ""), "leftovers", "warning",
        "/lib/modules/5.0.0-gone is what a removed kernel left", "rm -r",
    ),
    "dkms": (dkms, "others", "warning", "DKMS has other/2.0, which kmodd keeps as alpha", "dkms remove other/2.0"),
    "akmods": (
        lambda w: replace(w.root / "usr/src/akmods/alpha-kmod-1.0-1.fc41.src.rpm", ""), "others", "warning",
        "akmods has alpha-kmod", "dnf remove akmod-alpha",
    ),
    "second copy": (second_copy, "others", "warning", "updates/alpha.ko is another copy of alpha", "rpm -qf"),
}  # fmt: skip


def test_healthy_root_has_nothing_that_fails(built: World) -> None:
    status, found = examine(built)
    assert (status, [f for f in found if f["level"] == "fail"]) == (0, [])
    assert {f["check"] for f in found if f["level"] == "ok"} >= {
        "programs", "sandbox", "space", "selinux", "rpm", "units", "module-files", "kernel-devel", "compiler",
        "sign-file", "keys", "enrolment",
    }  # fmt: skip
    assert not [f for f in found if f["check"] == "others"]
    shown = built.ctl("doctor")
    assert shown.returncode == 0 and max(map(len, shown.stdout.splitlines())) <= 80
    replace(built.registry("beta"), "[sauce]\n")
    shown = built.ctl("doctor")
    assert shown.returncode == 1
    assert "\n    → see kmodd.modules.d(5)" in shown.stdout and "\n1 fail, " in shown.stdout


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_is_told_with_its_fix(built: World, what: str) -> None:
    spoil, check, level, text, fix = BREAKS[what]
    spoil(built)
    status, found = examine(built)
    told = [f for f in found if f["check"] == check and f["level"] == level]
    assert [f for f in told if text in f["text"] and fix in f["fix"]], found
    assert status == (1 if any(f["level"] == "fail" for f in found) else 0)
    assert level != "fail" or status == 1


def test_labels_that_are_right_are_told(built: World) -> None:
    selinux(built)
    for path in built.root.glob("lib/modules/*/extra/**/*.ko*"):
        os.setxattr(path, "security.selinux", LINK.encode() + b"\0")
    _, found = examine(built)
    (told,) = [f for f in found if f["check"] == "selinux"]
    assert (told["level"], told["text"]) == ("ok", "installed objects have their labels")


@pytest.mark.parametrize(
    ("enabled", "active", "level", "text"),
    [
        ("enabled", "active", "ok", "enabled and active"),
        ("disabled", "inactive", "fail", "is disabled, so that it does not start at boot"),
        ("enabled", "failed", "fail", "is failed"),
        ("", "inactive", "fail", "is not found"),
    ],
)
def test_unit_is_asked_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str, active: str, level: str, text: str
) -> None:
    """systemd does not run where the tests do: a systemctl stands in for the real one and answers as it does."""
    script = tmp_path / "bin/systemctl"
    replace(script, f'#!/bin/sh\n[ "$2" = kmodd.service ] || exit 9\ncase $1 in is-enabled) echo {enabled};; '
                    f"is-active) echo {active};; esac\n")  # fmt: skip
    script.chmod(0o755)
    monkeypatch.setenv("KMODD_PROGRAM_PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(daemonunit, "is_booted", lambda sysroot: True)
    sysroot = Sysroot(tmp_path)
    host = Host(sysroot, Settings(), make_observer(sysroot, SettingsSource()), Snapshot())

    async def ask() -> list[Finding]:
        return [finding async for finding in machine.units(host)]

    (found,) = asyncio.run(ask())
    assert found.level == level and text in found.text
    assert bool(found.fix) == (level == "fail")


def test_ordinary_user_is_told_what_only_root_can_check(built: World) -> None:
    for path in (built.root, *list(built.root.parents)[:2]):
        path.chmod(0o755)
    code = (  # what is imported already needs no right to read this python's own files
        "import os, sys, _strptime, concurrent.futures.thread, kmodd.ctl.doctor, kmodd.ctl as ctl\n"
        "os.setgid(65534); os.setuid(65534); ctl.main(sys.argv[1:])"
    )
    argv = [sys.executable, "-c", code, "doctor", "--json", "--root", str(built.root)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)["checks"]
    assert [f["text"] for f in found if f["check"] == "sandbox"] == ["not checked, since only root can"]
