"""Checks of what builds and installations need of a machine, whatever modules and kernels there are."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from ...core.errors import Problem
from ...kbuild import sandbox
from ...system.run import PACKAGES, find_program, run
from ..daemonunit import UNIT, ask_unit
from . import Finding, Host

PROGRAMS = ("bwrap", "setpriv", "make", "strip", "patch", "openssl", "modprobe", "modinfo", "depmod")
COMPRESSORS = {"xz": "xz", "zst": "zstd", "gz": "gzip"}
MEBIBYTE = 1 << 20
#: In-root directory -> MiB below which it warns, and fails.
SPACE = {"/lib/modules": (200, 50), "/var/lib": (200, 50), "/var/cache": (1000, 100), "/boot": (150, 30)}
LABEL = b":modules_object_t:"


async def programs(host: Host) -> AsyncIterator[Finding]:
    """Every program that kmodd starts is installed."""
    needed = [*PROGRAMS, *sorted({COMPRESSORS[k.compression] for k in host.snapshot.kernels.values() if k.compression})]
    missing = [name for name in needed if find_program(name) is None]
    for name in missing:
        yield Finding("programs", "fail", f"{name} is not installed", f"dnf install {PACKAGES.get(name, name)}")
    if not missing:
        yield Finding("programs", "ok", f"{', '.join(needed)} are installed")


async def sandboxing(host: Host) -> AsyncIterator[Finding]:
    """A program runs in the sandbox as the build user."""
    if os.geteuid() != 0:
        yield Finding("sandbox", "warning", "not checked, since only root can", "sudo kmoddctl doctor")
        return
    owner = sandbox.build_owner(host.settings.build.user)
    with tempfile.TemporaryDirectory(prefix="kmodd-doctor.") as name:
        for path in (Path(name), Path(name, "tmp")):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)  # bwrap comes here without root's right to pass anywhere
            os.chown(path, *owner)
        try:
            with sandbox.open_filter() as filters:
                env = {"PATH": "/usr/bin:/bin"}
                argv = sandbox.command(host.sysroot, Path(name), ["id", "-u"], env=env, owner=owner, filters=filters)
                done = await run(argv, timeout=30, pass_fds=filters)
        except Problem as problem:
            fix = problem.hint or "run bwrap --unshare-all --ro-bind / / true by hand to see more"
            yield Finding("sandbox", "fail", f"builds cannot run: {problem.message}", fix)
            return
    if done.text.strip() != str(owner[0]):
        yield Finding("sandbox", "fail", f"a build would run as uid {done.text.strip()}, not as {owner[0]}")
    elif not sandbox.can_filter():
        what = f"builds run in bwrap as uid {owner[0]}, but no system call is denied to them"
        yield Finding("sandbox", "warning", what, "a kernel with CONFIG_SECCOMP_FILTER, on a machine that kmodd knows")
    else:
        yield Finding("sandbox", "ok", f"builds run in bwrap as uid {owner[0]}")


async def build_user(host: Host) -> AsyncIterator[Finding]:
    """The user that builds run as exists, and is not root."""
    name = host.settings.build.user
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        text = f"user {name} (build.user) does not exist, so that builds run as nobody"
        yield Finding("build-user", "warning", text, "systemd-sysusers")
        return
    if found.pw_uid == 0:
        text = f"build.user names {name}, which is root: builds run as nobody instead"
        yield Finding("build-user", "fail", text, "set build.user in kmodd.toml to a user of its own")
    else:
        yield Finding("build-user", "ok", f"builds run as {name}")


async def space(host: Host) -> AsyncIterator[Finding]:
    """There is space where modules, state, scratch and initramfs go, and it is writable."""
    seen: dict[int, str] = {}
    for inside, (little, least) in SPACE.items():
        path = host.sysroot.resolve(inside)
        if not path.is_dir():
            continue
        found, device = os.statvfs(path), path.stat().st_dev
        free = found.f_bavail * found.f_frsize // MEBIBYTE
        if found.f_flag & os.ST_RDONLY:
            yield Finding("space", "fail", f"{inside} is read-only", f"mount -o remount,rw {_mount(path)}")
        elif free < least or (found.f_files and not found.f_favail):
            what = f"only {free} MiB are" if free < least else "no inodes are"
            yield Finding("space", "fail", f"{what} free in {inside}", _culprits(path))
        elif free < little:
            yield Finding("space", "warning", f"only {free} MiB are free in {inside}", _culprits(path))
        elif device not in seen:
            seen[device] = inside
            yield Finding("space", "ok", f"{free} MiB are free in {inside}")


def _mount(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if os.path.ismount(parent))


def _culprits(path: Path) -> str:
    return f"du -xh --max-depth=2 {_mount(path)} | sort -h | tail"


async def selinux(host: Host) -> AsyncIterator[Finding]:
    """Installed objects have the label without which a confined modprobe may not read them."""
    sysroot = host.sysroot
    if sysroot.is_host:
        enabled = Path("/sys/fs/selinux/enforce").exists()
    else:  # what boots from it will want the labels
        try:
            text = sysroot.resolve("/etc/selinux/config").read_text(errors="replace")
        except OSError:
            text = ""
        enabled = any(line.strip() in ("SELINUX=enforcing", "SELINUX=permissive") for line in text.splitlines())
    if not enabled:
        yield Finding("selinux", "ok", "SELinux is off")
        return
    wrong: dict[str, list[str]] = {}
    for target, record in sorted(host.snapshot.records.items()):
        for item in record.installed.objects if record.installed else ():
            try:
                label = os.getxattr(sysroot.resolve(item.path), "security.selinux")
            except OSError:
                label = b"none"
            if LABEL not in label:
                wrong.setdefault(target.kernel, []).append(f"{item.path} ({label.rstrip(bytes(1)).decode()})")
    for release, paths in wrong.items():
        text = f"{len(paths)} installed objects lack the label modules_object_t, the first is {paths[0]}"
        directory = sysroot.kernel(release) / "extra"
        fix = f"restorecon -RF {directory}" if sysroot.is_host else f"chroot {sysroot.root} restorecon -RF /lib/modules"
        yield Finding("selinux", "fail", text, fix)
    if not wrong:
        yield Finding("selinux", "ok", "installed objects have their labels")


async def rpm(host: Host) -> AsyncIterator[Finding]:
    """The rpm database can be read."""
    fault = host.observer.kernels.rpm_fault
    if fault is not None:
        yield Finding("rpm", "fail", fault.message, fault.hint)
    else:
        yield Finding("rpm", "ok", "the rpm database can be read")


async def units(host: Host) -> AsyncIterator[Finding]:
    """systemd starts kmodd, and has done so."""
    try:
        unit = await ask_unit(host.sysroot)
    except Problem as problem:
        yield Finding("units", "fail", problem.message, problem.hint)
        return
    if unit is None:
        yield Finding("units", "ok", "systemd does not run here")
    elif not unit.is_enabled:
        text = f"{UNIT} is {unit.enabled or 'not found'}, so that it does not start at boot"
        yield Finding("units", "fail", text, "systemctl enable --now kmodd")
    elif unit.is_dead:
        yield Finding("units", "fail", unit.text, unit.hint)
    else:
        yield Finding("units", "ok", f"{UNIT} is {unit.enabled} and {unit.active}")


CHECKS = (programs, sandboxing, build_user, space, selinux, rpm, units)
