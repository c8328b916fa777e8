"""Modules' sources: the table of their kinds, their identities, and private copies of them to build in.

The sources themselves are never written to. Must not: run anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Optional

from ..core.model import Kernel
from ..core.modulefile import Module, Patch
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.files import make_directory
from ..system.reading import Reached
from . import symvers
from .archive import Archive, ArchiveSource
from .digests import ContentDigests
from .directory import DirectorySource
from .dkmssource import DkmsSource
from .intreesource import IntreeSource
from .kernelsource import KernelSources
from .kind import CopyOrder, Owner, SourceKind, check_planned, unswapped
from .patchfiles import read_patches


class SourceReader:
    """Identifies and copies the sources of one root; what did not change is not read again."""

    def __init__(self, sysroot: Sysroot, settings: Optional[SettingsSource] = None) -> None:
        """settings: without them, the defaults."""
        self.sysroot = sysroot
        self.digests = digests = ContentDigests(sysroot)
        self.kernel = KernelSources(
            sysroot, lambda reached: digests.digest(Archive(reached)), settings or SettingsSource()
        )
        #: By the key of the module file that says where the source is (Source.kind).
        self.kinds: Mapping[str, SourceKind] = {
            "path": DirectorySource(sysroot, digests),
            "archive": ArchiveSource(sysroot, digests),
            "dkms": DkmsSource(sysroot, digests),
            "kernel": IntreeSource(self.kernel),
        }

    def kind(self, module: Module) -> SourceKind:
        """Return the kind of a module's source."""
        return self.kinds[module.file.source.kind]

    def find(self, module: Module, kernel: Optional[Kernel] = None) -> AbstractContextManager[Reached]:
        """Give the file or directory that a module's source is in. Raises Problem."""
        return self.kind(module).find(module, kernel)

    def identity(self, module: Module, kernel: Optional[Kernel] = None) -> str:
        """Return a digest of all that counts of a source. Raises Problem.

        kernel: which one it is built for, where its source is the kernel's own.
        """
        return self.kind(module).identity(module, kernel)

    def patches_identity(self, module: Module, release: str) -> str:
        """Return the sha256 of the patches that apply to a kernel, "" where there are none. Raises Problem."""
        return read_patches(self.sysroot, module, release)[0]

    def remember(self) -> None:
        """Keep the identities for the next process, where the cache can be written."""
        self.digests.remember()

    def copy(
        self,
        module: Module,
        destination: Path,
        owner: Owner,
        planned: Optional[str] = None,
        kernel: Optional[Kernel] = None,
        patched: Collection[str] = (),
    ) -> Optional[Path]:
        """Copy a source to a directory that does not exist yet, as of SourceKind.copy."""
        return self.kind(module).copy(CopyOrder(module, destination, owner, planned, kernel, patched))

    def copy_beside(
        self, module: Module, release: str, directory: Path, planned: Optional[Mapping[str, str]]
    ) -> tuple[list[tuple[Path, Patch]], list[Path]]:
        """Copy what a module has beside its source, patches and build.symvers, to a new directory.

        planned: the identities, as inputs of the build; None: whatever they are. Returns the copies. Raises Problem,
        also source-changed.
        """
        with unswapped(f"copying the patches of {module.name}", True):
            make_directory(directory, durable=False)
            digest, patches = read_patches(self.sysroot, module, release, directory)
            check_planned(module, "source.patches", digest, None if planned is None else planned["patches"])
            digest, others = symvers.copy(self.sysroot, module, release, directory)
            check_planned(module, "build.symvers", digest, None if planned is None else planned.get("symvers", ""))
        return patches, others
