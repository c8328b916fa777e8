"""A directory as a source: what of it counts, its identity, and a private copy of it.

Left out are version control directories and what Kbuild made there earlier (every output X of Kbuild has a `.X.cmd`
beside it), since an object of another kernel would be linked in. Must not: write to the source.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from ..errors import Problem
from ..files import digest_file

SKIPPED = frozenset({".git", ".svn", ".hg", ".tmp_versions"})
MOST_FILES = 200_000


def entries(top: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (path relative to top, entry) of everything that counts, sorted, directories before their content."""
    pending = [""]
    count = 0
    while pending:
        directory = pending.pop()
        with os.scandir(top / directory) as scan:
            found = sorted(scan, key=lambda e: e.name)
        names = {entry.name for entry in found}
        below = []
        for entry in found:
            name = entry.name
            made = f".{name}.cmd" in names
            record = name.startswith(".") and name.endswith(".cmd")
            if name in SKIPPED or made or record:
                continue
            count += 1
            if count > MOST_FILES:
                raise Problem("source-too-large", f"{top} holds more than {MOST_FILES} files", "name its subdirectory")
            path = f"{directory}/{name}" if directory else name
            yield path, entry
            if entry.is_dir(follow_symlinks=False):
                below.append(path)
        pending.extend(reversed(below))


class Tree:
    """What counts of a directory, as its stat data tell: state is their digest, newest the last change of any."""

    def __init__(self, top: Path) -> None:
        """Raises OSError, Problem source-too-large."""
        self.top = top
        self.newest = 0.0
        self._modes = []
        quick = hashlib.sha256()
        for path, entry in entries(top):
            found = entry.stat(follow_symlinks=False)
            self.newest = max(self.newest, found.st_ctime, found.st_mtime)
            quick.update(
                f"{path}\0{found.st_mode}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0".encode(
                    errors="surrogateescape"
                )
            )
            self._modes.append((path, found.st_mode))
        self.state = quick.hexdigest()

    def digest(self) -> str:
        """Return the sha256 of names, kinds, executable bits and contents. Raises OSError, Problem."""
        full = hashlib.sha256()
        for path, mode in self._modes:
            name = path.encode(errors="surrogateescape")
            if stat.S_ISLNK(mode):
                full.update(b"l" + name + b"\0" + os.readlink(os.fsencode(self.top / path)) + b"\0")
            elif stat.S_ISREG(mode):
                kind = b"x" if mode & 0o111 else b"f"
                full.update(kind + name + b"\0" + digest_file(self.top / path).encode() + b"\0")
            elif stat.S_ISDIR(mode):
                full.update(b"d" + name + b"\0")
            else:
                text = f"{self.top / path} is neither a file, directory nor link"
                raise Problem("source-special-file", text, "remove it")
        return full.hexdigest()


def make_top(destination: Path, owner: Optional[tuple[int, int]]) -> None:
    """Make the directory that a source is copied to, for (uid, gid). Raises OSError."""
    destination.mkdir(parents=True, mode=0o755)
    if owner:
        os.chown(destination, *owner)


def copy(top: Path, destination: Path, owner: Optional[tuple[int, int]]) -> None:
    """Copy what counts to a directory that does not exist yet, for (uid, gid). Raises OSError, Problem."""
    make_top(destination, owner)
    for path, entry in entries(top):
        target = destination / path
        if entry.is_symlink():
            target.symlink_to(os.readlink(entry.path))
        elif entry.is_dir(follow_symlinks=False):
            target.mkdir(mode=0o700)
        elif entry.is_file(follow_symlinks=False):
            found = entry.stat(follow_symlinks=False)
            shutil.copyfile(entry.path, target, follow_symlinks=False)
            target.chmod(0o700 if found.st_mode & 0o111 else 0o600)
            os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))
        else:
            raise Problem("source-special-file", f"{entry.path} is neither a file, directory nor link")
        if owner:
            os.chown(target, *owner, follow_symlinks=False)
