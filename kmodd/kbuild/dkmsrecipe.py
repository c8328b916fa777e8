"""The build method of a dkms.conf: its lines as argv of bash, and the objects that it names.

Must not: run anything.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core.errors import Problem
from ..core.modulefile import Module, Patch
from ..core.recipe import DKMS_TREE, MAKE_FLAGS, Recipe
from . import failure
from .buildmethod import Collected, Method, Step
from .failure import find_error
from .objects import is_plain


class DkmsMethod(Method):
    """Runs the lines of a dkms.conf, as DKMS does, each in a shell of its own."""

    @staticmethod
    def is_for(module: Module) -> bool:
        return module.file.source.dkms is not None

    @property
    def recipe(self) -> Recipe:
        """Return what the conf comes to."""
        assert self.spec.recipe is not None  # the probe of inputs has made it of the conf
        return self.spec.recipe

    def patches(self) -> tuple[list[tuple[Path, Patch]], str]:
        return patches(self.recipe, self.spec.top), f"{self.spec.module.file.source.dkms}: PATCH"

    def steps(self, symvers: list[str]) -> Iterator[Step]:
        spec = self.spec
        compilers = dict(item.split("=", 1) for item in spec.compiler.variables)
        words = f"-- {' '.join(spec.compiler.variables)}"
        # Only the leading make takes part in the jobs, since DKMS gives -j to that alone.
        self.env = {**compilers, "MAKEFLAGS": f" {words}"}
        if symvers:
            self.env["KBUILD_EXTRA_SYMBOLS"] = " ".join(symvers)
        tree = str(spec.kernel.build_tree)
        self.variables = {
            "kernelver": spec.kernel.release,
            "arch": spec.kernel.architecture,
            "kernel_source_dir": tree,
            "kernel_config": f"{tree}/.config",
            "dkms_tree": DKMS_TREE,
            "source_tree": "/usr/src",
            "install_tree": "/lib/modules",
            "module": self.recipe.name,
            "module_version": self.recipe.version,
            "parallel_jobs": str(self.jobs),
            MAKE_FLAGS: f"{spec.share.flags} {words}",
        }
        yield from self._step(self.recipe.before)
        yield from self._step(self.recipe.make)

    def _step(self, line: str) -> Iterator[Step]:
        """Yield what runs a line, with the variables of DKMS's own shell, which are not exported there either."""
        if line:
            words = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.variables.items())
            argv = ["bash", "--noprofile", "--norc", "-c", f"{words}\n{line}"]
            place = self.recipe.place
            yield Step(argv, place, self.env, writable=((self.spec.top, place),), shown=line)

    def collect(self, begun: int) -> Collected:
        top, where = self.spec.top, self.sysroot.inside(self.spec.log)
        objects = collect(self.recipe, top, failure.read(self.spec.log, begun), where)
        kept = tuple(path for path, item in zip(objects, self.recipe.objects) if not item.strip)
        return Collected(objects, [self.directory, *(path.parent for path in objects)], unstripped=kept)

    def keep(self, objects: list[Path]) -> list[Path]:
        return copy_objects(self.recipe, objects, self.spec.scratch / "objects")

    def last_steps(self) -> Iterator[Step]:
        return self._step(self.recipe.after)


def patches(recipe: Recipe, top: Path) -> list[tuple[Path, Patch]]:
    """Return the conf's patches in the copy of its source at top. Raises Problem patch-missing.

    patch(1) tolerates fuzz 2 by default, as it does for DKMS.
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


def copy_objects(recipe: Recipe, objects: Sequence[Path], directory: Path) -> list[Path]:
    """Copy objects, under the names that they are installed by, to where the build cannot change them any more."""
    directory.mkdir(mode=0o755)
    copies = []
    for item, path in zip(recipe.objects, objects):
        copies.append(directory / f"{item.name}.ko")
        shutil.copyfile(path, copies[-1], follow_symlinks=False)
    return copies
