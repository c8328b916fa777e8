"""A directory as a source: source.path. Must not: write to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..system.reading import Reached
from . import tree
from .kind import CopyOrder, PlaceKind, check_planned, unswapped


class DirectorySource(PlaceKind):
    """Names, kinds, executable bits and contents of all that counts of a directory."""

    def check_type(self, where: str, found: Reached) -> None:
        if not found.is_directory:
            text = f"{where} is not a directory"
            raise Problem("source-not-directory", text, "name the directory of its Makefile")

    def contents(self, found: Reached) -> tree.Tree:
        return tree.Tree(found)

    def copy(self, order: CopyOrder) -> Optional[Path]:
        module = order.module
        doing = f"copying the source of {module.name}"
        with unswapped(doing, order.planned is not None), self.find(module, order.kernel) as top:
            descriptor = top.open()
            try:
                digest = tree.copy(descriptor, top.path, top.reader, order.destination, order.owner)
            finally:
                os.close(descriptor)
        check_planned(module, f"source.{module.file.source.kind}", digest, order.planned)
        return None
