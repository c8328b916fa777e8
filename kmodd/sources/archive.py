"""An archive as a source: source.archive. It is copied as it is; unpacking it is a matter of the sandbox.

Must not: read what is in it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Module
from ..system.reading import Reached
from . import tree
from .kind import CopyOrder, PlaceKind, check_planned, unswapped

ARCHIVE = "archive"  # the name of the copy, in tmp/ beside the directory that it is to be unpacked into
#: What is shown of an archive that is not named by its content.
UNPINNED = "source.archive has no source.sha256: whatever lies there is built"


class Archive:
    """The contents of an archive, as Contents."""

    def __init__(self, top: Reached) -> None:
        self.top = top
        self.weakness = top.weakness
        self.newest = max(top.found.st_ctime, top.found.st_mtime)
        self.state = hashlib.sha256(repr(top.signature).encode()).hexdigest()

    def digest(self) -> str:
        """Return the sha256 of the file. Raises OSError."""
        return self.top.digest()


class ArchiveSource(PlaceKind):
    """The contents of one file, and how many leading directories of its names do not count."""

    def check_type(self, where: str, found: Reached) -> None:
        if not found.is_file:
            raise Problem("source-not-file", f"{where} is not a file", "a directory goes to source.path")

    def contents(self, found: Reached) -> Archive:
        return Archive(found)

    def identity(self, module: Module, kernel: Optional[Kernel]) -> str:
        """Return the sha256 of the archive. Raises Problem as of any source, and archive-mismatch."""
        digest = super().identity(module, kernel)
        check_digest(module, digest)
        return _with_strip(module, digest)

    def copy(self, order: CopyOrder) -> Optional[Path]:
        module, copy = order.module, order.destination.with_name("tmp") / ARCHIVE
        doing = f"copying the source of {module.name}"
        with unswapped(doing, order.planned is not None), self.find(module, order.kernel) as top:
            tree.make_top(order.destination, order.owner)
            digest = top.copy(copy)
        check_planned(module, "source.archive", _with_strip(module, digest), order.planned)
        return copy

    def notes(self, module: Module) -> tuple[str, ...]:
        return () if module.file.source.sha256 else (UNPINNED,)


def _with_strip(module: Module, digest: str) -> str:
    strip = module.file.source.strip
    return digest if strip is None else f"{digest} {strip}"


def check_digest(module: Module, digest: str) -> None:
    """Raise Problem archive-mismatch unless an archive is the one that the module file speaks of."""
    source = module.file.source
    if source.sha256 not in (None, digest):
        text = f"{module.path}: source.archive: {source.archive} has the sha256 {digest}, not {source.sha256}"
        raise Problem("archive-mismatch", text, "put the right file there, or correct source.sha256", transient=False)
