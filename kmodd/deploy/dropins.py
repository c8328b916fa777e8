"""The generated files of modules-load.d, modprobe.d and depmod.d on disk. Only files that carry our mark are ours.

Must not: decide what they say; core.dropincontent does.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..core.dropincontent import MARK, kernels_of
from ..core.errors import Problem
from ..core.model import Dropin
from ..core.sysroot import Sysroot
from ..system.files import TEMPORARY, explained, list_names, remove_file, replace_file

KINDS = ("modules-load", "modprobe", "depmod")
PREFIX, SUFFIX = "kmodd-", ".conf"


class DropinFiles:
    """The drop-ins of one root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot

    def read(self) -> tuple[Dropin, ...]:
        """Return all drop-ins that kmodd wrote."""
        found = []
        for kind in KINDS:
            directory = self.sysroot.dropin_directory(kind)
            for name in list_names(directory, SUFFIX):
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    content = self._read(directory / f"{name}{SUFFIX}") if name.startswith(PREFIX) else ""
                    if content.startswith(MARK):
                        kernels = kernels_of(content) if kind == "depmod" else ()
                        found.append(Dropin(kind, name[len(PREFIX) :], content, kernels))
        return tuple(found)

    def _read(self, path: Path) -> str:
        """Return the text of a file, "" where it is none. Raises OSError, UnicodeDecodeError."""
        try:
            real = self.sysroot.below(path.parent, path.name)
        except Problem:  # a loop of links
            return ""
        return real.read_text() if real.is_file() else ""

    def _path(self, dropin: Dropin) -> Path:
        return self.sysroot.dropin(dropin.kind, dropin.module)

    def _is_ours(self, path: Path) -> bool:
        try:
            return self._read(path).startswith(MARK)
        except UnicodeDecodeError:
            return False

    def write(self, dropin: Dropin) -> None:
        """Write a drop-in. Raises Problem dropin-foreign where a file of somebody else has its name."""
        path = self._path(dropin)
        where = self.sysroot.inside(path)
        with explained(f"writing {where}"):
            if os.path.lexists(path) and not self._is_ours(path):
                raise Problem("dropin-foreign", f"{where} exists and was not written by kmodd", "move it away")
            replace_file(path, dropin.content.encode())

    def remove(self, dropin: Dropin) -> None:
        """Delete a drop-in. Raises Problem."""
        path = self._path(dropin)
        with explained(f"removing {self.sysroot.inside(path)}"):
            remove_file(path)

    def heal(self) -> None:
        """Delete temporary files that a kill left."""
        for kind in KINDS:
            for path in self.sysroot.dropin_directory(kind).glob(f".{PREFIX}*{TEMPORARY}"):
                with contextlib.suppress(OSError):
                    remove_file(path)
