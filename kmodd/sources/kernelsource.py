"""The target kernel's own source as a source: which source RPM it comes from, and what is kept of it once unpacked.

Kept are only the directories and files that modules name, in `kernel-source/<name-version-release>/tree` under
/var/cache/kmodd, and beside them the names of all configuration symbols. Must not: unpack, or run anything.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Module
from ..core.remedy import Remedy
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.deleting import delete_tree
from ..system.files import explained, read_own, replace_file
from ..system.reading import Reached, open_at, reach, walk
from . import tree
from .ownership import check_owners

SUFFIX = ".src.rpm"
MAKEFILES = ("Makefile", "Kbuild")
LARGEST_KCONFIG = 4 << 20  # bytes
_SYMBOL = re.compile(r"^[ \t]*(?:menu)?config[ \t]+([A-Za-z0-9_]+)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Kept:
    """What is kept of a source RPM: its sha256, the paths that were asked for, those of them that it lacks.

    signed: it had a good signature when it was unpacked.
    """

    sha256: str
    paths: frozenset[str]
    absent: frozenset[str]
    signed: bool = False


class KernelSources:
    """The kernels' sources. digest: returns a file's sha256, remembered by its stat data."""

    def __init__(self, sysroot: Sysroot, digest: Callable[[Reached], str], settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.digest = digest
        self.settings = settings

    @property
    def places(self) -> tuple[str, ...]:
        """Return the directories of sources.srpm_path, in-root."""
        return self.settings.now.sources.srpm_path

    def _directory(self, kernel: Kernel) -> Path:
        return self.sysroot.below(self.sysroot.kernel_sources, kernel.source_package[: -len(SUFFIX)])

    # -- the source RPM --------------------------------------------------------------------------------------------
    def find(self, kernel: Kernel) -> Optional[Reached]:
        """Return a kernel's source RPM in the directories of sources.srpm_path, to be closed by the caller."""
        for place in self.places:
            with contextlib.suppress(OSError):
                found = reach(self.sysroot, f"{place}/{kernel.source_package}")
                if found.is_file:
                    return found
                found.close()
        return None

    def require(self, kernel: Kernel) -> Reached:
        """Return a kernel's source RPM, to be closed by the caller. Raises Problem kernel-source-missing."""
        found = self.find(kernel)
        if found is None:
            raise self._missing(kernel)
        return found

    def check_kept(self, module: Module, kernel: Kernel, planned: Optional[str]) -> None:
        """Raise Problem source-changed where what is kept is not what a build was planned with (identity)."""
        kept = self.kept(kernel)
        if kept is None or planned not in (None, _identity(module, kept.sha256)):
            raise Problem("source-changed", f"{kernel.source_package} changed while it was unpacked")

    def identity(self, module: Module, kernel: Kernel) -> str:
        """Return what identifies a module's source: the source RPM and the paths in it.

        Raises Problem kernel-source-unknown, kernel-source-missing, source-unreadable, source-unsafe.
        """
        return _identity(module, self._identity(kernel, module))

    def _identity(self, kernel: Kernel, module: Optional[Module] = None) -> str:
        if not kernel.source_package.endswith(SUFFIX):
            text = f"rpm does not know the package of {kernel.release}'s build tree, nor so its source RPM"
            raise Problem("kernel-source-unknown", text, "install kernel-devel from its package")
        found = self.find(kernel)
        if found is not None:
            with found:
                if module:
                    check_owners(module, "source.kernel", found.weakness)
                try:
                    return self.digest(found)
                except OSError as error:
                    raise Problem("source-unreadable", f"{found.path} cannot be read: {error.strerror}") from error
        kept = self.kept(kernel)
        if kept is None:
            raise self._missing(kernel)
        return kept.sha256

    def _missing(self, kernel: Kernel) -> Problem:
        where = " or ".join(self.places) or "no directory (sources.srpm_path is empty)"
        text = f"{kernel.source_package}, the source of {kernel.release}, is not in {where}"
        others = [name for place in self.places for name in self._others(place, kernel)]
        if others:
            text += f"; {others[0]} there is of another release"
        remedy = Remedy("fetch-source", kernel.source_package)
        return Problem("kernel-source-missing", text, remedy.shown(self.sysroot, next(iter(self.places), "")))

    def _others(self, place: str, kernel: Kernel) -> list[str]:
        name = kernel.source_package.rsplit("-", 2)[0]
        with contextlib.suppress(OSError):
            found = sorted(os.listdir(self.sysroot.resolve(place)))
            return [f for f in found if f.endswith(SUFFIX) and f.rsplit("-", 2)[0] == name]
        return []

    # -- what is kept ----------------------------------------------------------------------------------------------
    def kept(self, kernel: Kernel) -> Optional[Kept]:
        """Return what is kept of a kernel's source, None where nothing is."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(read_own(self._directory(kernel) / "record.json"))
            return Kept(
                str(found["sha256"]), frozenset(found["paths"]), frozenset(found["absent"]), bool(found.get("signed"))
            )
        return None

    def lacks(self, kernel: Kernel, wanted: Iterable[str]) -> bool:
        """Tell whether the source RPM must be unpacked for what is wanted of it. Raises Problem."""
        kept = self.kept(kernel)
        return kept is None or kept.sha256 != self._identity(kernel) or not kept.paths.issuperset(wanted)

    def keep(self, kernel: Kernel, sha256: str, top: Path, wanted: Collection[str], *, signed: bool = False) -> None:
        """Keep what is wanted of a source that was unpacked at top, in place of what was kept before.

        The tree was made by code of others: no link is followed. Raises Problem.
        """
        final = self._directory(kernel)
        fresh = final.with_name(f".{final.name}.new")
        with explained(f"keeping the source of {kernel.release}"):
            delete_tree(fresh)
            (fresh / "tree").mkdir(parents=True)
            absent = [path for path in sorted(wanted) if not _copy_path(top, path, fresh / "tree", None)]
            replace_file(fresh / "symbols", "".join(f"{name}\n" for name in _symbols(top)).encode())
            record = {"sha256": sha256, "paths": sorted(wanted), "absent": absent, "signed": signed}
            replace_file(fresh / "record.json", json.dumps(record).encode())
            delete_tree(final)
            fresh.rename(final)

    def forget(self, kernels: Iterable[Kernel]) -> None:
        """Delete what is kept of the sources of all but these kernels, and what a kill left."""
        names = {self._directory(kernel).name for kernel in kernels if kernel.source_package}
        with contextlib.suppress(FileNotFoundError):
            for path in self.sysroot.kernel_sources.iterdir():
                if path.name not in names:
                    delete_tree(path)

    # -- a module's part of it -------------------------------------------------------------------------------------
    def copy_part(self, module: Module, kernel: Kernel, more: Iterable[str], top: Path, owner: tuple[int, int]) -> None:
        """Put a module's part of the source, and more paths where the source has them, at their places below top.

        owner: uid and gid. Raises Problem kernel-source-path, config-unknown.
        """
        directory = self._directory(kernel)
        self._check_symbols(module, kernel, directory)
        with explained(f"copying the source of {module.name}"):
            tree.make_top(top, owner)
            for path in sorted({*companions(module), *more}):
                if not _copy_path(directory / "tree", path, top, owner) and path in module.file.source.kernel:
                    text = f"{module.path}: source.kernel: {kernel.source_package} has no {path}"
                    raise Problem("kernel-source-path", text, "correct it", transient=False)

    def _check_symbols(self, module: Module, kernel: Kernel, directory: Path) -> None:
        asked = [name[len("CONFIG_") :] for name in module.file.build.config]
        if not asked:
            return
        with explained(f"reading the configuration symbols of {kernel.source_package}"):
            known = read_own(directory / "symbols").decode().split()
        for name in sorted({*asked} - {*known}):
            close = difflib.get_close_matches(name, known, 1)
            text = f"{module.path}: build.config.CONFIG_{name}: no Kconfig file of {kernel.source_package} knows it"
            hint = f"did you mean CONFIG_{close[0]}?" if close else "correct it"
            raise Problem("config-unknown", text, hint, transient=False)


def _identity(module: Module, srpm: str) -> str:
    return hashlib.sha256("\n".join((srpm, *module.file.source.kernel)).encode()).hexdigest()


def companions(module: Module) -> set[str]:
    """Return what a module wants of the source: what it names, and the Makefiles beside single files."""
    wanted = set(module.file.source.kernel)
    for path in module.file.source.kernel:
        directory, _, name = path.rpartition("/")
        if "." in name and directory:
            wanted |= {f"{directory}/{makefile}" for makefile in MAKEFILES}
    return wanted


def _copy_path(top: Path, path: str, destination: Path, owner: Optional[tuple[int, int]]) -> bool:
    """Copy a directory or file below top to the same place below destination; tells whether it is there at all.

    No link is followed.
    """
    target = destination / path
    if os.path.lexists(target):
        return True  # it came with a directory above it
    parts = path.split("/")
    try:
        for depth in range(1, len(parts) + 1):
            if stat.S_ISLNK(top.joinpath(*parts[:depth]).lstat().st_mode):
                return False
        with reach(Sysroot(top), f"/{path}") as found:
            target.parent.mkdir(parents=True, exist_ok=True)
            if found.is_directory:
                descriptor = found.open()
                try:
                    tree.copy(descriptor, str(found.host), None, target, owner)
                finally:
                    os.close(descriptor)
            elif found.is_file:
                found.copy(target)
                if owner:
                    os.chown(target, *owner)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _symbols(top: Path) -> list[str]:
    """Return the names of all symbols that Kconfig files below top define, sorted."""
    found: set[str] = set()
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for entry in walk(descriptor, str(top)):
            if entry.name.startswith("Kconfig") and stat.S_ISREG(entry.found.st_mode):
                with os.fdopen(open_at(entry.directory, entry.name, entry.path), "rb") as stream:
                    found.update(_SYMBOL.findall(stream.read(LARGEST_KCONFIG).decode(errors="replace")))
    finally:
        os.close(descriptor)
    return sorted(found)
