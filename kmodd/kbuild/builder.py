"""One build: make in the sandbox, then the objects that it yielded, checked as the hostile input that they may be.

Must not: copy sources, sign, install, retry, or remember anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.deleting import delete_tree
from ..system.files import explained, make_directory
from ..system.threads import finish_in_thread
from . import ccoption, failure, owncommand, sandbox
from .buildmethod import BuildSpec, Collected, Method, Step
from .compiler import Compiler
from .jobserver import Jobserver
from .methods import find_method
from .objects import UNSTRIPPED, Limits, check_object, check_sizes, read_symvers
from .patches import apply
from .unpack import unpack
from .workspace import Workspace


@dataclass(frozen=True)
class BuildResult:
    """What a build yielded: objects by file (name.ko, host paths in the scratch directory), and its Module.symvers."""

    objects: tuple[Path, ...]
    symvers: bytes  # of all directories that make ran for
    warnings: tuple[str, ...] = ()


class Builder:
    """Builds under one jobserver, by the settings' table build."""

    def __init__(self, sysroot: Sysroot, jobserver: Jobserver, settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.jobserver = jobserver
        self.settings = settings
        self.owners: dict[Path, tuple[int, int]] = {}  # of the scratch directories in use
        self.answers = ccoption.CompilerAnswers(sysroot, self._empty_workspace)

    @property
    def limits(self) -> Limits:
        """Return what bounds a build's log and objects."""
        table = self.settings.now.build
        return Limits(table.largest_object, table.most_objects, table.largest_log)

    def make_scratch(self, name: str) -> Path:
        """Make an empty scratch directory of a user that no other build has now. Raises Problem."""
        scratch = self.sysroot.scratch / name
        owner = sandbox.free_owner(self.settings.now.build.user, self.owners.values())
        with explained(f"making {self.sysroot.inside(scratch)}"):
            delete_tree(scratch)
            make_directory(self.sysroot.scratch, 0o700, durable=False)
            for path in (scratch, scratch / "tmp", scratch / "symvers"):
                make_directory(path, durable=False)  # others cannot come here, the parent is root's alone
            if os.geteuid() == 0:
                os.chown(scratch / "tmp", *owner)  # where kmodd itself writes later, builds must not
        self.owners[scratch] = owner
        return scratch

    def drop_scratch(self, scratch: Path) -> None:
        """Delete a scratch directory."""
        self.owners.pop(scratch, None)
        delete_tree(scratch)

    @contextlib.contextmanager
    def _empty_workspace(self, name: str, kernel: Kernel) -> Iterator[Workspace]:
        """Give a workspace in which there is nothing yet, its log included, and drop it at the end. Raises Problem."""
        scratch = self.make_scratch(name)
        try:
            log = scratch / "log"
            log.touch(mode=0o600)
            yield Workspace(self.sysroot, scratch, self.owners[scratch], kernel, log)
        finally:
            self.drop_scratch(scratch)

    async def build(self, spec: BuildSpec) -> BuildResult:
        """Build the copy of a source.

        Raises Problem archive-*, patch-*, build-directory-missing, command-missing, build-failed, build-timeout,
        no-objects, object-missing, object-invalid, kernel-source-makefile and the transient ones of `failure`.
        """
        workspace = self._make_workspace(spec)
        method = find_method(spec.module)(spec, self.sysroot, workspace.owner, self.jobserver.jobs)
        source = spec.module.file.source
        if spec.archive is not None:
            name = f"{spec.module.path}: source.{source.kind}: {source.place}"
            await unpack(workspace, spec.archive, name, 1 if source.strip is None else source.strip)
        await finish_in_thread(method.prepare)
        warnings = await self._patch(spec, workspace, method)
        symvers = _copy_symvers(spec)
        workspace.say(f"{spec.module.name} for {spec.kernel.release}, compiler {spec.compiler.version}")
        if spec.compiler.mismatch:
            workspace.say(spec.compiler.mismatch)
        workspace = await self._inform(workspace, spec.compiler)
        begun = spec.log.stat().st_size
        until = time.monotonic() + spec.module.file.build.timeout
        for step in method.steps(symvers):
            await self._run_step(workspace, step, spec, until)
        found = await asyncio.to_thread(method.collect, begun)
        await self._check(spec, workspace, found)
        symbols = await asyncio.to_thread(read_symvers, spec.top, list(dict.fromkeys(found.symvers)), found.most)
        objects = await finish_in_thread(method.keep, found.objects)
        for step in method.last_steps():
            await self._run_step(workspace, step, spec, until)
        return BuildResult(tuple(objects), symbols, tuple(warnings))

    def _make_workspace(self, spec: BuildSpec) -> Workspace:
        return Workspace(
            self.sysroot,
            spec.scratch,
            self.owners[spec.scratch],
            spec.kernel,
            spec.log,
            spec.share,
            self.limits.log,
        )

    async def _patch(self, spec: BuildSpec, workspace: Workspace, method: Method) -> list[str]:
        """Apply all patches; returns what the build warns of from its beginning. Raises Problem."""
        faults = await apply(workspace, spec.patches, f"{spec.module.path}: source.patches")
        patches, said_by = method.patches()
        if patches:
            faults += await apply(workspace, patches, said_by)
        warnings = [f"{fault.message}: {fault.hint} ({fault.problem})" for fault in faults]
        warnings += [f"dkms.conf printed: {spec.recipe.said}"] if spec.recipe and spec.recipe.said else []
        return warnings + ([spec.compiler.mismatch] if spec.compiler.mismatch else [])

    async def _check(self, spec: BuildSpec, workspace: Workspace, found: Collected) -> None:
        """Strip objects of their debug symbols where that is asked for, and check them all. Raises Problem."""
        is_stripped = spec.module.file.build.strip
        check_sizes(found.objects, self.limits, UNSTRIPPED if is_stripped else 1)
        if is_stripped:
            chosen = [path for path in found.objects if path not in found.unstripped]
            names = [f"{sandbox.WORK}/{path.relative_to(spec.scratch)}" for path in chosen]
            if names and await workspace.run(["strip", "--strip-debug", *names]) != 0:
                text = "strip could not remove the debug symbols"
                hint = f"the whole log: {self.sysroot.inside(spec.log)}"
                raise Problem("strip-failed", text, hint, transient=False)
        check_sizes(found.objects, self.limits)
        for path in found.objects:
            check_object(path)

    async def _inform(self, workspace: Workspace, compiler: Compiler) -> Workspace:
        """Return the workspace in which make knows the compiler's options, unless the source asks for them itself."""
        is_asked_once = self.settings.now.build.cc_option_cache
        if not is_asked_once or await asyncio.to_thread(ccoption.has_own, workspace.scratch / "source"):
            return workspace
        answers = await self.answers.find(workspace.kernel, compiler)
        if answers is None:
            return workspace
        copy = workspace.scratch / Path(ccoption.INSIDE).name
        shutil.copyfile(answers, copy)
        copy.chmod(0o644)
        workspace.say(f"MAKEFILES={ccoption.INSIDE} has what the compiler is known to take (build.cc_option_cache)")
        return replace(workspace, makefiles=ccoption.INSIDE)

    async def _run_step(self, workspace: Workspace, step: Step, spec: BuildSpec, until: float) -> None:
        """Run make, or what a module has instead. until: time.monotonic() when it must have ended.

        Raises Problem build-failed, build-timeout, command-missing and the transient ones of `failure`.
        """
        if step.shown:
            workspace.say(step.shown)
        workspace.say(shlex.join(step.argv))
        log, where = workspace.log, self.sysroot.inside(workspace.log)
        begun, before = log.stat().st_size, time.monotonic()
        try:
            limit = max(until - before, 0.1)
            status = await workspace.run(
                step.argv,
                timeout=limit,
                directory=step.directory,
                env=step.env,
                jobs=True,
                writable=step.writable,
                raw=True,
            )
        except Problem as problem:
            if problem.code != "tool-timeout":
                raise
            text = f"the build did not end within {spec.module.file.build.timeout:g} s (build.timeout) and was killed"
            raise Problem("build-timeout", text, f"the whole log: {where}", transient=False) from None
        if status != 0:
            owncommand.check_started(await asyncio.to_thread(failure.read, log, begun))
        workspace.say(f"{step.argv[0]} ended with exit status {status} after {time.monotonic() - before:.1f} s")
        if status != 0:
            raise await asyncio.to_thread(failure.explain, log, status, where, begun)


def _copy_symvers(spec: BuildSpec) -> list[str]:
    """Copy others' Module.symvers to where the build reads them; returns their paths as seen inside."""
    inside = []
    for number, path in enumerate(spec.symvers):
        copy = spec.scratch / "symvers" / str(number)
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
        inside.append(f"{sandbox.WORK}/symvers/{number}")
    return inside
