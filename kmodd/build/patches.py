"""Applying patches to the copy of a source.

Must not: decide which patches a kernel gets.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import Problem
from .room import Room
from .sandbox import WORK


async def apply(room: Room, patches: Sequence[tuple[Path, int]]) -> None:
    """Apply patches, host paths and strip levels, in order and without fuzz. Raises Problem patch-failed."""
    for path, strip in patches:
        copy = room.scratch / "symvers" / path.name
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
        room.say(f"patch {path.name}")
        words = ["patch", f"-p{strip}", "-F0", "-N", "-f", "--no-backup-if-mismatch", "-r", "-"]
        if await room.run([*words, "-i", f"{WORK}/symvers/{path.name}"]) != 0:
            text = f"{path.name} does not apply to the source"
            where = room.sysroot.inside(room.log)
            hint = f"limit it with kernels = [...], or bring it up to date; the whole log: {where}"
            raise Problem("patch-failed", text, hint, transient=False)
