"""What runs instead of make where a project brings its own way to build: the argv and the environment of each step.

Must not: run anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from ..core.errors import Problem
from ..core.modulefile import Build
from .compiler import Compiler
from .workspace import SOURCE

#: What setpriv(1), and bwrap(1) where kmodd is not root, say of a program that cannot be started.
NOT_STARTED = re.compile(r"(?:setpriv: failed to execute|bwrap: execvp) (?P<program>.+): (?P<why>[^:\n]+)")
LONGEST = 5000  # characters of such a line, which has a path in it


def fill(word: str, marks: Mapping[str, str]) -> str:
    """Return a word with its placeholders, such as {kernel}, filled in."""
    for mark, value in marks.items():
        word = word.replace(f"{{{mark}}}", value)
    return word


def steps(build: Build, marks: Mapping[str, str]) -> list[list[str]]:
    """Return the argv of build.command."""
    return [[fill(word, marks) for word in argv] for argv in build.command]


def directory(build: Build) -> str:
    """Return where the steps run, as seen inside."""
    return os.path.normpath(f"{SOURCE}/{build.directory}")


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
