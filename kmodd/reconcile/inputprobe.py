"""The probe of what targets are built from: dkms.conf, source, patches, build tree, compiler. Must not: build."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import REFUSED, Kernel, Target
from ..core.modulefile import Module
from ..core.planner import find_exclusion
from ..core.recipe import Recipe
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..dkms.conf import ConfReader
from ..dkms.conffiles import is_adopted
from ..kbuild.compiler import Compiler, CompilerFinder
from ..kbuild.evaluation import evaluate
from ..sources import SourceReader
from ..sources.digests import DigestCache
from ..sources.ownership import check_owners
from ..sources.symvers import symvers_identity
from ..system.reading import reach
from .kernelprobe import TOOLS, KernelProbe
from .observation import Observation
from .srpmsignatures import Signatures

#: Problems that say nothing of what was to be read: it is read again after a pause, though nothing changes.
ACCIDENTS = (*TOOLS, "build-tree-unreadable", "dkms-conf-timeout", "module-file-unreadable", "source-unreadable")
#: What is said of a module with source.trust_owner.
TRUSTING = "source.trust_owner is set: whoever can change its source decides what is signed"
#: Of a build tree, what is checked for who may change it: what every build reads first.
BUILD_TREE = ("Makefile", "scripts/Makefile.build", "include/generated/autoconf.h", ".config", "Module.symvers")


class InputProbe:
    """Reads what the targets of one root are built from; what did not change is not read again."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource, kernels: KernelProbe) -> None:
        self.sysroot = sysroot
        self.kernels = kernels
        self.sources = SourceReader(sysroot, settings)
        self.digests = DigestCache()
        self.signatures = Signatures(sysroot, self.sources.kernel, settings)
        self.confs = ConfReader(sysroot, partial(evaluate, sysroot), self.sources.identity, self._digest, settings)
        self.compilers = CompilerFinder()

    # -- all targets -----------------------------------------------------------------------------------------------
    async def fill(self, seen: Observation) -> None:
        """Fill recipe, inputs, input_fault and notes of all targets that are to be built, if anything is."""
        wanted = find_wanted(seen)
        turn = asyncio.Semaphore(os.cpu_count() or 1)

        async def read_conf(target: Target) -> None:
            try:
                async with turn:
                    seen.rows[target].recipe = await self.recipe(seen.module(target), seen.kernels[target.kernel])
            except Problem as problem:
                self._fail(seen, target, problem)

        await asyncio.gather(*map(read_conf, wanted))
        for target in wanted:
            row = seen.rows[target]
            if row.input_fault is not None or (row.recipe is not None and row.recipe.excluded):
                continue
            try:
                row.inputs = await self.inputs(seen.module(target), seen.kernels[target.kernel], row.recipe)
            except Problem as problem:
                self._fail(seen, target, problem)
        self.sources.remember()
        self.confs.remember()
        _name_depends(seen)
        for target in wanted:
            row = seen.rows[target]
            row.notes = self._notes(seen.module(target))
            fault = row.input_fault
            if fault is not None and fault.problem in REFUSED and row.record is not None and row.record.installed:
                row.notes = (f"the next build will be refused: {fault.message}",)

    def _notes(self, module: Module) -> tuple[str, ...]:
        """Return what a module's file lets pass, fit to print."""
        trusting = (TRUSTING,) if module.file.source.trust_owner else ()
        return (*trusting, *self.sources.kind(module).notes(module))

    def _fail(self, seen: Observation, target: Target, problem: Problem) -> None:
        fault = seen.rows[target].input_fault = problem.fault
        is_unread = self.kernels.is_rpm_unread and problem.code == "kernel-source-unknown"  # it is rpm that knows it
        if is_unread or (problem.transient and problem.code in ACCIDENTS):
            seen.unseen[target] = fault

    # -- one target ------------------------------------------------------------------------------------------------
    async def compiler(self, kernel: Kernel) -> Compiler:
        """Return the compiler for a kernel. Raises Problem compiler-missing."""
        return await self.compilers.find(kernel.config.get("CONFIG_CC_VERSION_TEXT", ""))

    async def recipe(self, module: Module, kernel: Kernel) -> Optional[Recipe]:
        """Return what a module's dkms.conf comes to for a kernel; None where it has none. Raises Problem."""
        if not self.sources.kind(module).has_conf:
            return None
        for path in self.confs.overrides():
            with contextlib.suppress(FileNotFoundError), reach(self.sysroot, self.sysroot.inside(path)) as found:
                check_owners(module, "source.dkms", found.weakness)
        recipe = await self.confs.find(module, kernel)
        if is_adopted(module) and not recipe.autoinstall and not recipe.excluded:
            return recipe.model_copy(update={"excluded": "AUTOINSTALL is not yes"})
        return recipe

    async def inputs(self, module: Module, kernel: Kernel, recipe: Optional[Recipe]) -> Optional[dict[str, str]]:
        """Return what identifies a build but for its dependencies; None without a build tree. Raises Problem."""
        if kernel.build_tree is None:
            return None
        compiler = await self.compiler(kernel)
        if self.sources.kind(module).comes_as_package:
            await self.signatures.check(kernel)

        def read() -> dict[str, str]:
            parts = self._build_tree(module, str(kernel.build_tree))
            said = module.file.build.model_dump_json() + str([o.model_dump_json() for o in module.file.object])
            said += recipe.digest if recipe else ""
            others = symvers_identity(self.sysroot, module, kernel.release, self.digests.digest)
            return {
                **({"symvers": others} if others else {}),
                "source": self.sources.identity(module, kernel),
                "patches": self.sources.patches_identity(module, kernel.release),
                "module": hashlib.sha256(said.encode()).hexdigest(),
                "build_tree": hashlib.sha256("".join(parts).encode()).hexdigest(),
                "compiler": compiler.version,
            }

        return await asyncio.to_thread(read)

    async def have_changed(self, module: Module, kernel: Kernel, planned: Mapping[str, str]) -> bool:
        """Tell whether a target's own inputs are no longer what they were when its build was planned."""
        try:
            tree, _ = self.kernels.reader.find_build_tree(kernel.release, "")
            if tree != kernel.build_tree:
                return True
            now = await self.inputs(module, kernel, await self.recipe(module, kernel))
        except (Problem, OSError):
            return True
        return now is None or any(planned.get(name) != value for name, value in now.items())

    def _build_tree(self, module: Module, tree: str) -> list[str]:
        """Return the digests of a build tree's configuration and symvers. Raises Problem, also source-unsafe."""
        parts = []
        for name in BUILD_TREE:
            try:
                with reach(self.sysroot, f"{tree}/{name}") as found:
                    check_owners(module, "the build tree", found.weakness)
                    parts += [self.digests.digest(found)] if name in (".config", "Module.symvers") else []
            except FileNotFoundError:
                if name in (".config", "Module.symvers"):
                    raise Problem("build-tree-unreadable", f"{tree}/{name} does not exist") from None
            except OSError as error:
                raise Problem("build-tree-unreadable", f"{tree} cannot be read: {error.strerror}") from error
        return parts

    def _digest(self, path: Path) -> str:
        """Return the sha256 of a file of the root, a host path. Raises OSError."""
        with reach(self.sysroot, self.sysroot.inside(path)) as found:
            return self.digests.digest(found)


def find_wanted(seen: Observation) -> list[Target]:
    """Return the targets that are to be built: of enabled modules, on the kernels that they do not exclude."""
    return [
        Target(name, release)
        for release, kernel in seen.kernels.items()
        for name, module in seen.registry.modules.items()
        if kernel.present and module.enabled and not find_exclusion(module.file.kernels, kernel)
    ]


def _name_depends(seen: Observation) -> None:
    """Have BUILD_DEPENDS, which are PACKAGE_NAMEs, name registered modules."""
    modules = seen.registry.modules
    recipes = {target: row.recipe for target, row in sorted(seen.rows.items()) if row.recipe is not None}
    owners = {recipe.name: target.module for target, recipe in reversed(recipes.items())}
    for target, recipe in recipes.items():
        depends = tuple(name if name in modules else owners.get(name, name) for name in recipe.depends)
        seen.rows[target].recipe = recipe.model_copy(update={"depends": depends})
