"""What a build method is: how a copy of a source is prepared, what is run for it, and which objects that yields.

Each method has a module of its own here, and a row in the table of methods.py. Must not: run anything, which the
builder does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Module, Patch
from ..core.recipe import Recipe
from ..core.sysroot import Sysroot
from .compiler import Compiler
from .jobserver import Share
from .objects import collect_objects
from .workspace import SOURCE


@dataclass(frozen=True)
class BuildSpec:
    """What one build is given. Paths are the host's.

    scratch: its directory, with a copy of the source in source/. log: what it appends to. share: of the jobserver.
    symvers: others' Module.symvers. patches: copies, in order. patched: paths in the kernel's source that they touch.
    archive: what is to be unpacked into source/. recipe: of the source's dkms.conf.
    """

    module: Module
    kernel: Kernel
    compiler: Compiler
    scratch: Path
    log: Path
    share: Share
    symvers: tuple[Path, ...] = ()
    patches: tuple[tuple[Path, Patch], ...] = ()
    patched: tuple[str, ...] = ()
    archive: Optional[Path] = None
    recipe: Optional[Recipe] = None

    @property
    def top(self) -> Path:
        """Return the copy of the source."""
        return self.scratch / "source"


@dataclass(frozen=True)
class Step:
    """One program that a build runs. directory, writable: as of Workspace.run. shown: a line for the log before it."""

    argv: Sequence[str]
    directory: str = SOURCE
    env: Mapping[str, str] = field(default_factory=dict)
    writable: tuple[tuple[Path, str], ...] = ()
    shown: str = ""


@dataclass(frozen=True)
class Collected:
    """What a build left in the copy of the source.

    symvers: directories where a Module.symvers may be. most: how many of these count, None for all. unstripped: objects
    that keep their debug symbols.
    """

    objects: list[Path]
    symvers: list[Path]
    most: Optional[int] = None
    unstripped: tuple[Path, ...] = ()


class Method:
    """One way to build, for one build. owner: uid and gid of what runs. jobs: how many may run at once."""

    def __init__(self, spec: BuildSpec, sysroot: Sysroot, owner: tuple[int, int], jobs: int) -> None:
        self.spec = spec
        self.sysroot = sysroot
        self.owner = owner
        self.jobs = jobs

    @staticmethod
    def is_for(module: Module) -> bool:
        """Tell whether a module is built so."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Complete the copy of the source, before patches are applied. Raises Problem."""

    def patches(self) -> tuple[list[tuple[Path, Patch]], str]:
        """Return patches that the source itself wants to be applied last, and what says so. Raises Problem."""
        return [], ""

    def steps(self, symvers: list[str]) -> Iterable[Step]:
        """Yield what is run, one after the other. symvers: those of others, as seen inside. Raises Problem."""
        raise NotImplementedError

    def collect(self, begun: int) -> Collected:
        """Return what the steps left. begun: where their output begins in the log. Raises Problem."""
        raise NotImplementedError

    def keep(self, objects: list[Path]) -> list[Path]:
        """Put objects where the last steps cannot change them; returns their paths there."""
        return objects

    def last_steps(self) -> Iterable[Step]:
        """Yield what is run when the objects are kept."""
        return ()

    # -- what several methods need ---------------------------------------------------------------------------------
    @property
    def directory(self) -> Path:
        """Return where build.directory is in the copy of the source."""
        return self.spec.top / self.spec.module.file.build.directory

    def check_directory(self) -> None:
        """Raise Problem build-directory-missing unless build.directory is there."""
        if not self.directory.is_dir():
            module = self.spec.module
            text = f"{module.path}: build.directory: {module.file.build.directory} is not a directory of the source"
            raise Problem("build-directory-missing", text, "correct it, or source.strip", transient=False)

    def objects(self, directories: Sequence[Path]) -> list[Path]:
        """Return the objects that are to be installed. directories: where make ran. Raises Problem."""
        spec = self.spec
        return collect_objects(spec.module, spec.top, directories, self.sysroot.inside(spec.log))

    def fill(self, word: str) -> str:
        """Return a word with its placeholders, such as {kernel}, filled in as seen inside."""
        kernel = self.spec.kernel
        values = {
            "kernel": kernel.release,
            "build_tree": str(kernel.build_tree),
            "jobs": str(self.jobs),
            "source": SOURCE,
        }
        for name, value in values.items():
            word = word.replace(f"{{{name}}}", value)
        return word
