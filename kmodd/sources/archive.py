"""An archive as a source: its identity, and a private copy of the file. Unpacking it is a matter of the sandbox.

Must not: look into it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..errors import Problem
from ..files import digest_file, stat_signature
from ..modulefile import Module

ARCHIVE = "archive"  # the copy's name


class Archive:
    """An archive as its stat data tell, like tree.Tree."""

    def __init__(self, top: Path) -> None:
        """Raises OSError."""
        found = top.stat()
        self.top = top
        self.newest = max(found.st_ctime, found.st_mtime)
        self.state = hashlib.sha256(repr(stat_signature(top)).encode()).hexdigest()

    def digest(self) -> str:
        """Return the sha256 of the file. Raises OSError."""
        return digest_file(self.top)


def check_digest(module: Module, digest: str) -> None:
    """Raise Problem archive-mismatch unless an archive is the one that the module file speaks of."""
    source = module.file.source
    if source.sha256 not in (None, digest):
        text = f"{module.path}: source.archive: {source.archive} has the sha256 {digest}, not {source.sha256}"
        raise Problem("archive-mismatch", text, "put the right file there, or correct source.sha256", transient=False)


def copy_file(path: Path, destination: Path) -> str:
    """Copy an archive to a file that does not exist yet, for all to read; returns its sha256. Raises OSError."""
    digest = hashlib.sha256()
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with path.open("rb") as stream, os.fdopen(descriptor, "wb") as sink:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            sink.write(chunk)
    return digest.hexdigest()
