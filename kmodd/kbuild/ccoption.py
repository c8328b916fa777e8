"""What a kernel's makefiles ask the compiler, asked once for a kernel instead of by every make.

Kbuild finds out which options a compiler takes by compiling an empty file with each, some thirty times whenever make
starts for a module, which for a small one takes longer than to compile it. All of cc-option, cc-disable-warning,
as-instr, ld-option and the like ask by one function, try-run: "$(call try-run, command, option-ok, otherwise)"
(scripts/Makefile.compiler, before Linux 5.13 scripts/Kbuild.include). An empty module is made once with a try-run that
tells which commands succeeded; builds get a try-run that knows these, letter for letter, and runs all others. It comes
before the kernel's own by MAKEFILES, and stays by override (GNU make manual, "The Variable MAKEFILES", "The override
Directive"). That a command failed is not remembered: it may have been for want of memory or space. Why:
docs/decisions/0002-cc-option.md.

Must not: learn from a build of a module, whose source could teach lies to others, or keep a build from going on.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.sysroot import Sysroot
from ..system.files import make_directory, replace_file, stat_signature
from ..system.log import get_logger
from ..system.run import find_program
from . import sandbox
from .compiler import Compiler
from .objects import find_files
from .workspace import SOURCE, Workspace

LIMIT = 120.0  # seconds that the empty module may take
INSIDE = f"{sandbox.WORK}/cc-option.mk"  # where make finds what is known
OWN = re.compile(rb"^[ \t]*(?:override[ \t]+|define[ \t]+)*try-run\b", re.MULTILINE)
MAKEFILES = re.compile(r"(?:GNU)?[Mm]akefile.*|Kbuild.*|.*\.mk|.*\.mak|.*\.make")
LARGEST = 1 << 20  # bytes of a makefile that are read
TOLD = re.compile(r"kmodd-took:(?P<word>[!-~]+)")
#: Commands are compared as single words of make, in which neither whitespace nor what make itself expands is left.
SPELLING = r"""
kmodd-empty :=
kmodd-space := $(kmodd-empty) $(kmodd-empty)
kmodd-tab := $(kmodd-empty)	$(kmodd-empty)
kmodd-hash := \#
kmodd-dollar := $$
kmodd-backslash := $(subst /,\,/)
define kmodd-newline


endef
kmodd-safe = $(subst $(kmodd-hash),!h,$(subst $(kmodd-backslash),!b,$(subst %,!p,$(subst !,!e,$(1)))))
kmodd-blank = $(subst $(kmodd-newline),!n,$(subst $(kmodd-tab),!t,$(subst $(kmodd-space),!s,$(kmodd-safe))))
kmodd-spell = $(subst $(kmodd-dollar),!d,$(kmodd-blank))
kmodd-run = $(shell d=$$(mktemp -d) || exit; trap 'rm -rf "$$d"' EXIT; TMP=$$d/tmp; TMPO=$$d/tmp.o; \
	if ($(1)) >/dev/null 2>&1; then echo y; fi)
"""
#: try-run of the empty module, and of builds. MAKEFILE_LIST is what it would be without this file.
ASKING = r"""
kmodd-tell = $(if $(2),$(info kmodd-took:$(kmodd-spell)))$(2)
override try-run = $(if $(call kmodd-tell,$(1),$(kmodd-run)),$(2),$(3))
MAKEFILE_LIST :=
"""
KNOWING = r"""
override try-run = $(if $(or $(filter $(kmodd-spell),$(kmodd-took)),$(kmodd-run)),$(2),$(3))
MAKEFILE_LIST :=
"""


class CompilerAnswers:
    """Keeps a makefile for each kernel in /var/cache/kmodd/cc-option. enter: gives an empty workspace for a kernel."""

    def __init__(self, sysroot: Sysroot, enter: Callable[[str, Kernel], AbstractContextManager[Workspace]]) -> None:
        self.sysroot = sysroot
        self.enter = enter
        self._asking: dict[str, asyncio.Lock] = {}
        self._vain: set[str] = set()  # what could not be asked

    async def find(self, kernel: Kernel, compiler: Compiler) -> Optional[Path]:
        """Return the makefile for a kernel and compiler, asking first where it is not there; None where that fails."""
        path = self.sysroot.below(self.sysroot.cache, "cc-option") / f"{kernel.release}.mk"
        async with self._asking.setdefault(kernel.release, asyncio.Lock()):
            identity = ""
            try:
                identity = self._identify(kernel, compiler)
                if identity not in self._vain and not _is_of(path, identity):
                    took = await self._ask(kernel, compiler)
                    words = " ".join(sorted(took))
                    replace_file(path, f"# {identity}\n{SPELLING}kmodd-took := {words}\n{KNOWING}".encode())
                    self._forget_removed(path.parent)
                    get_logger().debug("compiler asked", kernel=kernel.release, options=len(took))
            except (OSError, Problem) as error:
                self._vain.add(identity)  # it might last until it fails again
                get_logger().debug("compiler not asked", kernel=kernel.release, reason=str(error))
        return None if identity in self._vain else path

    def _forget_removed(self, directory: Path) -> None:
        for path in directory.glob("*.mk"):
            if not (self.sysroot.modules / path.stem).is_dir():
                path.unlink()

    def _identify(self, kernel: Kernel, compiler: Compiler) -> str:
        """Return a digest of all but the command itself that its success depends on. Raises OSError."""
        tree = self.sysroot.resolve(str(kernel.build_tree))
        beside = [Path(compiler.program).with_name(name) for name in ("as", "ld")]  # of a gcc-toolset
        programs = [compiler.program, find_program("as"), find_program("ld"), *(p for p in beside if p.exists())]
        signs = [stat_signature(Path(path)) for path in (*programs, tree / "Makefile") if path]
        text = repr((SPELLING, KNOWING, compiler.version, compiler.variables, str(kernel.build_tree), signs))
        return hashlib.sha256(text.encode()).hexdigest()

    async def _ask(self, kernel: Kernel, compiler: Compiler) -> set[str]:
        """Return the commands that succeeded, spelled, which a failed make also tells. Raises OSError and Problem."""
        with self.enter(f"cc-option.{kernel.release}", kernel) as workspace:
            source = workspace.scratch / "source"
            make_directory(source, durable=False)
            if os.geteuid() == 0:
                os.chown(source, *workspace.owner)
            texts = {source / "Makefile": "obj-m :=\n", workspace.scratch / Path(INSIDE).name: f"{SPELLING}{ASKING}"}
            for path, text in texts.items():
                path.write_text(text)
                path.chmod(0o644)
            words = ["make", "-C", str(kernel.build_tree), f"M={SOURCE}", *compiler.variables, "modules"]
            await workspace.run(words, timeout=LIMIT, env={"MAKEFILES": INSIDE})
            return {found["word"] for found in map(TOLD.fullmatch, workspace.log.read_text().splitlines()) if found}


def has_own(source: Path) -> bool:
    """Tell whether a makefile below a directory defines a try-run, which may mean something else there."""
    try:
        for path in find_files(source):
            if MAKEFILES.fullmatch(path.name):
                with path.open("rb") as stream:
                    if OWN.search(stream.read(LARGEST)):
                        return True
    except Problem:  # too large to tell
        return True
    return False


def _is_of(path: Path, identity: str) -> bool:
    try:
        with path.open() as stream:
            return stream.readline() == f"# {identity}\n"
    except FileNotFoundError:
        return False
