"""An archive as a source: its identity. Unpacking it is a matter of the sandbox.

Must not: look into it.
"""

from __future__ import annotations

import hashlib

from ..core.errors import Problem
from ..core.modulefile import Module
from ..system.reading import Reached

ARCHIVE = "archive"  # the copy's name


class Archive:
    """An archive as its stat data tell, like tree.Tree."""

    def __init__(self, top: Reached) -> None:
        self.top = top
        self.weakness = top.weakness
        self.newest = max(top.found.st_ctime, top.found.st_mtime)
        self.state = hashlib.sha256(repr(top.signature).encode()).hexdigest()

    def digest(self) -> str:
        """Return the sha256 of the file. Raises OSError."""
        return self.top.digest()


def check_digest(module: Module, digest: str) -> None:
    """Raise Problem archive-mismatch unless an archive is the one that the module file speaks of."""
    source = module.file.source
    if source.sha256 not in (None, digest):
        text = f"{module.path}: source.archive: {source.archive} has the sha256 {digest}, not {source.sha256}"
        raise Problem("archive-mismatch", text, "put the right file there, or correct source.sha256", transient=False)
