"""The build method for parts of the kernel's own source: make runs for them in an overlay of the build tree.

Must not: run anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..core.modulefile import Module
from ..core.sysroot import Sysroot
from .buildmethod import BuildSpec, Collected, Method, Step
from .overlay import Overlay, Part
from .plainkbuild import make_argv
from .workspace import SOURCE


class IntreeMethod(Method):
    """Builds each part as the kernel's own build would; a later part sees the symbols of earlier ones."""

    def __init__(self, spec: BuildSpec, sysroot: Sysroot, owner: tuple[int, int], jobs: int) -> None:
        super().__init__(spec, sysroot, owner, jobs)
        self.overlay = Overlay(sysroot, spec.kernel, spec.top, owner)
        self.parts: list[Part] = []

    @staticmethod
    def is_for(module: Module) -> bool:
        return bool(module.file.source.kernel)

    def prepare(self) -> None:
        self.overlay.complete(self.spec.module, self.spec.patched, self.spec.symvers)

    def steps(self, symvers: list[str]) -> Iterator[Step]:
        self.parts = self.overlay.parts(self.spec.module)
        for part in self.parts:
            yield Step(make_argv(self, SOURCE, part.directory, symvers))
            symvers.append(f"{SOURCE}/{part.directory}/Module.symvers")

    def collect(self, begun: int) -> Collected:
        directories = [self.spec.top / part.directory for part in self.parts]
        return Collected(self.objects(directories), directories)
