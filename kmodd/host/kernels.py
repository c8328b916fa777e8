"""Which kernels are under /lib/modules, and what of each matters to modules.

Layout and names: kernel.spec of RHEL 9 and Fedora; build trees as Documentation/kbuild/modules.rst describes.
Must not: read modules of ours, or ask rpm.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import BrokenFile, Fault, Kernel
from ..core.modulefile import canonical
from ..core.record import Depmod
from ..core.remedy import Remedy
from ..core.sysroot import Sysroot
from ..core.visible import visible
from ..system.files import LOCAL, find_accident, is_directory, is_file, is_link, look_up, stat_signature
from ..system.kmodroot import check_links
from ..system.moduleindex import IndexReader, read_configuration

#: Symbols that kmodd itself asks for.
SYMBOLS = frozenset(
    {
        "CONFIG_MODULE_SIG", "CONFIG_MODULE_SIG_HASH", "CONFIG_MODULE_SIG_FORCE", "CONFIG_MODVERSIONS",
        "CONFIG_MODULE_FORCE_LOAD",
        "CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS",
        "CONFIG_MODULE_COMPRESS_XZ", "CONFIG_MODULE_COMPRESS_ZSTD", "CONFIG_MODULE_COMPRESS_GZIP",
        "CONFIG_CC_VERSION_TEXT", "CONFIG_SECURITY_LOCKDOWN_LSM", "CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT",
        "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
        "CONFIG_SECURITY_LOCKDOWN_LSM_EARLY", "CONFIG_LSM",
        "CONFIG_CMDLINE", "CONFIG_CMDLINE_OVERRIDE", "CONFIG_CMDLINE_FORCE",
    }
)  # fmt: skip
SUFFIXES = {".xz": "xz", ".zst": "zst", ".gz": "gz"}
#: What a tree must hold to build modules against it.
NEEDED = ("Makefile", ".config", "Module.symvers", "include/generated/autoconf.h", "scripts/Makefile.modpost")
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
#: What a release can be: depmod(8) wants two numbers first, uname(2) takes 64 bytes, and the rest is one plain word.
RELEASE = re.compile(r"[0-9]+\.[0-9]+[A-Za-z0-9._+~^@=:,%-]*")
LONGEST_RELEASE = 64
_FLAVOUR = re.compile(r"\+([a-z0-9][a-z0-9.-]*)$|\.(rt|debug)(?:[.\d]|$)|-(rt|cloud)-")
_UTS_RELEASE = re.compile(r'UTS_RELEASE "([^"]+)"')
_MACHINE = re.compile(r"[.-](x86_64|aarch64|ppc64le|s390x|amd64|arm64)(?:[+.-]|$)")
#: Enough of a kernel package to call it installed; a directory without them is what a removal left.
LANDMARKS = ("modules.builtin", "modules.order")


def read_config(path: Path, symbols: Collection[str]) -> dict[str, str]:
    """Return the values of some symbols of a kernel's .config, without quotes."""
    found: dict[str, str] = {}
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            name, equals, value = line.partition("=")
            if equals and name in symbols:
                found[name] = value.strip().strip('"')
    return found


def is_release(name: str) -> bool:
    """Tell whether a directory of modules is named as a kernel release can be."""
    return len(name) <= LONGEST_RELEASE and RELEASE.fullmatch(name) is not None


def _refuse(error: OSError) -> None:
    raise error


def find_own(sysroot: Sysroot, directory: Path, objects: Collection[str]) -> dict[str, Path]:
    """Return which of some objects a kernel has itself and installed, and their files. Raises OSError.

    directory: the kernel's, with modules.order. objects: canonical names.
    """
    found: dict[str, Path] = {}
    for line in (directory / "modules.order").read_text(errors="replace").splitlines():
        name = canonical(line.rpartition("/")[2].partition(".")[0])
        if name in objects:
            stem = Path(line).with_suffix("")
            files = (sysroot.below(directory, f"{stem}.ko{suffix}") for suffix in ("", *SUFFIXES))
            path = next((path for path in files if look_up(path)), None)
            if path is not None:
                found[name] = path
    return found


@dataclass(frozen=True)
class _Asked:
    """The arguments of KernelReader.read, as one value."""

    symbols: Collection[str]
    objects: Collection[str]
    installed: Mapping[str, Mapping[str, str]]
    devel_packages: Mapping[str, str]
    source_packages: Mapping[str, str]
    depmods: Mapping[str, Depmod]
    configuration: tuple[str, float]  # depmod's


class KernelReader:
    """Reads /lib/modules; files that did not change are not read again."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self.indexes = IndexReader()
        self._cache: dict[tuple[str, str], tuple[object, object]] = {}
        self.skipped: tuple[BrokenFile, ...] = ()  # directories that the last read passed over

    def read(
        self,
        symbols: Collection[str],
        objects: Collection[str],
        installed: Mapping[str, Mapping[str, str]],
        devel_packages: Mapping[str, str],
        source_packages: Mapping[str, str] = {},
        depmods: Mapping[str, Depmod] = {},
    ) -> dict[str, Kernel]:
        """Return the kernels by release.

        symbols: configuration symbols that are asked for. objects: canonical names, to tell which the kernel has
        itself. installed: release -> our objects' paths relative to the kernel's directory, and their sha256.
        devel_packages: release -> NEVRA. source_packages: release -> file name of the source RPM. depmods: release ->
        the last depmod of kmodd's that ended well.
        A kernel that cannot be read is left out. Raises OSError where /lib/modules exists and cannot be listed,
        and for want of what every pass needs.
        """
        self.skipped = ()
        try:
            entries = sorted(os.scandir(self.sysroot.modules), key=lambda e: e.name)
        except FileNotFoundError:
            return {}
        configuration = read_configuration(self.sysroot)
        asked = _Asked(symbols, objects, installed, devel_packages, source_packages, depmods, configuration)
        kernels = {}
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False) or entry.name.startswith("."):
                continue
            release = entry.name
            if not is_release(release):
                text = f"{self._shown(release)} is passed over: it is not named as a kernel release is"
                self._skip(release, Fault("release-invalid", text, "rename or remove it"))
                continue
            try:
                kernels[release] = self._read_kernel(release, asked)
            except (Problem, OSError) as error:
                self._skip(release, self._fault(release, error))
        return kernels

    def _read_kernel(self, release: str, asked: _Asked) -> Kernel:
        """Read one kernel. Raises OSError, and Problem link-leads-out and symlink-loop."""
        directory = self.sysroot.kernel(release)
        check_links(self.sysroot, release)
        if not any(look_up(directory / name) for name in LANDMARKS):
            return Kernel(release, present=False)
        package = asked.devel_packages.get(release, "")
        tree, fault = self.find_build_tree(release, package)
        config = self._config(release, tree, frozenset(asked.symbols) | SYMBOLS)
        ours, last = asked.installed.get(release, {}), asked.depmods.get(release)
        stale, omitted = self.indexes.find_stale(directory, ours, asked.configuration, last)
        machine = _MACHINE.search(release)
        flavour = _FLAVOUR.search(release)
        return Kernel(
            release=release,
            running=self.sysroot.is_host and release == os.uname().release,
            flavour=next((g for g in flavour.groups() if g), "") if flavour else "",
            architecture=ARCHITECTURES.get(machine[1], machine[1]) if machine else platform.machine(),
            build_tree=tree,
            build_tree_fault=fault,
            devel_package=package,
            source_package=asked.source_packages.get(release, ""),
            config=config,
            compression=self._compression(directory, config),
            signature_hash=config.get("CONFIG_MODULE_SIG_HASH", "sha256") if "CONFIG_MODULE_SIG" in config else "",
            in_tree=frozenset(self._in_tree(directory, asked.objects)),
            depmod_stale=stale,
            omitted=omitted,
        )

    def _shown(self, name: str) -> str:
        return visible(f"{self.sysroot.inside(self.sysroot.modules)}/{name}")

    def _skip(self, name: str, fault: Fault) -> None:
        self.skipped += (BrokenFile(self._shown(name), visible(name), fault),)

    def _fault(self, release: str, error: Exception) -> Fault:
        """Return why a kernel is passed over. Raises OSError where more than that one would be affected."""
        where = self._shown(release)
        if isinstance(error, Problem):
            return Fault(error.code, f"{where} is passed over: {error.message}", error.hint)
        assert isinstance(error, OSError)
        text = f"{where} is passed over: {error.filename or 'it'} cannot be read: {error.strerror}"
        if not find_accident(error):
            return Fault("modules-unreadable", text, "look at what is there")
        if error.errno not in LOCAL:
            raise error
        return Fault("look-interrupted", text, "kmodd reads it again by itself")

    def find_build_tree(self, release: str, package: str) -> tuple[Optional[str], Optional[Fault]]:
        """Return the in-root path of a usable build tree, or why there is none. Raises OSError."""
        link = self.sysroot.kernel(release) / "build"
        inside = self.sysroot.inside(link) if is_link(link) or look_up(link) else f"/usr/src/kernels/{release}"
        tree = self.sysroot.resolve(inside)
        where = self.sysroot.inside(tree)
        command = Remedy("fetch-devel", release).shown(self.sysroot)
        if not is_directory(tree):
            if package:
                text = f"{package} is installed, but {where} does not exist"
                return None, Fault("build-tree-incomplete", text, f"rpm -V {package}; dnf reinstall {package}")
            return None, Fault("kernel-devel-missing", f"kernel-devel for {release} is not installed", command)
        missing = next((name for name in NEEDED if not look_up(self.sysroot.below(tree, name))), None)
        if missing:
            hint = f"rpm -V {package}; dnf reinstall {package}" if package else command
            return None, Fault("build-tree-incomplete", f"{where} has no {missing}", hint)
        try:  # it is what vermagic is made of; include/config/kernel.release differs in Debian's trees
            found = _UTS_RELEASE.search(self.sysroot.below(tree, "include/generated/utsrelease.h").read_text())
        except OSError as error:
            if find_accident(error):
                raise
            found = None
        theirs = found[1] if found else release
        if theirs != release:
            return None, Fault("build-tree-mismatch", f"{where} belongs to {theirs}, not to {release}", command)
        return where, None

    def _cached(self, kind: str, key: str, path: Path, symbols: object) -> Optional[object]:
        known = self._cache.get((kind, key))
        return known[1] if known and known[0] == (path, stat_signature(path), symbols) else None

    def _config(self, release: str, tree: Optional[str], symbols: frozenset[str]) -> dict[str, str]:
        candidates = [self.sysroot.below(self.sysroot.kernel(release), "config")]
        if tree:
            candidates.append(self.sysroot.resolve(f"{tree}/.config"))
        candidates.append(self.sysroot.resolve(f"/boot/config-{release}"))
        for path in candidates:
            if is_file(path):
                known = self._cached("config", release, path, symbols)
                if not isinstance(known, dict):
                    known = read_config(path, symbols)
                    self._cache["config", release] = ((path, stat_signature(path), symbols), known)
                return known
        return {}

    def _compression(self, directory: Path, config: Mapping[str, str]) -> str:
        """Return how the kernel's own modules are compressed; what is there counts before what was configured."""
        known = self._cache.get(("compression", directory.name))
        kernel = directory / "kernel"
        key = stat_signature(kernel) if is_directory(kernel) else None
        if known and known[0] == key and key is not None:
            return str(known[1])
        found = ""
        if key is not None:
            for _, _, files in os.walk(kernel, onerror=_refuse):
                names = [name for name in files if ".ko" in name]
                if names:
                    found = SUFFIXES.get(Path(names[0]).suffix, "")
                    break
            else:
                key = None
        if key is None:
            kinds = {"XZ": "xz", "ZSTD": "zst", "GZIP": "gz"}
            found = next((v for k, v in kinds.items() if config.get(f"CONFIG_MODULE_COMPRESS_{k}") == "y"), "")
        self._cache["compression", directory.name] = (key, found)
        return found

    def own_file(self, release: str, name: str) -> Optional[Path]:
        """Return the file of a module that the kernel has itself, of the names that the last read was asked for."""
        _, known = self._cache.get(("in-tree", release), (None, None))
        return known.get(name) if isinstance(known, dict) else None

    def _in_tree(self, directory: Path, objects: Collection[str]) -> dict[str, Path]:
        """Return which of some objects the kernel has itself and installed, and their files."""
        order = directory / "modules.order"
        if not objects or not is_file(order):
            self._cache.pop(("in-tree", directory.name), None)
            return {}
        asked = frozenset(objects)
        known = self._cached("in-tree", directory.name, order, asked)
        if isinstance(known, dict):
            return known
        found = find_own(self.sysroot, directory, asked)
        self._cache["in-tree", directory.name] = ((order, stat_signature(order), asked), found)
        return found
