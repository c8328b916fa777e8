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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Build, Module, Patch, canonical
from ..core.recipe import Recipe
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.deleting import delete_tree
from ..system.files import explained, make_directory
from . import ccoption, dkmsrecipe, failure, owncommand, sandbox
from .compiler import Compiler
from .jobserver import Jobserver, Share
from .objects import UNSTRIPPED, Limits, check_name, check_object, check_sizes, find_objects, is_plain, read_symvers
from .overlay import Overlay, Part
from .patches import apply
from .unpack import unpack
from .workspace import SOURCE, Workspace


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

    def make_words(
        self,
        module: Module,
        kernel: Kernel,
        compiler: Compiler,
        symvers: Sequence[str],
        part: Optional[Part] = None,
    ) -> list[str]:
        """Return make's argv as Documentation/kbuild/modules.rst gives it.

        part: what of an overlay, which has the configuration in itself.
        """
        build: Build = module.file.build
        directory = part.directory if part else os.path.normpath(f"{SOURCE}/{build.directory}")
        words = ["make", "-C", SOURCE if part else str(kernel.build_tree), f"M={directory}", *compiler.variables]
        flags = []
        for symbol, value in () if part else build.config.items():
            words.append(f"{symbol}={value}")
            if value in ("m", "y"):
                flags.append(f"-D{symbol}{'_MODULE' if value == 'm' else ''}=1")
            elif value != "n":
                flags.append(f"-D{symbol}={value}")
        if flags:
            words.append(f"KCFLAGS={' '.join(flags)}")
        if symvers:
            words.append(f"KBUILD_EXTRA_SYMBOLS={' '.join(symvers)}")
        words += [owncommand.fill(argument, self.marks(kernel)) for argument in build.arguments]
        return [*words, "modules"]

    def marks(self, kernel: Kernel) -> dict[str, str]:
        """Return what placeholders stand for, as seen inside."""
        tree = str(kernel.build_tree)
        return {"kernel": kernel.release, "build_tree": tree, "jobs": str(self.jobserver.jobs), "source": SOURCE}

    async def build(
        self,
        scratch: Path,
        module: Module,
        kernel: Kernel,
        compiler: Compiler,
        log: Path,
        share: Share,
        *,
        symvers: Sequence[Path] = (),
        patches: Sequence[tuple[Path, Patch]] = (),
        patched: Iterable[str] = (),
        recipe: Optional[Recipe] = None,
    ) -> BuildResult:
        """Build the copy in scratch/source, where an archive is unpacked first, and the kernel's own source completed.

        share: of the jobserver. symvers: host paths of others' Module.symvers. patches: host paths and what is said of
        them, in order. patched: paths in the kernel's source that they touch. recipe: of the source's dkms.conf.
        Raises Problem archive-*, patch-*, build-directory-missing, command-missing, build-failed, build-timeout,
        no-objects, object-missing, object-invalid, kernel-source-makefile and the transient ones of `failure`.
        """
        workspace = Workspace(self.sysroot, scratch, self.owners[scratch], kernel, log, share, self.limits.log)
        source = module.file.source
        if source.archive is not None:
            name = f"{module.path}: source.archive: {source.archive}"
            await unpack(workspace, scratch / "tmp/archive", name, 1 if source.strip is None else source.strip)
        overlay = Overlay(self.sysroot, kernel, scratch / "source", workspace.owner) if source.kernel else None
        if overlay:
            await asyncio.to_thread(overlay.lay, module, patched, symvers)
        faults = await apply(workspace, patches, f"{module.path}: source.patches")
        if recipe:
            faults += await apply(workspace, dkmsrecipe.patches(recipe, scratch / "source"), f"{source.dkms}: PATCH")
        warnings = [f"{fault.message}: {fault.hint} ({fault.problem})" for fault in faults]
        warnings += [f"dkms.conf printed: {recipe.said}"] if recipe and recipe.said else []
        warnings += [compiler.mismatch] if compiler.mismatch else []
        inside = []
        for number, path in enumerate(symvers):
            copy = scratch / "symvers" / str(number)
            shutil.copyfile(path, copy)
            copy.chmod(0o644)
            inside.append(f"{sandbox.WORK}/symvers/{number}")
        where = self.sysroot.inside(log)
        workspace.say(f"{module.name} for {kernel.release}, compiler {compiler.version}")
        if compiler.mismatch:
            workspace.say(compiler.mismatch)
        workspace = await self._inform(workspace, compiler)
        build, top, begun = module.file.build, scratch / "source", log.stat().st_size
        until = time.monotonic() + build.timeout
        directories = [top / build.directory]
        if overlay:
            parts = overlay.parts(module)
            directories = [top / part.directory for part in parts]
            for part in parts:
                await self._make(workspace, module, self.make_words(module, kernel, compiler, inside, part), until)
                inside.append(f"{SOURCE}/{part.directory}/Module.symvers")
        elif recipe:
            lines = dkmsrecipe.Lines(recipe, kernel, compiler, share, self.jobserver.jobs, inside)
            for line in (recipe.before, recipe.make):
                await self._follow(workspace, module, lines, line, until)
        elif not directories[0].is_dir():
            text = f"{module.path}: build.directory: {build.directory} is not a directory of the source"
            raise Problem("build-directory-missing", text, "correct it, or source.strip", transient=False)
        elif build.command:
            env = owncommand.environment(compiler, inside, share.flags)
            for words in owncommand.steps(build, self.marks(kernel)):
                await self._make(workspace, module, words, until, directory=owncommand.directory(build), env=env)
        else:
            await self._make(workspace, module, self.make_words(module, kernel, compiler, inside), until)
        if recipe:
            said = await asyncio.to_thread(failure.read, log, begun)
            objects = dkmsrecipe.collect(recipe, top, said, where)
        else:
            objects = await asyncio.to_thread(self._collect, module, top, directories, where)
        check_sizes(objects, self.limits, UNSTRIPPED if module.file.build.strip else 1)
        if module.file.build.strip:
            kept = [path for path, item in zip(objects, recipe.objects) if not item.strip] if recipe else []
            names = [f"{sandbox.WORK}/{path.relative_to(scratch)}" for path in objects if path not in kept]
            if names and await workspace.run(["strip", "--strip-debug", *names]) != 0:
                text = "strip could not remove the debug symbols"
                raise Problem("strip-failed", text, f"the whole log: {where}", transient=False)
        check_sizes(objects, self.limits)
        for path in objects:
            check_object(path)
        if not overlay:
            directories += [path.parent for path in objects]
        most = None if overlay or recipe else 1
        symbols = await asyncio.to_thread(read_symvers, top, list(dict.fromkeys(directories)), most)
        if recipe:
            objects = await asyncio.to_thread(dkmsrecipe.take, recipe, objects, scratch / "objects")
            await self._follow(workspace, module, lines, recipe.after, until)
        return BuildResult(tuple(objects), symbols, tuple(warnings))

    async def _inform(self, workspace: Workspace, compiler: Compiler) -> Workspace:
        """Return the workspace in which make knows what the compiler takes, where the source leaves it that."""
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

    async def _follow(
        self, workspace: Workspace, module: Module, lines: dkmsrecipe.Lines, line: str, until: float
    ) -> None:
        """Run a line of a dkms.conf, where there is one."""
        if line:
            place = lines.recipe.place
            workspace.say(line)
            bound = [(workspace.scratch / "source", place)]
            await self._make(
                workspace, module, lines.argv(line), until, directory=place, env=lines.environment, writable=bound
            )

    async def _make(
        self,
        workspace: Workspace,
        module: Module,
        words: Sequence[str],
        until: float,
        *,
        directory: str = SOURCE,
        env: Mapping[str, str] = {},
        writable: Sequence[tuple[Path, str]] = (),
    ) -> None:
        """Run make, or what a module has instead. until: time.monotonic() when it must have ended.

        Raises Problem build-failed, build-timeout, command-missing and the transient ones of `failure`.
        """
        workspace.say(shlex.join(words))
        where, begun, before = self.sysroot.inside(workspace.log), workspace.log.stat().st_size, time.monotonic()
        try:
            limit = max(until - before, 0.1)
            status = await workspace.run(
                words, timeout=limit, directory=directory, env=env, jobs=True, writable=writable, raw=True
            )
        except Problem as problem:
            if problem.code != "tool-timeout":
                raise
            text = f"the build did not end within {module.file.build.timeout:g} s (build.timeout) and was killed"
            raise Problem("build-timeout", text, f"the whole log: {where}", transient=False) from None
        if status != 0:
            owncommand.check_started(await asyncio.to_thread(failure.read, workspace.log, begun))
        workspace.say(f"{words[0]} ended with exit status {status} after {time.monotonic() - before:.1f} s")
        if status != 0:
            raise await asyncio.to_thread(failure.explain, workspace.log, status, where, begun)

    def _collect(self, module: Module, top: Path, directories: Sequence[Path], where: str) -> list[Path]:
        """Return the objects that are to be installed: those of [[object]], else every .ko under the source.

        directories: where make ran.
        """
        if module.file.object:
            found = []
            for item in module.file.object:
                candidates = [base / item.path / f"{item.name}.ko" for base in (*directories, top)]
                path = next((c for c in candidates if is_plain(c, top)), None)
                if path is None:
                    text = f"the build yielded no {item.path}/{item.name}.ko".replace("./", "")
                    hint = f"correct [[object]]; the whole log: {where}"
                    raise Problem("object-missing", text, hint, transient=False)
                found.append(path)
            return found
        objects: dict[str, Path] = {}
        for path in find_objects(top):
            check_name(path, top)
            key = canonical(path.name)
            if key in objects:
                text = f"the build yielded {path.name} twice"
                raise Problem("object-ambiguous", text, "choose one with [[object]]", transient=False)
            objects[key] = path
        if not objects:
            text = "the build succeeded but yielded no .ko"
            hint = f"is build.directory right, and does its Makefile say obj-m? The whole log: {where}"
            raise Problem("no-objects", text, hint, transient=False)
        return [objects[key] for key in sorted(objects)]
