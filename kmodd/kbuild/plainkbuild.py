"""The usual build method: Kbuild's own, as Documentation/kbuild/modules.rst of the kernel has it.

Must not: run anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Union

from ..core.modulefile import Module
from .buildmethod import Collected, Method, Step
from .workspace import SOURCE


def make_argv(
    method: Method, tree: str, directory: str, symvers: Sequence[str], config: Mapping[str, Union[str, int]] = {}
) -> list[str]:
    """Return make's argv for a directory, both as seen inside. config: symbols that the build tree lacks."""
    build = method.spec.module.file.build
    words = ["make", "-C", tree, f"M={directory}", *method.spec.compiler.variables]
    flags = []
    for symbol, value in config.items():
        words.append(f"{symbol}={value}")
        if value in ("m", "y"):
            flags.append(f"-D{symbol}{'_MODULE' if value == 'm' else ''}=1")
        elif value != "n":
            flags.append(f"-D{symbol}={value}")
    if flags:
        words.append(f"KCFLAGS={' '.join(flags)}")
    if symvers:
        words.append(f"KBUILD_EXTRA_SYMBOLS={' '.join(symvers)}")
    words += [method.fill(argument) for argument in build.arguments]
    return [*words, "modules"]


class KbuildMethod(Method):
    """Runs make in the kernel's build tree with M= the source."""

    @staticmethod
    def is_for(module: Module) -> bool:
        return True

    def steps(self, symvers: list[str]) -> Iterator[Step]:
        self.check_directory()
        build = self.spec.module.file.build
        inside = os.path.normpath(f"{SOURCE}/{build.directory}")
        yield Step(make_argv(self, str(self.spec.kernel.build_tree), inside, symvers, build.config))

    def collect(self, begun: int) -> Collected:
        objects = self.objects([self.directory])
        return Collected(objects, [self.directory, *(path.parent for path in objects)], most=1)
