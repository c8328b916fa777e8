"""Opens what others than root may change: once, by descriptors, and with the rights of those others.

Who may write a directory may put a link in place of what lies there between two uses of the same path. So a path is
walked once, component by component, and what counts is the descriptor that this leads to. What others than root may
change is opened with their rights instead of root's, so that a hard link or a directory that was moved there shows
them nothing new. Must not: write, or judge contents.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, Optional

from ..core.errors import Problem
from ..core.sysroot import MAX_LINKS, Sysroot

NOBODY = 65534  # the kernel's overflow uid and gid
MOST_ENTRIES = 200_000
MOST_BYTES = 4 << 30
DEEPEST = 100  # directories in each other
LONGEST = 2048  # bytes of a path below the top
CHUNK = 1 << 20
#: What a file that is swapped or deleted under way looks like.
SWAPPED = frozenset({errno.ELOOP, errno.ESTALE, errno.ENOENT, errno.ENOTDIR, errno.ENXIO})
#: O_NONBLOCK: whatever it is by now, opening it does not wait for anybody.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)

Reader = Optional[tuple[int, int]]  # uid and gid whose rights count; None: those of this process


@dataclass(frozen=True)
class Weakness:
    """Something that others than root can change. path: in-root, of a file, directory or link."""

    path: str
    uid: int
    gid: int
    mode: int

    @property
    def text(self) -> str:
        if stat.S_ISLNK(self.mode):
            return f"{self.path}, a link, belongs to uid {self.uid}"
        return f"{self.path} belongs to uid {self.uid} and gid {self.gid}, its mode is {stat.S_IMODE(self.mode):04o}"

    @property
    def fix(self) -> str:
        """Return what gives it to root alone."""
        path = shlex.quote(self.path)
        return f"look at what is there, then: chown -hR root:root {path} && chmod -R go-w {path}"

    @property
    def reader(self) -> tuple[int, int]:
        """Return whose rights tell what those who can change it may see anyway."""
        return self.uid or NOBODY, self.gid or NOBODY


def find_weakness(path: str, found: os.stat_result) -> Optional[Weakness]:
    """Return the weakness that an owner and a mode are: others may change it, or what is in that directory.

    Who runs kmodd counts as root. In a sticky directory others may add names, not replace them; a link's mode says
    nothing.
    """
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    writable = found.st_mode & 0o022 and not sticky and not stat.S_ISLNK(found.st_mode)
    if found.st_uid in (0, os.geteuid()) and not writable:
        return None
    return Weakness(path, found.st_uid, found.st_gid, found.st_mode)


# -- rights ----------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def acting_as(reader: Reader) -> Iterator[None]:
    """Open files with the rights of (uid, gid) in this block, in this thread alone; it must not start threads.

    setfsuid(2) is the thread's own, unlike seteuid(2), which the C library spreads to all threads; and it takes
    CAP_DAC_OVERRIDE and its like away meanwhile (capabilities(7)). Raises PermissionError.
    """
    if reader is None or os.geteuid() != 0:
        yield
        return
    uid, gid = reader
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    try:
        if _libc.setfsuid(-1) != uid or _libc.setfsgid(-1) != gid:
            raise PermissionError(errno.EPERM, "cannot take the rights of", f"uid {uid}")
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


def _check_rights(found: os.stat_result, reader: Reader, name: str) -> None:
    """Raise PermissionError where only this process's supplementary groups let a file be opened."""
    if reader is not None and os.geteuid() == 0:
        uid, gid = reader
        if found.st_uid != uid and found.st_gid != gid and not found.st_mode & 0o004:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)


def open_at(directory: int, name: str, shown: str, reader: Reader = None, *, is_directory: bool = False) -> int:
    """Return a descriptor of a regular file, or of a directory, in an open directory; links are not followed.

    shown: what errors call it. Raises OSError, with one of SWAPPED for anything else.
    """
    try:
        with acting_as(reader):
            descriptor = os.open(name, _OPEN, dir_fd=directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, shown) from None
    try:
        found = os.fstat(descriptor)
        if not (stat.S_ISDIR if is_directory else stat.S_ISREG)(found.st_mode):
            raise OSError(errno.ESTALE, f"is no longer a {'directory' if is_directory else 'regular file'}", shown)
        _check_rights(found, reader, shown)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_link_at(directory: int, name: str, shown: str) -> bytes:
    """Return where a link in an open directory leads. Raises OSError, with one of SWAPPED where it is none any more."""
    try:
        return os.readlink(os.fsencode(name), dir_fd=directory)
    except OSError as error:
        raise OSError(errno.ESTALE if error.errno == errno.EINVAL else error.errno, error.strerror, shown) from None


# -- one path --------------------------------------------------------------------------------------------------------
class Reached:
    """What an in-root path led to, as a context manager: path (in-root, links resolved), host path, stat data.

    weakness: the first thing on the way that others than root can change, itself included.
    """

    def __init__(self, path: str, host: Path, descriptor: int, parent: int, weakness: Optional[Weakness]) -> None:
        self.path = path
        self.host = host
        self.found = os.fstat(descriptor)
        self.weakness = weakness
        self._descriptor = descriptor
        self._parent = parent

    def __enter__(self) -> Reached:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for descriptor in (self._descriptor, self._parent):
            os.close(descriptor)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.found.st_mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.found.st_mode)

    @property
    def reader(self) -> Reader:
        """Return whose rights count below it."""
        return self.weakness.reader if self.weakness else None

    @property
    def signature(self) -> tuple[int, int, int, int]:
        """Return what tells cheaply whether a file is the same, as files.stat_signature does."""
        return self.found.st_ino, self.found.st_size, self.found.st_mtime_ns, self.found.st_ctime_ns

    def open(self) -> int:
        """Return a descriptor to read it by, which the caller closes. Raises OSError."""
        name = os.path.basename(self.path) or "."
        descriptor = open_at(self._parent, name, self.path, self.reader, is_directory=self.is_directory)
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != (self.found.st_dev, self.found.st_ino):
            os.close(descriptor)
            raise OSError(errno.ESTALE, "was replaced just now", self.path)
        return descriptor

    def stream(self) -> BinaryIO:
        """Return a regular file as a stream. Raises OSError."""
        if not self.is_file:
            raise OSError(errno.ESTALE, "is not a regular file", self.path)
        return os.fdopen(self.open(), "rb")

    def digest(self) -> str:
        """Return the sha256 of a regular file, hexadecimal. Raises OSError."""
        with self.stream() as stream:
            return copy_stream(stream, None)

    def read(self, most: int) -> bytes:
        """Return a regular file's content, at most so many bytes of it. Raises OSError."""
        with self.stream() as stream:
            return stream.read(most)

    def copy(self, destination: Path) -> str:
        """Copy a regular file to one that does not exist yet, for all to read; returns its sha256. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.stream() as stream, os.fdopen(os.open(destination, flags, 0o644), "wb") as sink:
            os.fchmod(sink.fileno(), 0o644)
            return copy_stream(stream, sink)


def copy_stream(stream: BinaryIO, sink: Optional[BinaryIO], most: Optional[int] = None) -> str:
    """Copy a stream, where there is a sink, and return the sha256 of what was read.

    most: bytes after which it raises Problem source-too-large, since the file grows.
    """
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        if most is not None:
            most -= len(chunk)
            if most < 0:
                raise Problem("source-too-large", f"a file grows beyond {MOST_BYTES} bytes", transient=True)
        digest.update(chunk)
        if sink is not None:
            sink.write(chunk)
    return digest.hexdigest()


def reach(sysroot: Sysroot, path: str) -> Reached:
    """Walk an absolute in-root path, all links followed inside the root, and return what it leads to.

    The root directory's own owner does not count. Raises OSError, whose filename is the in-root path, and Problem
    symlink-loop.
    """
    pending = [part for part in reversed(Path(path).parts) if part != "/"]
    names: list[str] = []
    descriptors = [os.open(sysroot.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    weakness: Optional[Weakness] = None
    links = 0
    try:
        while pending:
            part = pending.pop()
            if part == "..":
                if names:
                    names.pop()
                    os.close(descriptors.pop())
                continue
            here = "/" + "/".join([*names, part])
            try:
                descriptor = os.open(part, _LOOK, dir_fd=descriptors[-1])
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            descriptors.append(descriptor)
            found = os.fstat(descriptor)
            weakness = weakness or find_weakness(here, found)
            if not stat.S_ISLNK(found.st_mode):
                names.append(part)
                continue
            link = os.readlink("", dir_fd=descriptor)
            os.close(descriptors.pop())
            links += 1
            if links > MAX_LINKS:
                raise Problem("symlink-loop", f"{path}: too many levels of symbolic links", path=path)
            if link.startswith("/"):
                names = []
                while len(descriptors) > 1:
                    os.close(descriptors.pop())
            pending.extend(p for p in reversed(Path(link).parts) if p != "/")
        last = descriptors.pop()
        parent = descriptors.pop() if descriptors else os.dup(last)
        return Reached("/" + "/".join(names), sysroot.root.joinpath(*names), last, parent, weakness)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


# -- a directory and all below it ------------------------------------------------------------------------------------
class Entry(NamedTuple):
    """Something below a directory that is walked; directory: an open one, in which it has its name."""

    path: str  # relative to the top
    name: str
    directory: int
    found: os.stat_result


Choice = Callable[[list[str]], Iterable[str]]  # which of a directory's names count, both sorted


def walk(
    top: int,
    shown: str,
    reader: Reader = None,
    choose: Choice = lambda names: names,
    most_bytes: Optional[int] = MOST_BYTES,
) -> Iterator[Entry]:
    """Yield all below an open directory, links not followed: each directory's names, sorted, then what is below them.

    shown: what errors call it. most_bytes: of all files together, None for any number. Raises OSError, and Problem
    source-too-large where it holds more files, deeper ones or more bytes than anything that kmodd has a use for.
    """
    stack: list[tuple[int, str, list[str]]] = []  # directory, its path, its directories that are still to be walked
    count = size = 0
    try:
        pending = [("", os.dup(top))]
        while pending or stack:
            if not pending:
                directory, path, below = stack[-1]
                if not below:
                    os.close(directory)
                    stack.pop()
                    continue
                name = below.pop()
                inner = f"{path}/{name}" if path else name
                pending.append((inner, open_at(directory, name, f"{shown}/{inner}", reader, is_directory=True)))
            path, directory = pending.pop()
            below = []
            stack.append((directory, path, below))
            with acting_as(reader), os.scandir(directory) as scan:
                found = {entry.name: entry for entry in islice(scan, MOST_ENTRIES + 1 - count)}
            for name in choose(sorted(found)):
                inner = f"{path}/{name}" if path else name
                data = found[name].stat(follow_symlinks=False)
                count, size = count + 1, size + (data.st_size if stat.S_ISREG(data.st_mode) else 0)
                _check_bounds(shown, inner, count, 0 if most_bytes is None else size)
                yield Entry(inner, name, directory, data)
                if stat.S_ISDIR(data.st_mode):
                    below.append(name)
            below.reverse()
    finally:
        for directory, _, _ in stack:
            os.close(directory)


def _check_bounds(shown: str, path: str, count: int, size: int) -> None:
    for wrong, what in (
        (count > MOST_ENTRIES, f"holds more than {MOST_ENTRIES} files"),
        (size > MOST_BYTES, f"holds more than {MOST_BYTES >> 30} GiB"),
        (path.count("/") >= DEEPEST, f"holds directories in each other, more than {DEEPEST} deep"),
        (len(os.fsencode(path)) > LONGEST, f"holds a path of more than {LONGEST} bytes"),
    ):
        if wrong:
            raise Problem("source-too-large", f"{shown} {what}", "name its subdirectory", transient=False)
