"""A whole system for tests: a Debian root by debootstrap with rpm, dnf, a compiler and systemd, made once and cached.

What RPM distributions call their packages, Debian calls otherwise: a package of nothing but provides (standing) stands
for what debootstrap put there, so that rpm and dnf resolve kmodd's dependencies as they do elsewhere.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from .cache import find_cache, provide
from .command import run

EDITION = 3  # of the recipe below
SUITE = "bookworm"
PACKAGES = (
    "systemd,systemd-sysv,dbus,udev,kmod,python3,python3-rpm,rpm,dnf,bubblewrap,make,gcc-12,gcc,binutils,openssl,"
    "xz-utils,zstd,patch,libelf1,procps,util-linux,man-db,dracut,mokutil,less,iproute2"
)
#: Debian's rpm keeps its database in the caller's home unless it is told otherwise.
MACROS = "%_dbpath /var/lib/rpm\n"
STANDING = """\
Name: standing-for-dpkg
Version: 1
Release: 1
Summary: Stands for what dpkg installed
License: MIT
BuildArch: noarch
AutoReqProv: no
Provides: python(abi) = {python}
Provides: /bin/sh /usr/bin/python3 python3 python3-rpm kmod bubblewrap util-linux make gcc binutils patch openssl
Provides: xz zstd gzip systemd mokutil
%description
%{{summary}}.
%files
"""


def make_base(path: Path) -> None:
    """Fill a directory with the root. Takes minutes."""
    run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, path])
    (path / "etc/rpm").mkdir(parents=True, exist_ok=True)
    (path / "etc/rpm/macros").write_text(MACROS)
    (path / "etc/hostname").write_text("server\n")
    (path / "etc/machine-id").write_text("")
    for directory in ("usr/src/kernels", "usr/lib/modules", "var/lib/rpm"):
        (path / directory).mkdir(parents=True, exist_ok=True)
    for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
        subprocess.run(["find", path / name, "-type", "f", "-delete"], check=True)
    run(["rpmdb", "--root", path, "--dbpath", "/var/lib/rpm", "--initdb"])
    # No timer of the distribution's own shall run in the midst of a test.
    run(["chroot", path, "systemctl", "mask", "man-db.timer", "dpkg-db-backup.timer", "apt-daily.timer"])


def base() -> Path:
    """Return the cached root, which nobody may change."""
    return provide(find_cache(), "systems", f"{SUITE}_r{EDITION}", make_base)


def make_standing(out: Path) -> Path:
    """Build the package of provides; returns its path."""
    python = run(["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    with tempfile.TemporaryDirectory() as work:
        spec = Path(work) / "standing.spec"
        text = STANDING.format(python=python)
        spec.write_text("".join(_one_a_line(line) for line in text.splitlines(keepends=True)))
        run(["rpmbuild", "-bb", "--quiet", "--nodeps", "--define", f"_topdir {work}", spec])
        (made,) = Path(work).rglob("*.rpm")
        out.mkdir(parents=True, exist_ok=True)
        final = out / made.name
        final.write_bytes(made.read_bytes())
    return final


def _one_a_line(line: str) -> str:
    key, _, words = line.partition(": ")
    if key != "Provides" or "=" in words:
        return line
    return "".join(f"Provides: {word}\n" for word in words.split())
