"""Putting signed objects under extra/, and taking them away again. A kill between any two steps is healed by the next.

The record that names every path is written first, so that no file of ours is ever without an owner. Must not: sign,
compress, or run depmod.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Union

from ..core.errors import Problem
from ..core.model import Target
from ..core.modulefile import object_name
from ..core.record import Installed, InstalledObject
from ..core.sysroot import Sysroot
from ..system.files import (
    explained,
    find_leftovers,
    list_names,
    make_directory,
    remove_empty,
    remove_file,
    stage_copy,
    sync_directory,
)
from ..system.kmodroot import check_links, open_base
from ..system.moduleindex import State, find_flaw, find_temporary, is_depmods_own, sync_outputs
from ..system.run import find_accident as find_tool_accident
from ..system.run import run

ALONE = "1.0"  # a release that depmod takes as such
CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
CYCLE = re.compile(r"Cycle detected: (.*)")
SAYING = re.compile(r"Cycle detected:|Assertion")  # which line of what it prints tells
MOST_TRIED = 500  # objects of others


def directory_of(target: Target) -> str:
    """Return the in-root directory of a target's objects."""
    return f"/lib/modules/{target.kernel}/extra/{target.module}"


class Installation:
    """The installed objects of one root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot

    async def install(
        self,
        target: Target,
        files: Sequence[tuple[Path, InstalledObject]],
        before: Installed,
        remember: Callable[[Installed], None],
    ) -> Installed:
        """Install final files as the objects they are, in place of what was there before.

        remember stores what is (about to be) installed. Raises Problem disk-full, read-only and the like.
        """
        objects = tuple(item for _, item in files)
        paths = {item.path for item in objects}
        old = {item.path for item in before.objects} | set(before.superseded)
        pending = Installed(objects=objects, superseded=tuple(sorted(old - paths)))
        directory = self.sysroot.extra(target.kernel, target.module)
        with explained(f"installing {target}"):
            make_directory(directory)
            staged = [
                (await asyncio.to_thread(stage_copy, source, directory / Path(item.path).name), item)
                for source, item in files
            ]
            await self._label([directory.parent, directory, *(path for path, _ in staged)])
            remember(pending)
            for path, item in staged:
                path.rename(directory / Path(item.path).name)
            sync_directory(directory)
            for name in pending.superseded:
                remove_file(self.sysroot.entry(name))
            if not objects:
                remove_empty(directory, directory.parent)
        done = Installed(objects=objects)
        remember(done)
        return done

    async def _label(self, paths: Sequence[Path]) -> None:
        """Give files the label that the policy wants; a module with another is refused (selinux(8))."""
        if self.sysroot.is_host and Path("/sys/fs/selinux/enforce").exists():
            await run(["restorecon", "-F", *paths])

    def remove(self, target: Target, installed: Installed) -> None:
        """Delete a target's installed objects and the directories that become empty. Raises Problem."""
        with explained(f"removing {target}"):
            for name in (*(item.path for item in installed.objects), *installed.superseded):
                remove_file(self.sysroot.entry(name))
            directory = self.sysroot.extra(target.kernel, target.module)
            for leftover in find_leftovers(directory):
                remove_file(leftover)
            remove_empty(directory, directory.parent)

    def clean_kernel(self, release: str) -> None:
        """Delete the directory of a removed kernel, if only depmod's own files are left in it. Raises Problem.

        Those that a killed depmod left count, too.
        """
        directory = self.sysroot.kernel(release)
        with explained(f"cleaning {self.sysroot.inside(directory)}"):
            try:
                names = {path.name for path in directory.iterdir()}
            except FileNotFoundError:
                return
            if is_depmods_own(directory, names):
                for name in names:
                    remove_file(directory / name)
                remove_empty(directory)

    def heal(self) -> None:
        """Delete what a kill left: staged files under any kernel's extra/, and depmod's. Raises OSError."""
        for release in list_names(self.sysroot.modules):
            with contextlib.suppress(Problem):  # links that lead nowhere
                remove_temporary(self.sysroot.kernel(release))
                for module in list_names(self.sysroot.below(self.sysroot.modules, release, "extra")):
                    directory = self.sysroot.extra(release, module)
                    for leftover in find_leftovers(directory):
                        remove_file(leftover)
                    remove_empty(directory, directory.parent)


async def try_depmod(files: Sequence[Path]) -> str:
    """Return why depmod(8) fails over some objects by themselves, "" where it does not.

    It makes the index of all modules of a kernel or none, so that an object that it fails over takes all others along.
    Raises Problem and OSError where that could not be tried.
    """
    said = await _try_depmod(files)
    return said if said and not await _try_depmod([]) else ""


async def _try_depmod(files: Sequence[Path]) -> str:
    with tempfile.TemporaryDirectory(prefix="kmodd-depmod.") as name:
        directory = Path(name, "lib/modules", ALONE, "extra")
        directory.mkdir(parents=True)
        for empty in ("modules.order", "modules.builtin"):
            (directory.parent / empty).touch()
        for number, path in enumerate(files):
            (directory / str(number)).mkdir()
            (directory / str(number) / path.name).symlink_to(os.path.realpath(path))
        done = await run(["depmod", "-n", "-b", name, "-C", os.devnull, ALONE], check=False, raw=True, timeout=600)
    if done.status == 0:
        return ""
    lines = done.stderr.decode(errors="replace").splitlines() or [""]
    said = next((line for line in lines if SAYING.search(line)), lines[-1]).partition(": ")[2]
    if -done.status in CRASHES:
        return f"depmod crashes ({signal.Signals(-done.status).name}): {said}"
    accident = find_tool_accident("depmod", done)
    if accident:
        raise accident
    return said or f"depmod ends with {done.status}"


async def find_culprits(sysroot: Sysroot, release: str) -> list[tuple[str, str]]:
    """Return the objects of others than the kernel that depmod fails over: in-root paths, and why.

    Raises Problem and OSError where that could not be tried.
    """
    directory = sysroot.kernel(release)
    paths = [path for path in sorted(directory.rglob("*.ko*")) if path.is_file()]
    paths = [path for path in paths if path.relative_to(directory).parts[0] != "kernel"][:MOST_TRIED]
    together = await try_depmod(paths)
    if not together:
        return []
    cycle = CYCLE.search(together)
    found = []
    for path in paths:
        said = await try_depmod([path])
        if not said and cycle and object_name(path.name) in cycle[1].split(" -> "):
            said = together
        if said:
            found.append((f"/lib/modules/{release}/{path.relative_to(directory)}", said))
    return found


def remove_temporary(directory: Path) -> None:
    """Delete what killed depmods left in a kernel's directory. Raises OSError."""
    for path in find_temporary(directory):
        remove_file(path)


async def run_depmod(sysroot: Sysroot, release: str) -> State:
    """Run depmod for a kernel, with the root's own depmod.d, and bring what it wrote to the disk; returns its state.

    Raises Problem depmod-failed, tool-missing and link-leads-out.
    """
    check_links(sysroot, release)
    with open_base(sysroot) as base:
        return await _run_depmod(sysroot, base, release)


async def _run_depmod(sysroot: Sysroot, base: Path, release: str) -> State:
    directory = sysroot.kernel(release)
    argv: list[Union[str, Path]] = ["depmod", "-b", base]
    if not sysroot.is_host:  # else depmod would take the host's configuration
        for place in sysroot.depmod_directories:
            argv += ["-C", place]
    try:
        await run([*argv, release], timeout=600)
    except Problem as problem:
        if problem.code == "tool-missing":
            raise
        hint = f"run depmod {release} by hand to see more; kmodd tries again by itself"
        raise Problem("depmod-failed", f"depmod for {release}: {problem.message}", hint, transient=True) from problem
    finally:
        with explained(f"cleaning up after depmod for {release}"):
            remove_temporary(directory)
    with explained(f"syncing what depmod wrote for {release}"):
        state = await asyncio.to_thread(sync_outputs, directory)
        flaw = await asyncio.to_thread(find_flaw, directory, {})
    if flaw:
        text = f"depmod for {release} ended well, but {flaw}"
        raise Problem("depmod-failed", text, f"run depmod {release} by hand to see more", transient=True)
    return state
