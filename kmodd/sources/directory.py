"""A directory as a source: source.path. Must not: write to it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Module
from ..system.reading import Reached
from . import tree
from .kind import Owner, PlaceKind, check_planned, unswapped


class DirectorySource(PlaceKind):
    """Names, kinds, executable bits and contents of all that counts of a directory."""

    def check_type(self, where: str, found: Reached) -> None:
        if not found.is_directory:
            text = f"{where} is not a directory"
            raise Problem("source-not-directory", text, "name the directory of its Makefile")

    def contents(self, found: Reached) -> tree.Tree:
        return tree.Tree(found)

    def copy(
        self,
        module: Module,
        kernel: Optional[Kernel],
        destination: Path,
        owner: Owner,
        planned: Optional[str],
        patched: Collection[str],
    ) -> Optional[Path]:
        with unswapped(f"copying the source of {module.name}", planned is not None), self.find(module, kernel) as top:
            descriptor = top.open()
            try:
                digest = tree.copy(descriptor, top.path, top.reader, destination, owner)
            finally:
                os.close(descriptor)
        check_planned(module, f"source.{module.file.source.kind}", digest, planned)
        return None
