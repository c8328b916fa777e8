"""Makes the initramfs of a kernel that is about to become bootable, and reads one to its end.

dracut(8) writes where it is known to: beside the final name, from where the image is renamed once it was read. Formats:
cpio(5) newc, early archives first, then one that is compressed. Must not: judge what is inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.files import remove_file, sync_directory, temporary_name
from ..system.run import find_program, run

#: Reads an image (in-root path) to its end. Raises Problem where it is not whole.
Check = Callable[[str], Awaitable[None]]

TIMEOUT = 1200.0  # seconds
ROOM = 1.3  # of the largest initramfs that is there, which a new one may take
SPARE = 16 << 20  # bytes that stay free besides


async def make_image(sysroot: Sysroot, release: str, largest: int, check: Check) -> bool:
    """Make /boot/initramfs-RELEASE.img by dracut; tells whether there is a dracut to make it.

    largest: bytes of the largest initramfs there. check: reads the image before it gets its name. Raises Problem
    boot-full, initramfs-failed and those of check.
    """
    if find_program("dracut") is None:
        return False
    final = sysroot.below(sysroot.boot, f"initramfs-{release}.img")
    fresh = temporary_name(final)
    free = os.statvfs(sysroot.boot)
    needed = int(ROOM * largest) + SPARE
    if free.f_bavail * free.f_frsize < needed:
        text = f"/boot has {free.f_bavail * free.f_frsize >> 20} MiB left, and an initramfs may need {needed >> 20} MiB"
        raise Problem("boot-full", text, "dnf remove an old kernel; kmodd tries again by itself", transient=True)
    try:
        argv = ["dracut", "--force", "--quiet", str(fresh), release]
        done = await run(argv, check=False, raw=True, timeout=TIMEOUT)
        if done.status != 0:
            said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
            text = f"dracut for {release} ended with exit status {done.status}: {(said or ['it said nothing'])[-1]}"
            raise Problem("initramfs-failed", text, f"dracut --force --kver {release}", transient=True)
        await check(sysroot.inside(fresh))
        await asyncio.to_thread(_rename, fresh, final)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_file(fresh)
        raise
    return True


def _rename(fresh: Path, final: Path) -> None:
    descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.rename(final)
    sync_directory(final.parent)
