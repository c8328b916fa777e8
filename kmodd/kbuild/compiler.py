"""Which compiler builds modules for a kernel: the one it was built with where that is here, else the nearest.

Must not: build anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.sysroot import TOOLSETS
from ..system.files import stat_signature
from ..system.run import find_program, run

_MAJOR = re.compile(r"(\d+)\.\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Compiler:
    """A compiler: its program, the first line of its --version, make variables, and what differs from the kernel's."""

    program: str
    version: str
    variables: tuple[str, ...]
    mismatch: str = ""


def _major(text: str) -> str:
    found = _MAJOR.findall(text)
    return found[-1] if found else ""


class CompilerFinder:
    """Finds compilers; versions are kept by the program's stat data."""

    def __init__(self) -> None:
        self._versions: dict[str, tuple[object, str]] = {}

    async def _version(self, program: str) -> str:
        key = stat_signature(Path(program))
        known = self._versions.get(program)
        if not known or known[0] != key:
            said = (await run([program, "--version"], timeout=20)).text.splitlines()
            known = self._versions[program] = (key, said[0].strip() if said else "")
        return known[1]

    async def find(self, built_with: str) -> Compiler:
        """Return the compiler for a kernel whose CONFIG_CC_VERSION_TEXT is built_with.

        Raises Problem tool-missing where there is no compiler of its kind at all.
        """
        clang = "clang" in built_with
        first = built_with.split()[0] if built_with else ""
        major = _major(built_with)
        kind = "clang" if clang else "gcc"
        names = [first.rpartition("-gnu-")[2] if "-gnu-" in first else first, f"{kind}-{major}", kind]
        programs = [find_program(name) for name in dict.fromkeys(names) if name and "/" not in name]
        programs.append(f"{TOOLSETS}/{kind}-toolset-{major}/root/usr/bin/{kind}")
        best: Optional[tuple[int, str, str]] = None
        for program in programs:
            if program is None or not Path(program).exists():
                continue
            version = await self._version(program)
            same_text = _comparable(version) == _comparable(built_with)
            rank = 0 if same_text else 1 if _major(version) == major else 2
            if best is None or rank < best[0]:
                best = (rank, program, version)
        if best is None:
            hint = f"dnf install {kind}"
            raise Problem("compiler-missing", f"no {kind} is installed to build modules with", hint, transient=True)
        rank, program, version = best
        mismatch = ""
        if built_with and rank == 2:
            mismatch = f"the kernel was built with {built_with}, the module with {version}"
        found = program if program.startswith(TOOLSETS) else Path(program).name  # the sandbox has a PATH of its own
        variables = ("LLVM=1",) if clang else (f"CC={found}",)
        return Compiler(program, version, variables, mismatch)


def _comparable(version: str) -> str:
    """Return a compiler's version line without the program's own name."""
    return version.partition(" ")[2].strip()
