"""A disk whose power can be cut: a file system in an image, mounted, shut down as if the machine had lost its power,
and mounted again.

The ioctl FS_IOC_SHUTDOWN (XFS_IOC_GOINGDOWN, EXT4_IOC_SHUTDOWN) with NOLOGFLUSH stops the file system at once: what
was not written yet, data as well as the journal in memory, is lost, and every later call on it fails with EIO. That is
what a power cut leaves on the disk, without a virtual machine. Needs root and loop devices.

    with Disk(tmp_path / "disk", "ext4") as disk:       # KINDS: ext4, ext4 with the riskiest options, xfs
        (disk.top / "root").mkdir()                     # disk.top: where it is mounted
        ...                                             # run what is to survive
        disk.cut()                                      # from here on every process gets EIO from it
        ...                                             # end the processes that use it
        disk.restore()                                  # journal recovery, mounted again at the same place
        ...                                             # look at what is left

After cut() nothing may keep a file, a directory or a mount of the disk open when restore() is called: it waits for the
last one to end. To cut while a process works, call cut() from another one or a thread; the moment is
yours. What was written long ago is on the disk by the kernel's own doing (5 s for a commit, 30 s for data): cut earlier
to see what nobody synced.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Optional

from patience import wait_until

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN, _IOR('X', 125, __u32), linux/fs.h
NOLOGFLUSH = 2  # FS_SHUTDOWN_FLAGS_NOLOGFLUSH

#: Name -> how it is made, and mount options. An xfs must have 300 MiB.
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "ext4": (("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"), "defaults"),
    "ext4-writeback": (
        ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
        "data=writeback,noauto_da_alloc",
    ),
    "xfs": (("mkfs.xfs", "-q", "-f"), "defaults"),
}


class Disk:
    """A disk of its own for a test. kind: one of KINDS; size: MiB, of which only what is written takes room."""

    def __init__(self, path: Path, kind: str, size: int = 400) -> None:
        make, self.options = KINDS[kind]
        path.mkdir(parents=True)
        self.image, self.top = path / "image", path / "top"
        self.top.mkdir()
        with self.image.open("wb") as stream:
            stream.truncate(size << 20)
        subprocess.run([*make, self.image], check=True, stdout=subprocess.DEVNULL)
        # one device for good: mount -o loop gives it back some time after umount, with blocks that it has yet to write
        losetup = ["losetup", "--find", "--show", self.image]
        self.device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
        self.mount()

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", self.options, self.device, self.top], check=True)
        # what has a copy of this mount, such as a sandbox that is being made, then loses it with this one
        subprocess.run(["mount", "--make-shared", self.top], check=True)

    def cut(self) -> None:
        """Cut the power: whatever is not on the disk by now never gets there."""
        descriptor = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def restore(self) -> None:
        """Switch the machine on again: the file system recovers by its journal and is mounted.

        A mount namespace that somebody made meanwhile holds what was cut for a moment longer, and mount(8) then gives
        that once more.
        """
        self._unmount()
        self.mount()
        wait_until(self._works, f"the end of all that uses {self.device}")

    def _works(self) -> bool:
        """Tell whether the disk takes what is written; mounts it once more where it does not."""
        probe = self.top / "probe"
        try:
            probe.touch()
            probe.unlink()
        except OSError:
            self._unmount()
            self.mount()
            return False
        return True

    def crash(self) -> None:
        """Cut the power and switch on again; nothing may run on the disk."""
        self.cut()
        self.restore()

    def _unmount(self) -> None:
        try:
            wait_until(lambda: subprocess.run(["umount", self.top], capture_output=True).returncode == 0, "umount")
        except AssertionError as error:
            users = subprocess.run(["fuser", "-vm", self.top], capture_output=True, text=True)
            raise AssertionError(f"{error}\n{users.stdout}{users.stderr}") from error

    def close(self) -> None:
        """Take the disk away, whatever uses it still."""
        subprocess.run(["umount", "-q", "-l", self.top], check=False, capture_output=True)  # it may not be mounted
        subprocess.run(["losetup", "--detach", self.device], check=True)
        self.image.unlink(missing_ok=True)
