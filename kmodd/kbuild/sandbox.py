"""The command line that runs a program unprivileged, offline and with nothing writable but a scratch directory.

Bubblewrap (bwrap(1)) makes the mounts; setpriv(1) then gives up root before the program starts, so that no user
namespace is needed, which hardened servers switch off (user.max_user_namespaces=0). Of /etc only what the dynamic
linker needs is there: keys and configuration are invisible. System calls that no build needs, and through which
unprivileged code reaches more of the kernel, are denied. Why: docs/decisions/0007-sandbox.md.
Must not: start anything itself.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

from ..core.sysroot import SECCOMP, Sysroot
from .filters import FILTERS

BUILD_USER = "kmodd-build"
FIRST_SPARE = 1_879_048_192 + 0x6B6D  # see free_owner
WORK = "/build"  # where the scratch directory is seen inside
#: What tells the distribution, which is no secret: of the root, whose kernels are built for.
RELEASES = (
    "os-release", "system-release", "redhat-release", "centos-release", "fedora-release", "debian_version",
)  # fmt: skip
ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime")


def build_owner(user: str = BUILD_USER) -> tuple[int, int]:
    """Return the uid and gid that builds run as: kmodd-build, else nobody's; our own where we are not root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    for name in (user, "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534


def free_owner(user: str, in_use: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the uid and gid of a further build beside those that run.

    The first is the build user; others get a uid that nobody has, so that no build can signal another's processes or
    use up its share of them (RLIMIT_NPROC counts by uid). The range is unused by systemd's UIDS-GIDS document.
    """
    owner = build_owner(user)
    used = set(in_use)
    if os.geteuid() != 0 or owner not in used:
        return owner
    return next((uid, owner[1]) for uid in range(FIRST_SPARE, FIRST_SPARE + 4096) if (uid, owner[1]) not in used)


def can_filter() -> bool:
    """Tell whether this kernel filters system calls, and there is a filter for this machine."""
    return os.uname().machine in FILTERS and SECCOMP.exists()


@contextlib.contextmanager
def open_filter() -> Iterator[tuple[int, ...]]:
    """Give a descriptor of the filter of system calls, which bwrap reads once; none where there can be no filter."""
    if not can_filter():
        yield ()
        return
    descriptor = os.memfd_create("kmodd-filter", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, base64.b64decode(FILTERS[os.uname().machine]))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield (descriptor,)
    finally:
        os.close(descriptor)


def _cover(directory: str, mounts: Mapping[str, Path]) -> list[str]:
    """Bind a host directory read-only, some of its sub-directories replaced by others.

    A mount point cannot be made on a read-only bind, so where the host lacks one, its siblings are bound singly.
    """
    below = {path: source for path, source in mounts.items() if path.startswith(f"{directory}/")}
    if not below:
        return ["--ro-bind", directory, directory]
    if all(os.path.isdir(path) for path in below):
        words = ["--ro-bind", directory, directory]
        for path, source in below.items():
            words += ["--ro-bind", str(source), path]
        return words
    words = ["--dir", directory]
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        names = []
    for name in names:
        path = f"{directory}/{name}"
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif path in below:
            continue
        elif any(inner.startswith(f"{path}/") for inner in below):
            words += _cover(path, below)
        else:
            words += ["--ro-bind", path, path]
    for path, source in below.items():
        if os.path.dirname(path) == directory:
            words += ["--ro-bind", str(source), path]
    return words


def _system(sysroot: Sysroot) -> list[str]:
    """Return the options that show what programs need of the host, and the kernel's headers of the root."""
    mounts: dict[str, Path] = {}
    if not sysroot.is_host:
        for inside, host in (("/usr/src", sysroot.resolve("/usr/src")), ("/usr/lib/modules", sysroot.modules)):
            if host.is_dir():
                mounts[inside] = host
    words = _cover("/usr", mounts)
    for name in ("bin", "sbin", "lib", "lib64"):
        path = f"/{name}"
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    if os.path.isdir("/opt/rh"):
        words += ["--ro-bind", "/opt/rh", "/opt/rh"]
    words += ["--dir", "/etc"]  # parents that bwrap makes by itself are closed to others
    for name in ETC:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in RELEASES:
        words += ["--ro-bind-try", str(sysroot.resolve(f"/etc/{name}")), f"/etc/{name}"]
    return [*words, "--proc", "/proc", "--dev", "/dev"]


def command(
    sysroot: Sysroot,
    scratch: Optional[Path],
    program: Sequence[str],
    *,
    directory: str = WORK,
    read_only: Iterable[tuple[Path, str]] = (),
    writable: Iterable[tuple[Path, str]] = (),
    env: Mapping[str, str],
    owner: tuple[int, int],
    filters: Iterable[int],
) -> list[str]:
    """Return the argv that runs program in the sandbox.

    scratch: host directory seen as /build, writable; None: nothing is. read_only, writable: further (host path, path
    inside). env: its whole environment. owner: uid and gid it runs as. filters: what open_filter() gave, for this run
    alone, which passes it on.
    """
    words = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    words += ["--new-session", "--hostname", "kmodd", "--clearenv"]
    for descriptor in filters:
        words += ["--seccomp", str(descriptor)]
    if os.geteuid() == 0:
        words += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            words += ["--cap-add", capability]
    words += _system(sysroot)
    if scratch is not None:
        words += ["--bind", str(scratch / "tmp"), "/tmp", "--bind", str(scratch), WORK]
    more = [("--ro-bind", *place) for place in read_only] + [("--bind", *place) for place in writable]
    for option, host, inside in more:
        for parent in reversed(Path(inside).parents):
            words += ["--dir", str(parent)]
        words += [option, str(host), inside]
    if scratch is None:
        words += ["--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in env.items():
        words += ["--setenv", name, value]
    words += ["--chdir", directory, "--"]
    if os.geteuid() == 0:
        uid, gid = owner
        words += ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all"]
        words += ["--bounding-set=-all", "--no-new-privs"]
    return [*words, *program]
