"""An initial RAM file system as the kernel unpacks it: cpio "newc".

Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import gzip
import os
import stat
from pathlib import Path


class Archive:
    """Collects files, directories and links; everything belongs to root."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes]] = {}

    def directory(self, name: str) -> None:
        """Add a directory, and those above it. name: absolute, as the guest sees it."""
        path = name.strip("/")
        if path and path not in self._entries:
            self.directory(os.path.dirname(path))
            self._entries[path] = (stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        self.directory(os.path.dirname(name))
        self._entries[name.strip("/")] = (stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self.directory(os.path.dirname(name))
        self._entries[name.strip("/")] = (stat.S_IFLNK | 0o777, target.encode())

    def copy(self, path: Path, name: str) -> None:
        """Add a host's file, or what its link points to, under the guest's name."""
        self.file(name, path.read_bytes(), path.stat().st_mode & 0o755)

    def copy_tree(self, directory: Path, name: str) -> None:
        """Add a host's directory with all below it; one that is absent stays so."""
        for path in sorted(directory.rglob("*")):
            inside = f"{name}/{path.relative_to(directory)}"
            if path.is_symlink():
                self.link(inside, os.readlink(path))
            elif path.is_dir():
                self.directory(inside)
            else:
                self.copy(path, inside)

    def write(self, path: Path) -> None:
        """Write the archive, compressed lightly: the guest's emulated processor has to undo it."""
        with gzip.open(path, "wb", compresslevel=1) as stream:
            for number, (name, (mode, content)) in enumerate(self._entries.items(), 1):
                stream.write(_record(number, name, mode, content))
            stream.write(_record(0, "TRAILER!!!", 0, b""))


def _record(number: int, name: str, mode: int, content: bytes) -> bytes:
    named = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(named), 0)
    head = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + named
    head += b"\0" * (-len(head) % 4)
    return head + content + b"\0" * (-len(content) % 4)
