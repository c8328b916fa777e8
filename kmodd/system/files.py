"""The only place that replaces files: a temporary file with its final mode, fsync, rename, fsync of the directory.

A kill at any moment leaves the old file or the new one, and at most a temporary one that `find_leftovers` names.
Must not: know what is in a file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Optional

from ..core.errors import Problem
from ..core.visible import visible

TEMPORARY = ".kmodd-new"
_SENTENCES = {
    errno.ENOSPC: ("disk-full", "the disk is full", "free some space; kmodd tries again by itself"),
    errno.EDQUOT: ("disk-full", "the disk quota is used up", "free some space; kmodd tries again by itself"),
    errno.EROFS: ("read-only", "the file system is read-only", "mount it read-write; kmodd tries again by itself"),
    errno.EACCES: ("permission-denied", "permission denied", "run it as root"),
    errno.EPERM: ("permission-denied", "operation not permitted", "run it as root"),
}


#: Errors that are facts about a file. Any other says that it could not be read now: no descriptor, memory or disk.
FACTS = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL,
    errno.ENOEXEC,
})  # fmt: skip


#: Accidents of one place on a disk. All others, such as want of descriptors, befall whatever is read.
LOCAL = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.ESTALE})


def find_accident(error: Exception) -> str:
    """Return what kept something from being read, "" where the error is what was found of it."""
    if isinstance(error, Problem):
        return error.message if error.transient else ""
    if isinstance(error, OSError):
        return str(error.strerror) if error.errno is not None and error.errno not in FACTS else ""
    return "out of memory" if isinstance(error, MemoryError) else ""


def look_up(path: Path) -> Optional[os.stat_result]:
    """Return the stat data of what a path leads to, None where there is no such.

    Raises OSError where that could not be determined. Path.exists and the like call that absence, or not, as Python's
    versions differ.
    """
    try:
        return path.stat()
    except OSError as error:
        if find_accident(error):
            raise
        return None


def is_file(path: Path) -> bool:
    """Tell whether a path leads to a plain file. Raises OSError where that could not be determined."""
    found = look_up(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_link(path: Path) -> bool:
    """Tell whether a path is a link. Raises OSError where that could not be determined."""
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except OSError as error:
        if find_accident(error):
            raise
        return False


def is_directory(path: Path) -> bool:
    """Tell whether a path leads to a directory. Raises OSError where that could not be determined."""
    found = look_up(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def explain(error: OSError, doing: str) -> Problem:
    """Return the problem that an OSError is; doing says what was tried, such as "writing x"."""
    code, what, hint = _SENTENCES.get(
        error.errno or 0, ("input-output", error.strerror or str(error), "kmodd tries again by itself")
    )
    where = f" ({error.filename})" if error.filename and str(error.filename) not in doing else ""
    return Problem(code, f"{doing}: {what}{where}", hint, transient=True)


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into a Problem."""
    try:
        yield
    except OSError as error:
        raise explain(error, doing) from error


def sync_directory(directory: Path) -> None:
    """Make renames and deletions in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """Return the name that the new content of a file has until it is renamed."""
    return path.with_name(f".{path.name}{TEMPORARY}")


def make_directory(path: Path, mode: int = 0o755, *, durable: bool = True) -> None:
    """Make a directory and its parents, whatever the umask is; nothing is done where it is there. Raises OSError.

    durable: they outlive a power cut, as what is synced in them is to.
    """
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    except FileNotFoundError:
        make_directory(path.parent, durable=durable)
        path.mkdir(mode=mode)
    path.chmod(mode)
    if durable:
        sync_directory(path.parent)


def make_link(path: Path, to: str) -> None:
    """Make a link that outlives a power cut, and its directory. Raises OSError."""
    make_directory(path.parent)
    path.symlink_to(to)
    sync_directory(path.parent)


@contextlib.contextmanager
def _fresh(path: Path, mode: int) -> Iterator[BinaryIO]:
    """Give the temporary file of a path, made with its final mode and synced at the end; gone again on failure."""
    make_directory(path.parent)
    temporary = temporary_name(path)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            yield stream
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that it is never seen half written; makes its directory. Raises OSError."""
    with _fresh(path, mode) as stream:
        stream.write(data)
    try:
        temporary_name(path).rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary_name(path).unlink()
        raise
    sync_directory(path.parent)


def stage_copy(source: Path, path: Path, mode: int = 0o644) -> Path:
    """Copy a file beside its final place under its temporary name, synced; returns that name. Raises OSError."""
    with source.open("rb") as stream, _fresh(path, mode) as sink:
        shutil.copyfileobj(stream, sink, 1 << 20)
    return temporary_name(path)


def remove_file(path: Path) -> bool:
    """Delete a file durably; tells whether it was there. Raises OSError."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    sync_directory(path.parent)
    return True


def remove_empty(*directories: Path) -> None:
    """Delete directories, in this order, as far as they are empty."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def list_names(directory: Path, suffix: str = "") -> list[str]:
    """Return the names in a directory, sorted, without the suffix that they must end in; none where there is no such.

    Names that cannot be shown as they are, of which nothing of ours has one, are left out. Raises OSError.
    """
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [n[: len(n) - len(suffix)] for n in names if n.endswith(suffix) and n.isprintable() and visible(n) == n]


def find_leftovers(directory: Path) -> list[Path]:
    """Return temporary files that a kill left directly in a directory."""
    with contextlib.suppress(OSError):
        return [Path(e.path) for e in os.scandir(directory) if e.name.endswith(TEMPORARY)]
    return []


def read_own(path: Path, most: Optional[int] = None) -> bytes:
    """Return the content of a file of kmodd's own, or its first bytes. Raises OSError, also where it is a link.

    kmodd makes no links in the places of such files, and what others put there leads wherever they want.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        return stream.read() if most is None else stream.read(most)


def digest_file(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def stat_signature(path: Path) -> tuple[int, int, int, int]:
    """Return what tells cheaply whether a file is the same: inode, size, mtime and ctime in ns. Raises OSError."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
