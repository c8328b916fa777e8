"""Putting signed objects under extra/, and taking them away again. A kill between any two steps is healed by the next.

The record that names every path is written first, so that no file of ours is ever without an owner. Must not: sign,
compress, or run depmod.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Union

from .errors import Problem
from .files import (
    explained,
    find_leftovers,
    list_names,
    make_directory,
    remove_empty,
    remove_file,
    stage_copy,
    sync_directory,
)
from .model import Target
from .moduleindex import State, find_flaw, find_temporary, is_depmods_own, sync_outputs
from .paths import Sysroot
from .record import Installed, InstalledObject
from .run import run


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


def remove_temporary(directory: Path) -> None:
    """Delete what killed depmods left in a kernel's directory. Raises OSError."""
    for path in find_temporary(directory):
        remove_file(path)


@contextlib.contextmanager
def _base(sysroot: Sysroot) -> Iterator[Path]:
    """Give the directory that depmod is to take for the root.

    It follows links as they are: where those of the root would lead it out, that is a directory which has nothing but
    the place of the modules.
    """
    places = ("lib/modules", "usr/lib/modules")
    if all(os.path.realpath(sysroot.root / place) == str(sysroot.resolve(f"/{place}")) for place in places):
        yield sysroot.root
        return
    with tempfile.TemporaryDirectory(prefix="kmodd-depmod.") as name:
        for place in places:
            path = Path(name, place)
            make_directory(path.parent)
            path.symlink_to(sysroot.modules)
        yield Path(name)


async def run_depmod(sysroot: Sysroot, release: str) -> State:
    """Run depmod for a kernel, with the root's own depmod.d, and bring what it wrote to the disk; returns its state.

    Raises Problem depmod-failed and tool-missing.
    """
    with _base(sysroot) as base:
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
