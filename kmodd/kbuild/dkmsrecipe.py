"""What runs instead of make where a dkms.conf says how: its lines as argv of bash, and its objects.

Must not: run anything.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Patch
from ..core.recipe import DKMS_TREE, MAKE_FLAGS, Recipe
from .compiler import Compiler
from .failure import find_error
from .jobserver import Share
from .objects import is_plain


class Lines:
    """The lines of a conf for a kernel, as they are run. jobs: how many may run at once. symvers: as seen inside."""

    def __init__(
        self, recipe: Recipe, kernel: Kernel, compiler: Compiler, share: Share, jobs: int, symvers: Sequence[str]
    ) -> None:
        self.recipe = recipe
        compilers = dict(item.split("=", 1) for item in compiler.variables)
        words = f"-- {' '.join(compiler.variables)}"
        #: As command.environment, but that only the leading make takes part in the jobs: DKMS gives -j to that alone.
        self.environment = {**compilers, "MAKEFLAGS": f" {words}"}
        if symvers:
            self.environment["KBUILD_EXTRA_SYMBOLS"] = " ".join(symvers)
        tree = str(kernel.build_tree)
        self.variables = {
            "kernelver": kernel.release,
            "arch": kernel.architecture,
            "kernel_source_dir": tree,
            "kernel_config": f"{tree}/.config",
            "dkms_tree": DKMS_TREE,
            "source_tree": "/usr/src",
            "install_tree": "/lib/modules",
            "module": recipe.name,
            "module_version": recipe.version,
            "parallel_jobs": str(jobs),
            MAKE_FLAGS: f"{share.flags} {words}",
        }

    def argv(self, line: str) -> list[str]:
        """Return what runs a line, with the variables of DKMS's own shell, which are not exported there either."""
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.variables.items())
        return ["bash", "--noprofile", "--norc", "-c", f"{words}\n{line}"]


def patches(recipe: Recipe, top: Path) -> list[tuple[Path, Patch]]:
    """Return the conf's patches in the copy of its source at top. Raises Problem patch-missing.

    patch(1) tolerates fuzz 2 where it is not told otherwise, as by DKMS.
    """
    found = []
    for name in recipe.patches:
        path = top / "patches" / name
        if not is_plain(path, top):
            raise Problem("patch-missing", f"dkms.conf: PATCH: the source has no patches/{name}", transient=False)
        found.append((path, Patch(file=name.replace(" ", "_"), fuzz=2)))
    return found


def collect(recipe: Recipe, top: Path, said: str, where: str) -> list[Path]:
    """Return the objects that a conf names, as they were built below top.

    said: what the build printed, which is asked for the reason, since the last command of a line may hide a make that
    failed. where: the log's path. Raises Problem build-failed, object-missing.
    """
    found = []
    for item in recipe.objects:
        path = top / item.path / f"{item.built}.ko"
        if not is_plain(path, top):
            error = find_error(said)
            if error:
                raise Problem("build-failed", error["line"], f"the whole log: {where}", transient=False)
            text = f"the build succeeded but yielded no {item.path}/{item.built}.ko, which dkms.conf names"
            raise Problem("object-missing", text.replace("./", ""), f"the whole log: {where}", transient=False)
        found.append(path)
    return found


def take(recipe: Recipe, objects: Sequence[Path], directory: Path) -> list[Path]:
    """Copy objects, under the names that they are installed by, to where the build cannot change them any more."""
    directory.mkdir(mode=0o755)
    taken = []
    for item, path in zip(recipe.objects, objects):
        taken.append(directory / f"{item.name}.ko")
        shutil.copyfile(path, taken[-1], follow_symlinks=False)
    return taken
