"""A dnf repository of some packages, and a private root whose dnf knows it and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from .cache import hand_out
from .command import run

PLUGINS = Path("/etc/dnf/plugins")  # of the host, whose plugins dnf runs, whatever the root


def make_repository(directory: Path, packages: Iterable[Path]) -> Path:
    """Make a repository of some packages (files) in a directory, and return that."""
    directory.mkdir(parents=True)
    for package in packages:
        hand_out(package, directory / package.name)
    run(["createrepo_c", "--quiet", directory])
    return directory


def configure(root: Path, binaries: Path, sources: Path) -> None:
    """Let dnf in a private root know two repositories, of packages and of source packages."""
    repositories, plugins = root / "etc/yum.repos.d", root / "etc/dnf/plugins"
    repositories.mkdir(parents=True)
    (repositories / "local.repo").write_text(
        f"[local]\nname=local\nbaseurl=file://{binaries}\ngpgcheck=0\n"
        f"[local-source]\nname=sources\nbaseurl=file://{sources}\ngpgcheck=0\nenabled=0\n"
    )
    shutil.copytree(PLUGINS, plugins)
    (plugins / "local.conf").write_text("[main]\nenabled=0\n")  # Debian's keeps a repository of its own
    (root / "etc/dnf/dnf.conf").write_text(f"[main]\npluginconfpath={plugins}\n")
    # Debian's rpm keeps its default database in the caller's home, which is / for a daemon.
    (root / ".rpmdb").symlink_to("var/lib/rpm")
