"""A small kernel, built from Debian's source, that trusts our keys: its built-in keyring has their certificates.

Sources: Documentation/admin-guide/module-signing.rst (CONFIG_SYSTEM_TRUSTED_KEYS), Documentation/kbuild. Its
configuration is trusted.config. It and the private keys (mode 0600) lie in the cache together, so that they always
belong to each other.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from kmodd.core.sysroot import Sysroot
from kmodd.sign import Keyring
from kmodd.sign.making import KeyMaker

from . import debian, modules, rpmfile, tree
from .cache import find_cache, hand_out, provide
from .command import GroundError, run

RECIPE = 1  # raise it with every change of what is made
SOURCE = "linux-source-6.1"
ALGORITHMS = ("rsa", "ecdsa")
#: Large parts of the source that this kernel has no use for; their Kconfig files are read all the same.
UNUSED = ("*/Documentation/*/*", "*/drivers/gpu/*.[ch]", "*/drivers/net/*/*.[ch]", "*/sound/*.[ch]", "*/tools/perf/*")
CONFIGURATION = Path(__file__).with_suffix(".config")
VARIANTS = ("none", "xz")  # as the kernel's own modules are compressed
#: What of a built source a kernel-devel package has (RHEL's kernel.spec), as far as x86-64 modules need it.
DEVEL = ("Makefile", ".config", "Module.symvers", "include", "scripts", "arch/x86/include", "tools/objtool/objtool")
NOT_DEVEL = shutil.ignore_patterns("*.o", ".*.cmd", "dtc", "kconfig")


@dataclass(frozen=True)
class Trusted:
    """What the cache has: the kernel's release, its RPMs, and below keys the pairs that it trusts."""

    directory: Path

    @property
    def release(self) -> str:
        return (self.directory / "release").read_text()

    def pair(self, algorithm: str) -> tuple[Path, Path]:
        """Return the private key (PEM) and the certificate (DER) of one of ALGORITHMS."""
        keys = Sysroot(self.directory / "keys" / algorithm).keys
        return keys / "signing.key", keys / "signing.x509"

    def packages(self, output: Path, compression: str = "none") -> list[Path]:
        """Put the RPMs into the output directory, compression being one of VARIANTS, and return their paths."""
        output.mkdir(parents=True, exist_ok=True)
        results = []
        for path in sorted((self.directory / compression).glob("*.rpm")):
            hand_out(path, output / path.name)
            results.append(output / path.name)
        return results


def make(cache: str = "") -> Trusted:
    """Return the kernel, building it (minutes) where the cache has none of this source and recipe."""
    where = find_cache(cache)
    deb = debian.fetch(SOURCE, where)

    def fill(work: Path) -> None:
        source = work / "source"
        _unpack(deb, work, source)
        _make_keys(work / "keys", source / "certs/trusted.pem")
        release = build(source)
        (work / "release").write_text(release)
        for compression in VARIANTS:
            staged, output = work / "staged", work / compression
            output.mkdir()
            stage(source, release, staged, compression)
            rpmfile.build_rpms(staged, release, output)
            shutil.rmtree(staged)
            for path in output.glob("*.rpm"):
                path.chmod(0o444)  # they are handed out as hard links
        shutil.rmtree(source)

    return Trusted(provide(where, "trusted", f"{deb.stem}_r{RECIPE}", fill))


def _unpack(deb: Path, work: Path, source: Path) -> None:
    debian.unpack([deb], work / "unpacked")
    source.mkdir()
    (packed,) = (work / "unpacked/usr/src").glob("*.tar.xz")
    excluded = [f"--exclude={pattern}" for pattern in UNUSED]
    run(["tar", "-xf", packed, "-C", source, "--strip-components=1", *excluded])
    shutil.rmtree(work / "unpacked")


def _make_keys(directory: Path, certificates: Path) -> None:
    """Make a pair of each algorithm as kmodd makes its own, and write all certificates into one PEM file."""
    text = ""
    for algorithm in ALGORITHMS:
        sysroot = Sysroot(directory / algorithm)
        sysroot.keys.mkdir(parents=True, mode=0o700)
        asyncio.run(KeyMaker(Keyring(sysroot)).generate(algorithm))
        text += run(["openssl", "x509", "-inform", "DER", "-in", sysroot.keys / "signing.x509"])
    certificates.write_text(text)


def build(source: Path) -> str:
    """Configure and build the kernel and its modules, at low priority; returns its release."""
    _make(source, "allnoconfig", f"KCONFIG_ALLCONFIG={CONFIGURATION}")
    got = set((source / ".config").read_text().splitlines())
    wanted = [line for line in CONFIGURATION.read_text().splitlines() if line.startswith("CONFIG_")]
    missing = [line for line in wanted if line not in got]
    if missing:
        raise GroundError(f"the kernel's configuration does not take {' '.join(missing)}")
    _make(source, f"-j{len(os.sched_getaffinity(0))}", "bzImage", "modules")
    return _make(source, "kernelrelease").strip()


def _make(source: Path, *words: Union[str, Path]) -> str:
    return run(["nice", "-n", "5", "make", "-s", "-C", source, *words])


def stage(source: Path, release: str, destination: Path, compression: str) -> None:
    """Lay the built kernel out below destination, as tree.stage does it with Debian's."""
    directory = destination / "lib/modules" / release
    _make(source, "modules_install", f"INSTALL_MOD_PATH={destination}", "DEPMOD=true")
    for name in ("build", "source"):
        (directory / name).unlink(missing_ok=True)
    (directory / "build").symlink_to(f"/usr/src/kernels/{release}")
    (directory / "source").symlink_to("build")
    for name in ("updates", "weak-updates"):
        (directory / name).mkdir()
    for name, path in (("vmlinuz", "arch/x86/boot/bzImage"), ("System.map", "System.map"), ("config", ".config")):
        shutil.copy2(source / path, directory / name)
    (directory / "symvers.gz").write_bytes(gzip.compress((source / "Module.symvers").read_bytes(), mtime=0))
    devel = destination / "usr/src/kernels" / release
    for name in (*DEVEL, *(str(path.relative_to(source)) for path in source.glob("arch/x86/Makefile*"))):
        (devel / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, devel / name, symlinks=True, ignore=NOT_DEVEL)
        else:
            shutil.copy2(source / name, devel / name)
    tree.check_self_contained(devel)
    modules.recompress(directory / "kernel", compression)
    for path in (directory / "config", *(devel / name for name in tree.CONFIGURED)):
        path.write_text(modules.configured(path.read_text(), compression))
    modules.depmod(destination, release)
