"""A directory as a source: what of it counts, its identity, and a private copy of it.

Left out are version control directories and what Kbuild made there earlier (every output X of Kbuild has a `.X.cmd`
beside it), since an object of another kernel would be linked in. Links are kept as they are: what they lead to is seen
only by the build, which has no rights. Must not: write to the source.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Optional

from ..core.errors import Problem
from ..system.files import make_directory
from ..system.reading import (
    MOST_BYTES,
    Entry,
    Reached,
    Reader,
    Weakness,
    copy_stream,
    find_weakness,
    open_at,
    read_link_at,
    walk,
)

SKIPPED = frozenset({".git", ".svn", ".hg", ".tmp_versions"})


def counting(names: list[str]) -> Iterator[str]:
    """Yield those of a directory's names that count."""
    there = {*names}
    for name in names:
        made = f".{name}.cmd" in there
        record = name.startswith(".") and name.endswith(".cmd")
        if not (name in SKIPPED or made or record):
            yield name


class Tree:
    """What counts of a directory, as its stat data tell: state is their digest, newest the last change of any.

    weakness: the first of it that others than root can change.
    """

    def __init__(self, top: Reached) -> None:
        """Raises OSError, Problem source-too-large."""
        self.top = top
        self.newest = 0.0
        self.weakness: Optional[Weakness] = top.weakness
        quick = hashlib.sha256()
        descriptor = top.open()
        try:
            for entry in walk(descriptor, top.path, top.reader, counting):
                found = entry.found
                self.newest = max(self.newest, found.st_ctime, found.st_mtime)
                self.weakness = self.weakness or find_weakness(f"{top.path}/{entry.path}", found)
                facts = (entry.path, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, "")
                quick.update("\0".join(map(str, facts)).encode(errors="surrogateescape"))
        finally:
            os.close(descriptor)
        self.state = quick.hexdigest()

    def digest(self) -> str:
        """Return the sha256 of names, kinds, executable bits and contents. Raises OSError, Problem."""
        descriptor = self.top.open()
        try:
            return _read(descriptor, self.top.path, self.top.reader, None, None)
        finally:
            os.close(descriptor)


def make_top(destination: Path, owner: Optional[tuple[int, int]]) -> None:
    """Make the directory that a source is copied to, for (uid, gid). Raises OSError."""
    make_directory(destination, durable=False)
    if owner:
        os.chown(destination, *owner)


def copy(top: int, shown: str, reader: Reader, destination: Path, owner: Optional[tuple[int, int]]) -> str:
    """Copy what counts of an open directory to one that does not exist yet, for (uid, gid); returns the sha256.

    shown: what errors call it. reader: whose rights count. Raises OSError, Problem.
    """
    make_top(destination, owner)
    return _read(top, shown, reader, destination, owner)


def _read(top: int, shown: str, reader: Reader, destination: Optional[Path], owner: Optional[tuple[int, int]]) -> str:
    """Read what counts of an open directory, copy it where there is a destination, and return the sha256."""
    full = hashlib.sha256()
    left = MOST_BYTES
    for entry in walk(top, shown, reader, counting):
        name, mode = entry.path.encode(errors="surrogateescape"), entry.found.st_mode
        target = destination / entry.path if destination else None
        if stat.S_ISLNK(mode):
            link = read_link_at(entry.directory, entry.name, f"{shown}/{entry.path}")
            full.update(b"l" + name + b"\0" + link + b"\0")
            if target:
                os.symlink(link, os.fsencode(target))
        elif stat.S_ISREG(mode):
            digest, mode, size = _read_file(entry, f"{shown}/{entry.path}", reader, target, left)
            left -= size
            full.update((b"x" if mode & 0o111 else b"f") + name + b"\0" + digest.encode() + b"\0")
        elif stat.S_ISDIR(mode):
            full.update(b"d" + name + b"\0")
            if target:
                target.mkdir(mode=0o700)
        else:
            text = f"{shown}/{entry.path} is neither a file, directory nor link"
            raise Problem("source-special-file", text, "remove it", transient=False)
        if target and owner:
            os.chown(target, *owner, follow_symlinks=False)
    return full.hexdigest()


def _read_file(entry: Entry, shown: str, reader: Reader, target: Optional[Path], most: int) -> tuple[str, int, int]:
    """Read a file, copy it where there is a target; returns its sha256, mode and size. Raises OSError, Problem."""
    with os.fdopen(open_at(entry.directory, entry.name, shown, reader), "rb") as stream:
        found = os.fstat(stream.fileno())
        digest = copy_stream(stream, None, most) if target is None else _write(stream, target, found, most)
        return digest, found.st_mode, found.st_size


def _write(stream: BinaryIO, target: Path, found: os.stat_result, most: int) -> str:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, 0o600), "wb") as sink:
        digest = copy_stream(stream, sink, most)
        sink.flush()
        os.fchmod(sink.fileno(), 0o700 if found.st_mode & 0o111 else 0o600)
        os.utime(sink.fileno(), ns=(found.st_mtime_ns, found.st_mtime_ns))
    return digest
