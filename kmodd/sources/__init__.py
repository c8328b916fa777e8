"""A module's source: its identity, and a private copy of it to build in.

The source itself is never written to. Must not: run anything.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional, Union

from ..core.errors import Problem
from ..core.modulefile import Module, Patch
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.files import explain, make_directory, replace_file
from ..system.reading import SWAPPED, Reached, reach
from . import symvers, tree
from .archive import ARCHIVE, Archive, check_digest
from .kernelsource import KernelSources
from .ownership import check_owners

LARGEST_PATCH = 64 << 20  # bytes
RACY = 2.0  # seconds; a file that changed this recently may change again within its time stamp's grain


class SourceReader:
    """Identifies and copies sources; identities are kept by the files' stat data, so unchanged trees are not read."""

    def __init__(self, sysroot: Sysroot, settings: Optional[SettingsSource] = None) -> None:
        """settings: without them, the defaults."""
        self.sysroot = sysroot
        self.memory = sysroot.below(sysroot.cache, "sources.json")
        self._known: dict[str, tuple[str, str]] = {}  # path -> (stat digest, content digest)
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            loaded = json.loads(self.memory.read_bytes())
            self._known = {str(k): (str(v[0]), str(v[1])) for k, v in loaded.items()}
        self._dirty = False
        self.kernel = KernelSources(
            sysroot, lambda reached: self._identity(Archive(reached)), settings or SettingsSource()
        )

    @contextlib.contextmanager
    def find(self, module: Module) -> Iterator[Reached]:
        """Give a module's source: a directory, or an archive. Raises Problem.

        Of its own: source-missing, source-unreadable, source-not-directory, source-not-file.
        """
        source = module.file.source
        where = f"{module.path}: source.{source.kind}: {source.place}"
        path = os.path.dirname(source.dkms) if source.dkms else source.place
        try:
            reached = reach(self.sysroot, path)
        except FileNotFoundError:
            raise Problem("source-missing", f"{where} does not exist", "install the source or correct it") from None
        except OSError as error:
            raise Problem("source-unreadable", f"{where} cannot be read: {error.strerror}") from error
        with reached:
            if source.archive is not None:
                if not reached.is_file:
                    raise Problem("source-not-file", f"{where} is not a file", "a directory goes to source.path")
            elif not reached.is_directory:
                text = f"{where} is not a directory"
                raise Problem("source-not-directory", text, "name the directory of its Makefile")
            if source.dkms is not None:
                self._check_conf(source.dkms, where)
            yield reached

    def _check_conf(self, path: str, where: str) -> None:
        try:
            with reach(self.sysroot, path) as conf:
                if not conf.is_file:
                    raise Problem("source-not-file", f"{where} is not a file", "name the dkms.conf")
        except OSError:
            raise Problem("source-missing", f"{where} does not exist", "install the source or correct it") from None

    def identity(self, module: Module) -> str:
        """Return the sha256 of a source: names, kinds, executable bits, contents; or of an archive. Raises Problem.

        Of its own also source-unsafe, archive-mismatch, source-unreadable, source-too-large, source-special-file.
        """
        source = module.file.source
        with self.find(module) as top:
            try:
                found = tree.Tree(top) if source.archive is None else Archive(top)
                check_owners(module, f"source.{source.kind}", found.weakness)
                digest = self._identity(found)
            except OSError as error:
                text = f"{module.path}: source.{source.kind}: {error.filename} cannot be read: {error.strerror}"
                raise Problem("source-unreadable", text, "make it readable for kmodd") from error
        if source.archive is None:
            return digest
        check_digest(module, digest)
        return f"{digest} {source.strip}" if source.strip is not None else digest

    def _identity(self, found: Union[tree.Tree, Archive]) -> str:
        known = self._known.get(str(found.top.host))
        if known and known[0] == found.state:
            return known[1]
        digest = found.digest()
        if time.time() - found.newest > RACY:
            self._known[str(found.top.host)] = (found.state, digest)
            self._dirty = True
        return digest

    def remember(self) -> None:
        """Keep the identities for the next process, where the cache can be written."""
        if self._dirty:
            with contextlib.suppress(OSError):
                replace_file(self.memory, json.dumps(self._known).encode())
            self._dirty = False

    # -- patches ---------------------------------------------------------------------------------------------------
    def patches(self, module: Module, release: str) -> list[tuple[str, Patch]]:
        """Return the in-root paths of the patches that apply to a kernel, in order."""
        base = Path(module.path).with_suffix(".patches")
        return [
            (str(base / patch.file), patch)
            for patch in module.file.source.patches
            if not patch.kernels or any(fnmatch.fnmatchcase(release, glob) for glob in patch.kernels)
        ]

    @contextlib.contextmanager
    def _patch(self, module: Module, path: str) -> Iterator[Reached]:
        """Give a patch. Raises Problem patch-missing, source-unsafe and those of reading it."""
        missing = Problem(
            "patch-missing",
            f"{module.path}: source.patches: {path} does not exist",
            f"put it into {Path(module.path).with_suffix('.patches')}/",
        )
        try:
            with reach(self.sysroot, path) as reached:
                if not reached.is_file:
                    raise missing
                if reached.found.st_size > LARGEST_PATCH:
                    text = f"{module.path}: source.patches: {path} is larger than {LARGEST_PATCH} bytes"
                    raise Problem("patch-invalid", text, "is it a patch?")
                check_owners(module, "source.patches", reached.weakness)
                yield reached
        except FileNotFoundError:
            raise missing from None
        except OSError as error:
            if error.errno in SWAPPED:
                raise _changed(f"{module.path}: source.patches: {path}") from error
            raise explain(error, f"reading {path}") from error

    def patches_identity(self, module: Module, release: str) -> str:
        """Return the sha256 of the patches that apply to a kernel, "" where there are none. Raises Problem."""
        return self._take_patches(module, release, None)[0]

    def _take_patches(
        self, module: Module, release: str, directory: Optional[Path]
    ) -> tuple[str, list[tuple[Path, Patch]]]:
        """Read the patches that apply to a kernel, copy them where there is a directory; returns their sha256."""
        digest = hashlib.sha256()
        copies = []
        for number, (path, patch) in enumerate(self.patches(module, release)):
            with self._patch(module, path) as reached:
                copy = directory / f"{number}.patch" if directory else None
                found = reached.copy(copy) if copy else reached.digest()
                copies += [(copy, patch)] if copy else []
            digest.update(f"{patch.strip} {patch.fuzz} {found}\n".encode())
        return digest.hexdigest() if self.patches(module, release) else "", copies

    # -- copying ---------------------------------------------------------------------------------------------------
    def copy(
        self, module: Module, destination: Path, owner: Optional[tuple[int, int]], planned: Optional[str] = None
    ) -> None:
        """Copy a source to a directory that does not exist yet, for (uid, gid). Raises Problem.

        An archive is copied to tmp/archive beside it; the directory stays empty. planned: its identity, without which
        source-changed is raised.
        """
        source = module.file.source
        doing = f"copying the source of {module.name}"
        with _unswapped(doing, planned is not None), self.find(module) as top:
            if source.archive is None:
                descriptor = top.open()
                try:
                    digest = tree.copy(descriptor, top.path, top.reader, destination, owner)
                finally:
                    os.close(descriptor)
            else:
                tree.make_top(destination, owner)
                digest = top.copy(destination.with_name("tmp") / ARCHIVE)
                digest = f"{digest} {source.strip}" if source.strip is not None else digest
        check_planned(module, f"source.{source.kind}", digest, planned)

    def copy_beside(
        self, module: Module, release: str, directory: Path, planned: Optional[Mapping[str, str]]
    ) -> tuple[list[tuple[Path, Patch]], list[Path]]:
        """Copy what a module has beside its source, patches and build.symvers, to a new directory.

        planned: the identities, as inputs of the build; None: whatever they are. Returns the copies. Raises Problem,
        also source-changed.
        """
        with _unswapped(f"copying the patches of {module.name}", True):
            make_directory(directory, durable=False)
            digest, patches = self._take_patches(module, release, directory)
            check_planned(module, "source.patches", digest, None if planned is None else planned["patches"])
            digest, others = symvers.copy(self.sysroot, module, release, directory)
            check_planned(module, "build.symvers", digest, None if planned is None else planned.get("symvers", ""))
        return patches, others


def check_planned(module: Module, key: str, digest: str, planned: Optional[str]) -> None:
    """Raise Problem source-changed where something that was copied is not what was planned with."""
    if planned not in (None, digest):
        raise _changed(f"{module.path}: {key}")


def _changed(what: str) -> Problem:
    return Problem(
        "source-changed", f"{what} changed while it was copied", "kmodd tries again by itself", transient=True
    )


@contextlib.contextmanager
def _unswapped(doing: str, planned: bool) -> Iterator[None]:
    """Turn an OSError of the block into a Problem, one of something that vanishes or is replaced into source-changed.

    planned: it was all there a moment ago, so that whatever is wrong with it by now is a change, too.
    """
    try:
        yield
    except OSError as error:
        if error.errno in SWAPPED:
            raise _changed(f"{doing}: {error.filename}") from error
        raise explain(error, doing) from error
    except Problem as problem:
        if planned and not problem.transient:
            raise _changed(f"{doing}: {problem.message}; it") from problem
        raise


class DigestCache:
    """Digests of single files, read again only when their stat data changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, str]] = {}

    def digest(self, found: Reached) -> str:
        """Return the sha256 of a file. Raises OSError."""
        known = self._known.get(found.host)
        if not known or known[0] != found.signature:
            known = self._known[found.host] = (found.signature, found.digest())
        return known[1]
