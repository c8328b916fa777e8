"""A module's source: its identity, and a private copy of it to build in.

The source itself is never written to. Left out of both are version control directories and what Kbuild made there
earlier (every output X of Kbuild has a `.X.cmd` beside it), since an object of another kernel would be linked in.
Must not: run anything.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from .errors import Problem
from .files import digest_file, explain, replace_file, stat_signature
from .modulefile import Module, Patch
from .paths import Sysroot

SKIPPED = frozenset({".git", ".svn", ".hg", ".tmp_versions"})
MOST_FILES = 200_000
RACY = 2.0  # seconds; a file that changed this recently may change again within its time stamp's grain


def _entries(top: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (path relative to top, entry) of everything that counts, sorted, directories before their content."""
    pending = [""]
    count = 0
    while pending:
        directory = pending.pop()
        with os.scandir(top / directory) as scan:
            entries = sorted(scan, key=lambda e: e.name)
        names = {entry.name for entry in entries}
        below = []
        for entry in entries:
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


class SourceReader:
    """Identifies and copies sources; identities are kept by the files' stat data, so unchanged trees are not read."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self.memory = sysroot.cache / "sources.json"
        self._known: dict[str, tuple[str, str]] = {}  # path -> (stat digest, content digest)
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            loaded = json.loads(self.memory.read_bytes())
            self._known = {str(k): (str(v[0]), str(v[1])) for k, v in loaded.items()}
        self._dirty = False

    def find(self, module: Module) -> Path:
        """Return the host path of a module's source. Raises Problem source-missing, source-not-directory."""
        path = module.file.source.path or ""
        where = f"{module.path}: source.path: {path}"
        real = self.sysroot.resolve(path)
        try:
            mode = real.stat().st_mode
        except FileNotFoundError:
            raise Problem("source-missing", f"{where} does not exist", "install the source or correct it") from None
        except OSError as error:
            raise Problem("source-unreadable", f"{where} cannot be read: {error.strerror}") from error
        if not stat.S_ISDIR(mode):
            raise Problem("source-not-directory", f"{where} is not a directory", "name the directory of its Makefile")
        return real

    def identity(self, module: Module) -> str:
        """Return the sha256 of a source tree: names, kinds, executable bits, contents. Raises Problem."""
        top = self.find(module)
        try:
            return self._identity(top)
        except OSError as error:
            text = f"{module.path}: source.path: {error.filename} cannot be read: {error.strerror}"
            raise Problem("source-unreadable", text, "make it readable for kmodd") from error

    def _identity(self, top: Path) -> str:
        quick, newest = hashlib.sha256(), 0.0
        entries = []
        for path, entry in _entries(top):
            found = entry.stat(follow_symlinks=False)
            newest = max(newest, found.st_ctime, found.st_mtime)
            quick.update(
                f"{path}\0{found.st_mode}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0".encode(
                    errors="surrogateescape"
                )
            )
            entries.append((path, found.st_mode))
        state = quick.hexdigest()
        known = self._known.get(str(top))
        if known and known[0] == state:
            return known[1]
        full = hashlib.sha256()
        for path, mode in entries:
            name = path.encode(errors="surrogateescape")
            if stat.S_ISLNK(mode):
                full.update(b"l" + name + b"\0" + os.readlink(os.fsencode(top / path)) + b"\0")
            elif stat.S_ISREG(mode):
                kind = b"x" if mode & 0o111 else b"f"
                full.update(kind + name + b"\0" + digest_file(top / path).encode() + b"\0")
            elif stat.S_ISDIR(mode):
                full.update(b"d" + name + b"\0")
            else:
                raise Problem("source-special-file", f"{top / path} is neither a file, directory nor link", "remove it")
        if time.time() - newest > RACY:
            self._known[str(top)] = (state, full.hexdigest())
            self._dirty = True
        return full.hexdigest()

    def remember(self) -> None:
        """Keep the identities for the next process, where the cache can be written."""
        if self._dirty:
            with contextlib.suppress(OSError):
                replace_file(self.memory, json.dumps(self._known).encode())
            self._dirty = False

    # -- patches ---------------------------------------------------------------------------------------------------
    def patches(self, module: Module, release: str) -> list[tuple[Path, Patch]]:
        """Return the patches that apply to a kernel, in order. Raises Problem patch-missing."""
        found = []
        for patch in module.file.source.patches:
            if patch.kernels and not any(fnmatch.fnmatchcase(release, glob) for glob in patch.kernels):
                continue
            base = Path(module.path).with_suffix(".patches")
            path = self.sysroot.resolve(str(base / patch.file))
            if not path.is_file():
                text = f"{module.path}: source.patches: {base / patch.file} does not exist"
                raise Problem("patch-missing", text, f"put it into {base}/")
            found.append((path, patch))
        return found

    def patches_identity(self, module: Module, release: str) -> str:
        """Return the sha256 of the patches that apply to a kernel, "" where there are none. Raises Problem."""
        digest = hashlib.sha256()
        found = self.patches(module, release)
        for path, patch in found:
            try:
                digest.update(f"{patch.strip} {digest_file(path)}\n".encode())
            except OSError as error:
                raise explain(error, f"reading {path}") from error
        return digest.hexdigest() if found else ""

    # -- copying ---------------------------------------------------------------------------------------------------
    def copy(self, module: Module, destination: Path, owner: Optional[tuple[int, int]]) -> None:
        """Copy a source to a directory that does not exist yet, for (uid, gid). Raises Problem."""
        top = self.find(module)
        try:
            destination.mkdir(parents=True, mode=0o755)
            if owner:
                os.chown(destination, *owner)
            for path, entry in _entries(top):
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
        except OSError as error:
            raise explain(error, f"copying the source of {module.name}") from error


class DigestCache:
    """Digests of single files, read again only when their stat data changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, str]] = {}

    def digest(self, path: Path) -> str:
        """Return the sha256 of a file. Raises OSError."""
        key = stat_signature(path)
        known = self._known.get(path)
        if not known or known[0] != key:
            known = self._known[path] = (key, digest_file(path))
        return known[1]
