"""A bare directory with the shape of a RHEL root and an rpm database of its own, where real rpm installs kernels.

A kernel is thousands of small files: on a tmpfs it installs in a quarter of the time (find_scratch).
Nothing here touches the host's database: every call names both the root and the database inside it (Debian's rpm keeps
its default database in the caller's home, where --root alone would put it inside the root under that name).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Union

from .command import GroundError, run

DBPATH = "/var/lib/rpm"
DIRECTORIES = (
    "usr/lib/modules", "usr/src/kernels", "usr/bin", "usr/sbin", "etc", "run", "tmp", "boot",
    "var/lib/rpm", "var/log", "var/cache", "var/tmp",
)  # fmt: skip
LINKS = {"lib": "usr/lib", "bin": "usr/bin", "sbin": "usr/sbin", "lib64": "usr/lib64", "var/run": "../run"}


def find_scratch(megabytes: int = 2048) -> Path:
    """Return a directory for private roots that will be quick: on a tmpfs with so much room, else the usual one."""
    shared = Path("/dev/shm")
    if os.access(shared, os.W_OK) and os.path.ismount(shared):
        space = shutil.disk_usage(shared)
        if space.free >= megabytes << 20:
            return shared
    return Path(tempfile.gettempdir())


def _options(root: Path) -> list[str]:
    if root.resolve() == Path("/"):
        raise GroundError("a private root cannot be /")
    # rpm's plugins act on the host (audit, the journal, SELinux labels, inhibiting shutdown).
    return ["--root", str(root.resolve()), "--dbpath", DBPATH, "--noplugins"]


def make_root(path: Path) -> Path:
    """Lay out a private root at path, with an empty rpm database, and return its absolute path."""
    for name in DIRECTORIES:
        (path / name).mkdir(parents=True, exist_ok=True)
    (path / "usr/lib64").mkdir(exist_ok=True)
    for name, target in LINKS.items():
        if not (path / name).is_symlink():
            (path / name).symlink_to(target)
    (path / "tmp").chmod(0o1777)
    (path / "var/tmp").chmod(0o1777)
    run(["rpmdb", "--root", path.resolve(), "--dbpath", DBPATH, "--initdb"])
    return path.resolve()


def rpm(root: Path, *arguments: Union[str, Path]) -> str:
    """Run rpm on the private root and return what it printed; raise GroundError when it fails.

    rpm(root, "-i", *files), rpm(root, "-e", "kernel-core-6.1.0-56"), rpm(root, "-qa"). An older kernel goes in beside
    a newer one, as dnf allows for packages that are only ever installed.
    """
    words = [str(argument) for argument in arguments]
    if words[0] == "-i":
        words.insert(1, "--oldpackage")
    return run(["rpm", *_options(root), "--nosignature", *words])


def find_packages(root: Path, provide: str) -> list[str]:
    """Return the packages (name-version-release.arch) that provide e.g. "kernel-devel-uname-r = 6.1.0-56-amd64".

    rpm -q --whatprovides knows names only and says "no package" when it is given a version.
    """
    form = "[%{=NAME}-%{=VERSION}-%{=RELEASE}.%{=ARCH}\\t%{PROVIDENAME} = %{PROVIDEVERSION}\\n]"
    lines = [line.split("\t") for line in rpm(root, "-qa", "--qf", form).splitlines()]
    return sorted({package for package, given in lines if provide in (given, given.split(" = ")[0])})


def erase(root: Path, release: str) -> list[str]:
    """Erase all packages of one kernel release in one transaction, and return their names."""
    kinds = ("kernel-core", "kernel-modules-core", "kernel-devel")
    names = [name for kind in kinds for name in find_packages(root, f"{kind}-uname-r = {release}")]
    if names:
        rpm(root, "-e", *names)
    return names
