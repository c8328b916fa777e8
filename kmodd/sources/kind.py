"""What a kind of source is: where it lies, what identifies it, and how it is copied to be built in.

Each kind has a module of its own here, and a row in SourceReader.kinds. Must not: run anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Module
from ..core.sysroot import Sysroot
from ..system.files import explain
from ..system.reading import SWAPPED, Reached, reach
from .digests import ContentDigests, Contents
from .ownership import check_owners

Owner = Optional[tuple[int, int]]  # uid and gid of the build


@dataclass(frozen=True)
class CopyOrder:
    """Which source is to be copied, and where to: a directory that does not exist yet.

    kernel: which one it is built for. planned: the source's identity, without which source-changed is raised. patched:
    paths that patches will touch.
    """

    module: Module
    destination: Path
    owner: Owner
    planned: Optional[str] = None
    kernel: Optional[Kernel] = None
    patched: Collection[str] = ()


class SourceKind:
    """One kind of source."""

    comes_as_package = False  # in the kernel's source RPM, whose signature counts and which is unpacked first
    has_conf = False  # a dkms.conf says how it is built

    def find(self, module: Module, kernel: Optional[Kernel]) -> AbstractContextManager[Reached]:
        """Give the file or directory that a module's source is in. Raises Problem."""
        raise NotImplementedError

    def identity(self, module: Module, kernel: Optional[Kernel]) -> str:
        """Return a digest of all that counts of a source. Raises Problem."""
        raise NotImplementedError

    def copy(self, order: CopyOrder) -> Optional[Path]:
        """Copy a source; returns what is to be unpacked into the directory, if anything. Raises Problem."""
        raise NotImplementedError

    def notes(self, module: Module) -> tuple[str, ...]:
        """Return what a module's file lets pass of such a source, fit to print."""
        return ()


class PlaceKind(SourceKind):
    """A source at one place on the disk, whatever the kernel."""

    def __init__(self, sysroot: Sysroot, digests: ContentDigests) -> None:
        self.sysroot = sysroot
        self.digests = digests

    def place(self, module: Module) -> str:
        """Return the in-root path of the source."""
        return module.file.source.place

    def check_type(self, where: str, found: Reached) -> None:
        """Raise Problem where there is something else. where: what messages call it."""
        raise NotImplementedError

    def contents(self, found: Reached) -> Contents:
        """Return what the source holds. Raises OSError, Problem source-too-large."""
        raise NotImplementedError

    @contextlib.contextmanager
    def find(self, module: Module, kernel: Optional[Kernel]) -> Iterator[Reached]:
        """Give a module's source. Raises Problem source-missing, source-unreadable and what check_type raises."""
        source = module.file.source
        where = f"{module.path}: source.{source.kind}: {source.place}"
        try:
            reached = reach(self.sysroot, self.place(module))
        except FileNotFoundError:
            raise Problem("source-missing", f"{where} does not exist", "install the source or correct it") from None
        except OSError as error:
            raise Problem("source-unreadable", f"{where} cannot be read: {error.strerror}") from error
        with reached:
            self.check_type(where, reached)
            yield reached

    def identity(self, module: Module, kernel: Optional[Kernel]) -> str:
        """Return the sha256 of a source. Raises Problem, also source-unsafe, source-unreadable, source-too-large."""
        key = f"source.{module.file.source.kind}"
        with self.find(module, kernel) as top:
            try:
                found = self.contents(top)
                check_owners(module, key, found.weakness)
                return self.digests.digest(found)
            except OSError as error:
                text = f"{module.path}: {key}: {error.filename} cannot be read: {error.strerror}"
                raise Problem("source-unreadable", text, "make it readable for kmodd") from error


def check_planned(module: Module, key: str, digest: str, planned: Optional[str]) -> None:
    """Raise Problem source-changed where something that was copied is not what was planned with."""
    if planned not in (None, digest):
        raise changed(f"{module.path}: {key}")


def changed(what: str) -> Problem:
    """Return the problem of something that changed while it was copied."""
    return Problem(
        "source-changed", f"{what} changed while it was copied", "kmodd tries again by itself", transient=True
    )


@contextlib.contextmanager
def unswapped(doing: str, planned: bool) -> Iterator[None]:
    """Turn an OSError of the block into a Problem, one of something that vanishes or is replaced into source-changed.

    planned: it was all there a moment ago, so that whatever is wrong with it by now is a change, too.
    """
    try:
        yield
    except OSError as error:
        if error.errno in SWAPPED:
            raise changed(f"{doing}: {error.filename}") from error
        raise explain(error, doing) from error
    except Problem as problem:
        if planned and not problem.transient:
            raise changed(f"{doing}: {problem.message}; it") from problem
        raise
