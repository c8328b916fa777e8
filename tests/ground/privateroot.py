"""A bare root directory in the shape of an RPM server, and real rpm working on it. The host's own is never touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

DATABASE = "/var/lib/rpm"
DIRECTORIES = ("usr/lib/modules", "usr/lib/kmodd/modules.d", "usr/src/kernels", "etc/kmodd/modules.d", "run", "tmp",
               "var/log", "var/cache", "var/lib/rpm", "boot", "dev", "proc")  # fmt: skip


def rpm(root: Path, *words: str | Path, check: bool = True) -> str:
    """Run rpm on a private root; returns what it printed."""
    argv = ["rpm", "--root", str(root), "--dbpath", DATABASE, *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
    return done.stdout


def make_root(root: Path) -> Path:
    """Lay out an empty private root with a merged /usr and an rpm database."""
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("lib", "bin", "sbin"):
        (root / "usr" / name).mkdir(exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    rpm(root, "--initdb")
    return root


def install(root: Path, *files: str | Path) -> None:
    """Install packages with real rpm in one transaction."""
    rpm(root, "-i", "--nosignature", "--nodeps", *files)


def erase(root: Path, *names: str) -> None:
    """Remove packages with real rpm in one transaction."""
    rpm(root, "-e", "--nodeps", *names)
