"""Unpacks an archive into the current directory and deletes it; run by path, on its own, inside the sandbox.

No link is made before everything else is there, so that nothing can be written through one. What a source has no use
for ends it with a status of STATUSES and a last line that names the member: absolute names, "..", links that lead
outside, devices, a name that is there twice, encryption, damage, too many or too large files. Only the executable
bit of a mode is kept. Must not: import anything of kmodd.
"""

from __future__ import annotations

import bz2
import calendar
import gzip
import lzma
import os
import resource
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, NoReturn, Optional

INVALID, UNSAFE, LARGE, FULL = 3, 4, 5, 6
#: What its statuses mean, by the code of the problem.
STATUSES = {INVALID: "archive-invalid", UNSAFE: "archive-unsafe", LARGE: "archive-too-large", FULL: "disk-full"}
SKIPPED = frozenset({".git", ".svn", ".hg", ".tmp_versions"})  # as in a directory
MEMORY = 1 << 30  # bytes of address space
STREAMS: dict[bytes, Callable[[str], IO[bytes]]] = {
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]
    b"\xfd7zXZ\0": lzma.open,
    b"BZh": bz2.open,
}
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, NotImplementedError)


class Refused(Exception):
    """Why an archive is not unpacked, and the status to end with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def shown(name: str) -> str:
    """Return a member's name fit to print."""
    return repr(name)[1:-1][:200]


def refuse(status: int, name: str, what: str) -> NoReturn:
    raise Refused(status, f"{shown(name)} {what}")


class Member(tarfile.TarInfo):
    """A member of a tar archive; tarfile takes a damaged header, and a missing end, for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Member:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise Refused(INVALID, f"is truncated or damaged: {error}") from error


class Unpacking:
    """Unpacks one archive into the current directory."""

    def __init__(self, strip: int, most_files: int, most_bytes: int) -> None:
        self.strip = strip
        self.most_files = most_files
        self.left = most_bytes
        self.seen = 0
        self.directories: set[str] = set()
        self.files: set[str] = set()
        self.links: dict[str, tuple[str, str]] = {}  # path -> (member, target)

    def place(self, name: str, *, is_directory: bool = False) -> Optional[str]:
        """Return the path of a member, its directories made; None for one that does not count."""
        self.seen += 1
        if self.seen > self.most_files:
            raise Refused(LARGE, f"holds more than {self.most_files} members")
        path = self.stripped(name, is_directory)
        if path is None:
            return None
        parts = path.split("/")
        for depth in range(1, len(parts) + is_directory):
            directory = "/".join(parts[:depth])
            if directory in self.links:
                refuse(UNSAFE, name, f"goes through the link {shown(self.links[directory][0])}")
            if directory in self.files:
                refuse(INVALID, name, "lies below a file")
            if directory not in self.directories:
                os.mkdir(directory, 0o700)
                self.directories.add(directory)
        if not is_directory and (path in self.files or path in self.links or path in self.directories):
            refuse(UNSAFE, name, "is there twice")
        return path

    def stripped(self, name: str, is_directory: bool = False) -> Optional[str]:
        """Return where a name leads, without its first directories; None for what does not count."""
        if name.startswith("/"):
            refuse(UNSAFE, name, "has an absolute name")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            refuse(UNSAFE, name, "has '..' in its name")
        if not SKIPPED.isdisjoint(parts) or (is_directory and len(parts) <= self.strip):
            return None
        if len(parts) <= self.strip:
            refuse(INVALID, name, f"has fewer directories than source.strip = {self.strip} drops")
        return "/".join(parts[self.strip :])

    def add_directory(self, name: str) -> None:
        self.place(name, is_directory=True)

    def add_file(self, name: str, size: int, mode: int, modified: float, content: IO[bytes]) -> None:
        path = self.place(name)
        if path is None:
            return
        if size > self.left:
            refuse(LARGE, name, "makes it larger than is allowed")
        if mode & (stat.S_ISUID | stat.S_ISGID):
            print(f"{shown(name)}: setuid or setgid bit dropped")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o700 if mode & 0o111 else 0o600), "wb") as stream:
            while chunk := content.read(1 << 16):
                self.left -= len(chunk)
                if self.left < 0:
                    refuse(LARGE, name, "makes it larger than is allowed")
                stream.write(chunk)
            stream.flush()
            now = time.time()
            modified = modified if 0 <= modified <= now else now
            os.utime(stream.fileno(), (modified, modified))
        self.files.add(path)

    def add_link(self, name: str, target: str) -> None:
        path = self.place(name)
        if path is not None:
            if target.startswith("/"):
                refuse(UNSAFE, name, f"is a link that leads outside, to {shown(target)}")
            self.links[path] = (name, target)

    def add_hard_link(self, name: str, target: str) -> None:
        path = self.place(name)
        if path is None:
            return
        other = self.stripped(target)
        if other not in self.files:
            refuse(UNSAFE, name, f"is a hard link to {shown(target)}, which is not in the archive before it")
        os.link(other, path)
        self.files.add(path)

    def finish(self) -> None:
        """Make the links, and delete what Kbuild made: every output X of it has a .X.cmd beside it."""
        if not self.files:
            raise Refused(INVALID, "holds no files")
        for path in self.files:
            directory, _, name = path.rpartition("/")
            record = f"{directory}/.{name}.cmd" if directory else f".{name}.cmd"
            if record in self.files or (name.startswith(".") and name.endswith(".cmd")):
                os.unlink(path)
        for path, (_, target) in self.links.items():
            os.symlink(target, path)
        top = os.getcwd()
        for path, (name, target) in self.links.items():
            if os.path.commonpath((top, os.path.realpath(path))) != top:
                refuse(UNSAFE, name, f"is a link that leads outside, to {shown(target)}")


def unpack_tar(stream: IO[bytes], unpacking: Unpacking) -> None:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=Member, encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            if member.isdir():
                unpacking.add_directory(member.name)
            elif member.issym():
                unpacking.add_link(member.name, member.linkname)
            elif member.islnk():
                unpacking.add_hard_link(member.name, member.linkname)
            elif member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                unpacking.add_file(member.name, member.size, member.mode, member.mtime, content)
            elif member.isdev():
                refuse(UNSAFE, member.name, "is a device or a pipe")
            else:
                refuse(UNSAFE, member.name, f"is of the unknown kind {member.type!r}")
    while rest := stream.read(1 << 16):  # up to the checksum
        unpacking.left -= len(rest)
        if unpacking.left < 0:
            raise Refused(LARGE, "has too much after its end")


def unpack_zip(path: str, unpacking: Unpacking) -> None:
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            name, mode = item.filename, item.external_attr >> 16
            if item.flag_bits & 1:
                refuse(INVALID, name, "is encrypted")
            if item.is_dir():
                unpacking.add_directory(name)
            elif stat.S_ISLNK(mode):
                with archive.open(item) as content:
                    unpacking.add_link(name, os.fsdecode(content.read(4096)))
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                try:
                    modified = float(calendar.timegm((*item.date_time, 0, 0, 0)))
                except ValueError:  # a month 0
                    modified = -1
                with archive.open(item) as content:
                    unpacking.add_file(name, item.file_size, mode, modified, content)
            else:
                refuse(UNSAFE, name, "is a device or a pipe")


def unpack(path: str, unpacking: Unpacking) -> None:
    """Unpack a tar archive, plain or compressed, or a zip archive, as its first bytes tell. Raises Refused."""
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        unpack_zip(path, unpacking)
    else:
        opener = next((opener for magic, opener in STREAMS.items() if head.startswith(magic)), None)
        if opener is None and head[257:262] != b"ustar":
            raise Refused(INVALID, "is neither a tar archive (plain, gzip, bzip2, xz or zstd) nor a zip archive")
        with opener(path) if opener else open(path, "rb") as stream:
            unpack_tar(stream, unpacking)
    unpacking.finish()


def main(path: str, strip: str, most_files: str, most_bytes: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        unpack(path, Unpacking(int(strip), int(most_files), int(most_bytes)))
    except Refused as refused:
        print(refused)
        return refused.status
    except MemoryError:
        print("takes too much memory to unpack")
        return LARGE
    except OSError as error:
        if error.errno is None:  # gzip's way to say that a file is damaged
            print(f"is truncated or damaged: {error}")
            return INVALID
        print(f"{shown(str(error.filename or ''))} cannot be written: {error.strerror}".lstrip())
        return FULL if error.errno == 28 else INVALID
    except DAMAGE as error:
        print(f"is truncated or damaged: {error}")
        return INVALID
    finally:
        os.unlink(path)  # nobody needs it any longer, and the sources may need the space
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
