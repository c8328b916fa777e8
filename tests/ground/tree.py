"""Lays a Debian kernel out as RHEL 9 does, in a staging directory that rpmbuild packs.

/lib/modules/R holds the kernel beside its modules; /usr/src/kernels/R is one flat build tree that needs nothing else.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from .command import GroundError
from .modules import SLIM, configured, depmod, disable, keep_only, recompress

SHIPPED = ("modules.order", "modules.builtin", "modules.builtin.modinfo")
CONFIGURED = (".config", "include/config/auto.conf", "include/generated/autoconf.h")
# What depmod writes. A newer kmod than the one at build time writes more of them, so all are listed.
DEPMOD_OUTPUT = tuple(
    f"modules.{name}"
    for name in (
        "alias", "alias.bin", "builtin.alias.bin", "builtin.bin", "dep", "dep.bin", "devname", "softdep", "symbols",
        "symbols.bin", "weakdep",
    )
)  # fmt: skip


def _the_one(directory: Path, pattern: str) -> Path:
    found = [path for path in directory.glob(pattern) if path.is_dir()]
    if len(found) != 1:
        raise GroundError(f"{directory} has {len(found)} of {pattern}, not one")
    return found[0]


def stage_devel(unpacked: Path, release: str, stage: Path, slim: bool) -> Path:
    """Flatten Debian's three header packages into STAGE/usr/src/kernels/RELEASE and return that directory."""
    flavour = unpacked / "usr/src" / f"linux-headers-{release}"
    common = _the_one(unpacked / "usr/src", "linux-headers-*-common*")
    kbuild = _the_one(unpacked / "usr/lib", "linux-kbuild-*")
    tree = stage / "usr/src/kernels" / release
    (tree / "arch").mkdir(parents=True)
    for part in ("include", "arch/x86"):
        (common / part).rename(tree / part)
        shutil.copytree(flavour / part, tree / part, symlinks=True, dirs_exist_ok=True)
    for part in ("scripts", "tools"):
        (kbuild / part).rename(tree / part)
    # The flavour's own Makefile only includes the common one by its absolute path.
    shutil.copy2(common / "Makefile", tree / "Makefile")
    for name in (".config", ".kernelvariables", "Module.symvers"):
        shutil.copy2(flavour / name, tree / name)
    # Debian's vmlinux (the kernel's BTF, for pahole) stays behind: RHEL's kernel-devel has none either, and where
    # it lies every module build needs pahole.
    if slim:
        _slim_devel(tree)
    check_self_contained(tree)
    return tree


def _slim_devel(tree: Path) -> None:
    """Drop thousands of small files that no x86 module reads.

    They are fixdep's empty marker files, and the device tree constants that no other header includes.
    """
    for path in (tree / "include/config").iterdir():
        if path.name not in ("auto.conf", "auto.conf.cmd", "kernel.release"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    include = tree / "include"
    constants = {path for path in (include / "dt-bindings").rglob("*.h") if not path.is_symlink()}
    reading = [path for path in tree.rglob("*.h") if path not in constants]
    kept: set[Path] = set()
    while reading:
        text = reading.pop().read_text(errors="replace")
        named = {include / name for name in re.findall(r"#\s*include\s*[<\"](dt-bindings/[^>\"]+)", text)}
        found = {path.resolve() for path in named if path.exists()} - kept
        kept |= found | {path for path in named if path.is_symlink()}
        reading += sorted(found)
    for path in (include / "dt-bindings").rglob("*.h"):
        if path not in kept:
            path.unlink()


def check_self_contained(tree: Path) -> None:
    """Raise GroundError when the tree has a link that leaves it, or a Makefile that names Debian's directories."""
    for path in tree.rglob("*"):
        if path.is_symlink() and tree not in path.resolve().parents:
            raise GroundError(f"{path} is a link out of the build tree")
    debian = re.compile(r"^\s*-?include\s+/", re.MULTILINE)
    for path in (tree / "Makefile", *tree.glob(".kernelvariables"), *tree.glob("scripts/Makefile*")):
        if debian.search(path.read_text(errors="replace")):
            raise GroundError(f"{path} includes a file by its absolute path")
    if not (tree / "scripts/sign-file").exists():
        raise GroundError(f"{tree} has no scripts/sign-file")


def stage_modules(unpacked: Path, release: str, stage: Path) -> Path:
    """Put the kernel and its modules into STAGE/lib/modules/RELEASE and return that directory."""
    directory = stage / "lib/modules" / release
    directory.mkdir(parents=True)
    old = unpacked / "lib/modules" / release
    if not old.is_dir():
        old = unpacked / "usr/lib/modules" / release  # Debian 13 on
    (old / "kernel").rename(directory / "kernel")
    for name in SHIPPED:
        (old / name).rename(directory / name)
    for name in ("vmlinuz", "System.map", "config"):
        (unpacked / "boot" / f"{name}-{release}").rename(directory / name)
    (directory / "build").symlink_to(f"/usr/src/kernels/{release}")
    (directory / "source").symlink_to("build")
    for name in ("updates", "weak-updates"):
        (directory / name).mkdir()
    return directory


def stage(
    unpacked: Path, release: str, destination: Path, slim: bool, compression: str, disabled: Sequence[str] = ()
) -> None:
    """Lay out one kernel below destination.

    compression: "keep" or one of modules.COMPRESSIONS. disabled: symbols of modules.DISABLEABLE.
    """
    tree = stage_devel(unpacked, release, destination, slim)
    directory = stage_modules(unpacked, release, destination)
    for symbol in disabled:
        disable(tree, directory, symbol)
    symvers = (tree / "Module.symvers").read_bytes()
    (directory / "symvers.gz").write_bytes(gzip.compress(symvers, mtime=0))
    if slim:
        depmod(destination, release)
        keep_only(directory, SLIM)
    if compression != "keep":
        recompress(directory / "kernel", compression)
        for path in (directory / "config", *(tree / name for name in CONFIGURED)):
            path.write_text(configured(path.read_text(), compression))
    depmod(destination, release)
