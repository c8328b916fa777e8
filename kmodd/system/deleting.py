"""Deleting a directory and all below it, however deep and however many they are.

A build may leave directories in each other by the thousand, whose paths are longer than any that the kernel takes.
So nothing is recursive here, and each directory is moved to the top before it is emptied: two descriptors do for any
depth. Must not: follow a link, or end what it was called from.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Optional, Union

from .log import get_logger

BATCH = 10_000  # names that are held at a time
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def delete_tree(path: Path) -> bool:
    """Delete a directory with all below it, or whatever else is there; tells whether nothing is left.

    What cannot be deleted, such as an immutable file or a mount point, is logged and passed over.
    """
    try:
        remove_tree(path)
    except OSError as error:
        get_logger().warning("not deleted", path=str(path), reason=error.strerror)
        return False
    return True


def remove_tree(path: Path) -> None:
    """Delete a directory with all below it, or whatever else is there. Raises OSError where something stays."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
        with _opened(path) as top:
            _Deletion(top).run()
        path.rmdir()


@contextlib.contextmanager
def _opened(path: Union[Path, str], directory: Optional[int] = None) -> Iterator[int]:
    if os.geteuid() != 0:  # root needs no permission
        os.chmod(path, 0o700, dir_fd=directory)
    descriptor = os.open(path, _OPEN, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Deletion:
    """Empties an open directory. Its directories wait there under names of their own until it is their turn."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.device = os.fstat(top).st_dev
        self.mark = secrets.token_hex(8)
        self.moved = 0
        self.stuck: set[str] = set()  # names at the top that stay

    def run(self) -> None:
        while names := self._names(self.top, self.stuck):
            for name in names:
                if not self._delete(name):
                    self.stuck.add(name)

    def _names(self, directory: int, without: set[str]) -> list[str]:
        with os.scandir(directory) as scan:
            return list(islice((entry.name for entry in scan if entry.name not in without), BATCH))

    def _delete(self, name: str) -> bool:
        """Delete something at the top; what is below a directory is deleted or moved up."""
        try:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=self.top).st_mode):
                os.unlink(name, dir_fd=self.top)
                return True
            with _opened(name, self.top) as directory:
                if os.fstat(directory).st_dev != self.device:
                    return False  # a mount point
                stuck: set[str] = set()
                while names := self._names(directory, stuck):
                    stuck.update(below for below in names if not self._empty(directory, below))
            os.rmdir(name, dir_fd=self.top)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _empty(self, directory: int, name: str) -> bool:
        """Delete a file of a directory, or move a directory of it to the top."""
        try:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                os.unlink(name, dir_fd=directory)
                return True
            if os.geteuid() != 0:  # moving a directory changes its "..", which needs the right to write
                os.chmod(name, 0o700, dir_fd=directory)
            self.moved += 1
            os.rename(name, f"{self.mark}.{self.moved}", src_dir_fd=directory, dst_dir_fd=self.top)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True
