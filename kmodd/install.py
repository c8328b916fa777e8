"""Putting signed objects under extra/, and taking them away again. A kill between any two steps is healed by the next.

The record that names every path is written first, so that no file of ours is ever without an owner. Must not: sign,
compress, or run depmod.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Union

from .errors import Problem
from .files import explained, find_leftovers, remove_empty, remove_file, stage_copy, sync_directory
from .model import Target
from .paths import DEPMOD_OUTPUTS, Sysroot
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
            directory.mkdir(parents=True, exist_ok=True)
            staged = [(stage_copy(source, directory / Path(item.path).name), item) for source, item in files]
            await self._label([directory.parent, directory, *(path for path, _ in staged)])
            remember(pending)
            for path, item in staged:
                path.rename(directory / Path(item.path).name)
            sync_directory(directory)
            for name in pending.superseded:
                remove_file(self.sysroot.resolve(name))
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
                remove_file(self.sysroot.resolve(name))
            directory = self.sysroot.extra(target.kernel, target.module)
            for leftover in find_leftovers(directory):
                remove_file(leftover)
            remove_empty(directory, directory.parent)

    def clean_kernel(self, release: str) -> None:
        """Delete the directory of a removed kernel, if only depmod's own files are left in it. Raises Problem."""
        directory = self.sysroot.kernel(release)
        with explained(f"cleaning {self.sysroot.inside(directory)}"):
            try:
                names = {path.name for path in directory.iterdir()}
            except FileNotFoundError:
                return
            if names <= DEPMOD_OUTPUTS:
                for name in names:
                    remove_file(directory / name)
                remove_empty(directory)

    def heal(self) -> None:
        """Delete staged files that a kill left under any kernel's extra/. Raises OSError."""
        for directory in self.sysroot.modules.glob("*/extra/*"):
            for leftover in find_leftovers(directory):
                remove_file(leftover)
            remove_empty(directory, directory.parent)


async def run_depmod(sysroot: Sysroot, release: str) -> None:
    """Run depmod for a kernel, with the root's own depmod.d. Raises Problem depmod-failed and tool-missing."""
    argv: list[Union[str, Path]] = ["depmod", "-b", sysroot.root]
    if not sysroot.is_host:  # else depmod would take the host's configuration
        for directory in ("/etc/depmod.d", "/run/depmod.d", "/usr/lib/depmod.d"):
            argv += ["-C", sysroot.resolve(directory)]
    try:
        await run([*argv, release], timeout=600)
    except Problem as problem:
        if problem.code == "tool-missing":
            raise
        hint = f"run depmod {release} by hand to see more; kmodd tries again by itself"
        raise Problem("depmod-failed", f"depmod for {release}: {problem.message}", hint, transient=True) from problem
