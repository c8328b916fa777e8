"""The build method of a project that brings its own way to build: build.command of its module file.

Must not: run anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from ..core.errors import Problem
from ..core.modulefile import Module
from .buildmethod import Collected, Method, Step
from .compiler import Compiler
from .workspace import SOURCE

#: What setpriv(1), and bwrap(1) where kmodd is not root, say of a program that cannot be started.
NOT_STARTED = re.compile(r"(?:setpriv: failed to execute|bwrap: execvp) (?P<program>.+): (?P<why>[^:\n]+)")
LONGEST = 5000  # characters of such a line, which has a path in it


class CommandMethod(Method):
    """Runs build.command instead of make."""

    @staticmethod
    def is_for(module: Module) -> bool:
        return bool(module.file.build.command)

    def steps(self, symvers: list[str]) -> Iterator[Step]:
        self.check_directory()
        spec, build = self.spec, self.spec.module.file.build
        directory = os.path.normpath(f"{SOURCE}/{build.directory}")
        env = environment(spec.compiler, symvers, spec.share.flags)
        for argv in build.command:
            yield Step([self.fill(word) for word in argv], directory, env)

    def collect(self, begun: int) -> Collected:
        objects = self.objects([self.directory])
        return Collected(objects, [self.directory, *(path.parent for path in objects)], most=1)


def environment(compiler: Compiler, symvers: Sequence[str], makeflags: str) -> dict[str, str]:
    """Return what the steps get that make gets on its command line.

    The kernel's Makefile sets CC itself, so that only what MAKEFLAGS carries on reaches it, "as if it were on the
    command line" (GNU make manual, "Communicating Options to a Sub-make").
    """
    variables = dict(item.split("=", 1) for item in compiler.variables)
    words = {"MAKEFLAGS": " ".join([makeflags, "--", *compiler.variables])} if variables else {}
    return {**variables, **words, **({"KBUILD_EXTRA_SYMBOLS": " ".join(symvers)} if symvers else {})}


def check_started(said: str) -> None:
    """Raise Problem where the last line of what a step said is that its program could not be started.

    command-missing: a program of the source; tool-missing: one of the system.
    """
    found = NOT_STARTED.fullmatch(said.strip().rpartition("\n")[2][-LONGEST:])
    if found is None:
        return
    program, why = found["program"], found["why"]
    if "/" in program:
        text = f"build.command: {program} cannot be run: {why}"
        hint = "correct build.command, build.directory or source.strip"
        raise Problem("command-missing", text, hint, transient=False)
    raise Problem("tool-missing", f"{program}, which the build runs, is not installed", "install it", transient=True)
