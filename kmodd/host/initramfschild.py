"""Reads an initramfs from an open file, and prints as JSON what modules it has; run by path, on its own.

An initramfs is a row of cpio archives, plain or compressed, with zeros between them; a unified kernel image has one in
its section .initrd. It is read as hostile: as nobody, never written to disk, with bounds for bytes and members. zstd
and lz4 are asked for what Python cannot decompress; no other program is started.

Sources: init/initramfs.c and Documentation/driver-api/early-userspace/buffer-format.rst of the kernel (newc, hard
links, padding), RFC 8878 (zstd), lib/decompress_unlz4.c (the legacy format of lz4), the PE format.
Must not: import anything of kmodd, or judge what it finds.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import os
import resource
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from typing import Any, Optional

PIECE = 1 << 16
MOST_BYTES = 2 << 30  # decompressed
MOST_MEMBERS = 200_000
MOST_LISTED = 20_000
LONGEST_NAME = 4096
LARGEST_OBJECT = 1 << 27  # bytes of one that is looked into
MEMORY = 1 << 30
NOBODY = 65534
HEADER = 110  # bytes of a newc header
LINK_TYPE, REGULAR = 0o170000, 0o100000
XZ, GZIP, BZIP2, ZSTD, LZ4, LZMA, LZO = (
    b"\xfd7zXZ\0", b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b"\x5d\0\0", b"\x89LZO"
)  # fmt: skip
SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
LARGE = f"it has more than {MOST_BYTES >> 30} GiB"
SQUASHFS, EROFS = b"hsqs", b"\xe2\xe1\xf5\xe0"  # at 0, and at 1024


class Unreadable(Exception):
    """Why an image, or the rest of one, is not read: it is damaged."""


class Untold(Exception):
    """What the rest of an image is, which nothing here can read."""


class Part:
    """Bytes in order: of the file itself, or decompressed. Raises Unreadable at a read beyond the end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.rest = b""
        self.taken = 0

    def read(self, count: int) -> bytes:
        found = b"".join(self.chunks(count))
        if len(found) < count:
            raise Unreadable("it is cut off")
        return found

    def chunks(self, count: int) -> Iterator[bytes]:
        """Yield so many bytes in pieces, fewer at the end."""
        while count:
            if not self.rest:
                self.rest = next(self.pieces, b"")
                if not self.rest:
                    return
            piece, self.rest = self.rest[:count], self.rest[count:]
            self.taken += len(piece)
            count -= len(piece)
            yield piece

    def skip_zeros(self) -> bool:
        """Pass over padding, and tell whether something follows."""
        while True:
            if not self.rest:
                self.rest = next(self.pieces, b"")
                if not self.rest:
                    return False
            kept = self.rest.lstrip(b"\0")
            self.taken += len(self.rest) - len(kept)
            self.rest = kept
            if kept:
                return True


class Archives:
    """What the members of all archives come to, the last one of a path."""

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted
        self.members = 0
        self.objects: dict[str, dict[str, Any]] = {}
        self.options: dict[str, str] = {}
        self.nested = ""

    def read_all(self, part: Part) -> None:
        while part.skip_zeros():
            self.read(part)

    def read(self, part: Part) -> None:
        """Read one archive up to its trailer."""
        linked: dict[tuple[str, ...], list[str]] = {}
        while True:
            header = part.read(HEADER)
            if header[:6] not in (b"070701", b"070702"):
                raise Unreadable("it has something that is no cpio archive of the kernel's kind")
            try:
                fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
            except ValueError:
                raise Unreadable("its cpio archive is damaged") from None
            mode, links, size, length = fields[1], fields[4], fields[6], fields[11]
            self._count(size)
            if not 0 < length <= LONGEST_NAME:
                raise Unreadable("its cpio archive is damaged")
            name = part.read(length)[:-1].decode(errors="replace")
            part.read(-(HEADER + length) % 4)
            if name == "TRAILER!!!":
                return
            inside = _normalize(name)
            is_file = mode & LINK_TYPE == REGULAR
            same = (
                linked.setdefault(tuple(map(str, (fields[0], fields[7], fields[8]))), [])
                if is_file and links > 1
                else []
            )
            same.append(inside)
            if is_file and (size or links < 2):
                self._read_file(part, same, size)
                same.clear()
            else:
                for _ in part.chunks(size):
                    pass
            part.read(-size % 4)

    def _count(self, size: int) -> None:
        self.members += 1
        if size > MOST_BYTES:
            raise Unreadable(LARGE)
        if self.members > MOST_MEMBERS or len(self.objects) > MOST_LISTED:
            raise Unreadable("it has too many files")

    def _read_file(self, part: Part, paths: list[str], size: int) -> None:
        """Read a regular file's content. paths: all of its hard links so far."""
        modules = [path for path in paths if path.endswith(SUFFIXES) and "lib/modules/" in path]
        settings = [path for path in paths if path.endswith(".conf") and "/modprobe.d/" in path]
        asked = any(_canonical(path) in self.wanted for path in modules) and size <= LARGEST_OBJECT
        digest, kept, first = hashlib.sha256(), [], b""
        left = size
        for piece in part.chunks(size):
            left -= len(piece)
            if modules or settings:
                digest.update(piece)
            if asked:
                kept.append(piece)
            if len(first) < 1028:
                first += piece[: 1028 - len(first)]
        if left:
            raise Unreadable("it is cut off")
        if size > 4096 and (first.startswith(SQUASHFS) or first[1024:] == EROFS):
            self.nested = self.nested or paths[0]
        for path in settings:
            self.options[path] = digest.hexdigest()
        for path in modules:
            said = _identify(b"".join(kept)) if asked else {}
            self.objects[path] = {"sha256": digest.hexdigest(), **said}


class Reader:
    """Reads one image."""

    def __init__(self, file: int, archives: Archives) -> None:
        self.file = file
        self.archives = archives
        self.bytes = 0
        self.formats: list[str] = []

    def read(self) -> None:
        """Read all parts. Raises Unreadable."""
        place, end = self._find_range()
        while True:
            place = self._skip_zeros(place, end)
            if place >= end:
                break
            magic = os.pread(self.file, 6, place)
            if magic in (b"070701", b"070702"):
                part = Part(self._pieces(place, end))
                self.formats.append("cpio")
                self.archives.read(part)
                place += part.taken
            else:
                place = self._read_compressed(magic, place, end)
        if not self.formats:
            raise Unreadable("it is empty")

    def _find_range(self) -> tuple[int, int]:
        size = os.fstat(self.file).st_size
        if os.pread(self.file, 2, 0) != b"MZ":
            return 0, size
        self.formats.append("uki")
        (offset,) = struct.unpack("<I", self._exact(0x3C, 4))
        if self._exact(offset, 4) != b"PE\0\0":
            raise Unreadable("it is neither an archive nor a unified kernel image")
        (sections,) = struct.unpack("<H", self._exact(offset + 6, 2))
        (optional,) = struct.unpack("<H", self._exact(offset + 20, 2))
        for number in range(min(sections, 96)):
            header = self._exact(offset + 24 + optional + 40 * number, 40)
            virtual, _, raw, start = struct.unpack("<IIII", header[8:24])
            if header[:8].rstrip(b"\0") == b".initrd":
                return start, min(start + min(virtual, raw), size)
        raise Unreadable("it is a unified kernel image without an initramfs")

    def _exact(self, place: int, count: int) -> bytes:
        found = os.pread(self.file, count, place)
        if len(found) < count:
            raise Unreadable("it is cut off")
        return found

    def _skip_zeros(self, place: int, end: int) -> int:
        while place < end:
            piece = os.pread(self.file, min(PIECE, end - place), place)
            if not piece:
                return end
            kept = piece.lstrip(b"\0")
            place += len(piece) - len(kept)
            if kept:
                break
        return place

    def _pieces(self, place: int, end: int) -> Iterator[bytes]:
        while place < end:
            piece = os.pread(self.file, min(PIECE, end - place), place)
            if not piece:
                return
            place += len(piece)
            yield piece

    def _read_compressed(self, magic: bytes, place: int, end: int) -> int:
        """Read a compressed part; returns where it ends."""
        if magic.startswith((ZSTD, LZ4)):
            name, stop = (
                ("zstd", self._end_of_zstd(place, end))
                if magic.startswith(ZSTD)
                else ("lz4", self._end_of_lz4(place, end))
            )
            self.formats.append(name)
            self.archives.read_all(Part(self._bounded(self._asked(name, place, stop))))
            return stop
        self.formats.append(_name(magic))
        unpacker = _Unpacker(_name(magic), self._pieces(place, end))
        self.archives.read_all(Part(self._bounded(unpacker.pieces())))
        return place + unpacker.consumed

    def _bounded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.bytes += len(piece)
            if self.bytes > MOST_BYTES:
                raise Unreadable(LARGE)
            yield piece

    def _asked(self, program: str, place: int, end: int) -> Iterator[bytes]:
        """Yield what zstd or lz4 makes of a part of the file."""
        try:
            child = subprocess.Popen(
                [program, "-dc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise Untold(f"a part compressed by {program}, which cannot be started ({error.strerror})") from None
        stdin, stdout = child.stdin, child.stdout
        assert stdin and stdout

        def feed() -> None:
            try:
                for piece in self._pieces(place, end):
                    stdin.write(piece)
                stdin.close()
            except OSError:
                pass  # it ended before, which its status says

        feeding = threading.Thread(target=feed, daemon=True)
        feeding.start()
        while piece := stdout.read(PIECE):
            yield piece
        if child.wait() != 0:
            raise Unreadable(f"{program} cannot decompress it: it is damaged or cut off")

    def _end_of_zstd(self, place: int, end: int) -> int:
        """Return where the frames that follow each other end (RFC 8878, 3.1.1)."""
        while place + 5 <= end and self._exact(place, 4) == ZSTD:
            (flags,) = self._exact(place + 4, 1)
            single = flags >> 5 & 1
            place += 5 + (not single) + (0, 1, 2, 4)[flags & 3] + ((1 if single else 0), 2, 4, 8)[flags >> 6]
            last = False
            while not last:
                block = int.from_bytes(self._exact(place, 3), "little")
                last, kind = bool(block & 1), block >> 1 & 3
                if kind == 3:
                    raise Unreadable("its zstd part is damaged")
                place += 3 + (1 if kind == 1 else block >> 3)
                if place > end:
                    raise Unreadable("it is cut off")
            place += 4 * (flags >> 2 & 1)
        return min(place, end)

    def _end_of_lz4(self, place: int, end: int) -> int:
        """Return where the blocks end: at a length of 0, or one that no block has."""
        place += 4
        while place + 4 <= end:
            (length,) = struct.unpack("<I", self._exact(place, 4))
            if length == struct.unpack("<I", LZ4)[0]:
                place += 4
                continue
            if length == 0 or length > 9 << 20:
                break
            place += 4 + length
            if place > end:
                raise Unreadable("it is cut off")
        return place


class _Unpacker:
    """Decompresses what Python can. consumed: bytes of the file that the part had, once it has been read."""

    def __init__(self, kind: str, source: Iterator[bytes]) -> None:
        self.kind = kind
        self.source = source
        self.consumed = 0

    def pieces(self) -> Iterator[bytes]:
        unpacker: Any = _decompressor(self.kind)
        pending = b""
        while not unpacker.eof:
            if not pending and getattr(unpacker, "needs_input", True):
                pending = next(self.source, b"")
                self.consumed += len(pending)
                if not pending:
                    raise Unreadable("it is cut off")
            try:
                piece = unpacker.decompress(pending, PIECE * 16)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as error:
                raise Unreadable(f"its {self.kind} part is damaged: {error}") from None
            pending = getattr(unpacker, "unconsumed_tail", b"")
            if piece:
                yield piece
        self.consumed -= len(unpacker.unused_data)


def _decompressor(kind: str) -> Any:
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
    return lzma.LZMADecompressor(form, memlimit=MEMORY // 4)


def _name(magic: bytes) -> str:
    """Return the kind of a compressed part that Python knows. Raises Unreadable."""
    for start, name in ((XZ, "xz"), (GZIP, "gzip"), (BZIP2, "bzip2"), (LZMA, "lzma")):
        if magic.startswith(start):
            return name
    if magic.startswith(LZO):
        raise Untold("a part compressed by lzo")
    raise Unreadable("it has something that is neither a cpio archive nor compressed in a known way")


def _normalize(name: str) -> str:
    path = os.path.normpath("/" + name).lstrip("/")
    return f"usr/{path}" if path.startswith("lib/modules/") else path


def _canonical(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _identify(data: bytes) -> dict[str, str]:
    """Return what an object says of itself: build_id (the note), srcversion; nothing where it is damaged."""
    try:
        plain = _plain(data)
        sections = _sections(plain)
    except (
        Unreadable,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        ValueError,
        IndexError,
        OSError,
        subprocess.SubprocessError,
    ):
        return {}
    said = dict(line.partition(b"=")[::2] for line in sections.get(b".modinfo", b"").split(b"\0"))
    return {
        "build_id": sections.get(b".note.gnu.build-id", b"").hex(),
        "srcversion": said.get(b"srcversion", b"").decode(errors="replace"),
    }


def _plain(data: bytes) -> bytes:
    if data.startswith(ZSTD):
        done = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True)
        return done.stdout[:LARGEST_OBJECT]
    if data.startswith((XZ, GZIP)):
        return bytes(_decompressor(_name(data[:6])).decompress(data, LARGEST_OBJECT))
    return data


def _sections(data: bytes) -> dict[bytes, bytes]:
    """Return the sections of an ELF file of 64 bits by name (elf(5))."""
    if data[:5] != b"\x7fELF\x02":
        raise ValueError("it is no ELF file")
    order = "<" if data[5] == 1 else ">"
    (offset,) = struct.unpack_from(f"{order}Q", data, 0x28)
    size, count, names = struct.unpack_from(f"{order}HHH", data, 0x3A)
    headers = [struct.unpack_from(f"{order}IIQQQQIIQQ", data, offset + size * n) for n in range(count)]
    table = data[headers[names][4] : headers[names][4] + headers[names][5]]
    found = {}
    for header in headers:
        end = table.find(b"\0", header[0])
        found[table[header[0] : end]] = data[header[4] : header[4] + header[5]]
    return found


def main(file: int, wanted: list[str]) -> dict[str, Any]:
    """Return what an open image has, and a "fault" where it could not be read to its end."""
    archives = Archives(set(wanted))
    reader = Reader(file, archives)
    fault: Optional[str] = None
    try:
        reader.read()
    except Unreadable as error:
        fault = str(error)
    except Untold as untold:
        archives.nested = str(untold)
    except MemoryError:
        fault = "it needs more memory than kmodd allows for it"
    return {
        "formats": reader.formats,
        "objects": archives.objects,
        "options": archives.options,
        "nested": archives.nested,
        "fault": fault,
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    json.dump(main(int(sys.argv[1]), sys.argv[2:]), sys.stdout)
