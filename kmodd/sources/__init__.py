"""A module's source: its identity, and a private copy of it to build in.

The source itself is never written to. Must not: run anything.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import stat
import time
from pathlib import Path
from typing import Optional, Union

from ..errors import Problem
from ..files import digest_file, explain, replace_file, stat_signature
from ..modulefile import Module, Patch
from ..paths import Sysroot
from . import tree
from .archive import ARCHIVE, Archive, check_digest, copy_file
from .kernel import KernelSources

RACY = 2.0  # seconds; a file that changed this recently may change again within its time stamp's grain


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
        self.kernel = KernelSources(sysroot, lambda path: self._identity(Archive(path)))

    def find(self, module: Module) -> Path:
        """Return the host path of a module's source. Raises Problem.

        Of its own: source-missing, source-unreadable, source-not-directory, source-not-file.
        """
        source = module.file.source
        path, where = source.place, f"{module.path}: source.{source.kind}: {source.place}"
        real = self.sysroot.resolve(path)
        try:
            mode = real.stat().st_mode
        except FileNotFoundError:
            raise Problem("source-missing", f"{where} does not exist", "install the source or correct it") from None
        except OSError as error:
            raise Problem("source-unreadable", f"{where} cannot be read: {error.strerror}") from error
        if source.archive is not None and not stat.S_ISREG(mode):
            raise Problem("source-not-file", f"{where} is not a file", "a directory goes to source.path")
        if source.dkms is not None:
            if not stat.S_ISREG(mode):
                raise Problem("source-not-file", f"{where} is not a file", "name the dkms.conf")
            return real.parent
        if source.archive is None and not stat.S_ISDIR(mode):
            raise Problem("source-not-directory", f"{where} is not a directory", "name the directory of its Makefile")
        return real

    def identity(self, module: Module) -> str:
        """Return the sha256 of a source: names, kinds, executable bits, contents; or of an archive. Raises Problem."""
        top, source = self.find(module), module.file.source
        try:
            if source.archive is not None:
                digest = self._identity(Archive(top))
                check_digest(module, digest)
                return f"{digest} {source.strip}" if source.strip is not None else digest
            return self._identity(tree.Tree(top))
        except OSError as error:
            text = f"{module.path}: source.{source.kind}: {error.filename} cannot be read: {error.strerror}"
            raise Problem("source-unreadable", text, "make it readable for kmodd") from error

    def _identity(self, found: Union[tree.Tree, Archive]) -> str:
        known = self._known.get(str(found.top))
        if known and known[0] == found.state:
            return known[1]
        digest = found.digest()
        if time.time() - found.newest > RACY:
            self._known[str(found.top)] = (found.state, digest)
            self._dirty = True
        return digest

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
                digest.update(f"{patch.strip} {patch.fuzz} {digest_file(path)}\n".encode())
            except OSError as error:
                raise explain(error, f"reading {path}") from error
        return digest.hexdigest() if found else ""

    # -- copying ---------------------------------------------------------------------------------------------------
    def copy(self, module: Module, destination: Path, owner: Optional[tuple[int, int]]) -> None:
        """Copy a source to a directory that does not exist yet, for (uid, gid). Raises Problem.

        An archive is copied to tmp/archive beside it; the directory stays empty.
        """
        top = self.find(module)
        try:
            if module.file.source.archive is None:
                tree.copy(top, destination, owner)
            else:
                tree.make_top(destination, owner)
                check_digest(module, copy_file(top, destination.with_name("tmp") / ARCHIVE))
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
