"""Parts of the target kernel's own source as a source: source.kernel. Must not: unpack the source RPM."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ..core.model import Kernel
from ..core.modulefile import Module
from ..system.reading import Reached
from .kernelsource import KernelSources
from .kind import CopyOrder, SourceKind


class IntreeSource(SourceKind):
    """The source RPM of a kernel, and which paths in it a module names."""

    comes_as_package = True

    def __init__(self, sources: KernelSources) -> None:
        self.sources = sources

    def find(self, module: Module, kernel: Optional[Kernel]) -> Reached:
        assert kernel is not None
        return self.sources.require(kernel)

    def identity(self, module: Module, kernel: Optional[Kernel]) -> str:
        assert kernel is not None
        return self.sources.identity(module, kernel)

    def copy(self, order: CopyOrder) -> Optional[Path]:
        assert order.kernel is not None and order.owner is not None
        self.sources.check_kept(order.module, order.kernel, order.planned)
        self.sources.copy_part(order.module, order.kernel, order.patched, order.destination, order.owner)
        return None
