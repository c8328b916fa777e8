"""Runs kernel-install(8) for a kernel that may become bootable, and has what it wrote reach the disk.

Must not: run inside an rpm transaction, or decide that a kernel may.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.sysroot import MOUNTS, Sysroot
from ..system.run import run

TIMEOUT = 1800.0  # seconds
#: Runs a program that finds a file in the place of another one, which nobody else sees.
UNSEEN = (
    "unshare", "--mount", "--propagation", "private", "sh", "-c",
    'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh",
)  # fmt: skip
FREEZABLE = ("xfs", "ext2", "ext3", "ext4")


def unit_name(release: str) -> str:
    """Return the name of the unit that releases a kernel, escaped as systemd-escape(1) does."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in ":_.") else _escaped(c) for c in release)
    return f"kmodd-release-{plain}.service"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


async def install_kernel(
    sysroot: Sysroot, release: str, hidden: Optional[tuple[Path, Path]] = None, add: bool = True
) -> None:
    """Run kernel-install add, or remove, passing by the boot guard. Raises Problem kernel-install-failed.

    hidden: a file, and the one in whose place kernel-install finds it.
    """
    image = sysroot.inside(sysroot.below(sysroot.kernel(release), "vmlinuz"))
    argv = ["kernel-install", "add", release, image] if add else ["kernel-install", "remove", release]
    inside = [*UNSEEN, *map(str, hidden), *argv] if hidden else argv
    done = await run(inside, check=False, raw=True, env={"KMODD_HOLD": "0"}, timeout=TIMEOUT)
    if done.status != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        last = (said or ["it said nothing"])[-1]
        text = f"kernel-install for {release} ended with exit status {done.status}: {last}"
        raise Problem("kernel-install-failed", text, " ".join(argv), transient=True)


async def settle_boot(sysroot: Sysroot) -> None:
    """Have /boot reach the disk for GRUB, which replays no journal: sync, then freeze and thaw, as dracut does."""
    await asyncio.to_thread(os.sync)
    if sysroot.boot != sysroot.root and os.path.ismount(sysroot.boot) and _kind(sysroot.boot) in FREEZABLE:
        for option in ("--freeze", "--unfreeze"):
            await run(["fsfreeze", option, str(sysroot.boot)], check=False, raw=True, timeout=60)


def _kind(mounted: Path) -> str:
    """Return the type of a mounted file system (proc_mounts(5)), "" where it cannot be determined."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    found = [line.split()[2] for line in lines if line.split()[1:2] == [str(mounted)]]
    return found[-1] if found else ""
