"""Makes the initramfs of a kernel that is about to become bootable, and reads one to its end.

dracut(8) writes where it is known to: beside the final name, from where the image is renamed once it was read. Formats:
cpio(5) newc, early archives first, then one that is compressed. Must not: judge what is inside.
"""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import lzma
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.files import remove_file, sync_directory, temporary_name
from ..system.run import find_program, run

TIMEOUT = 1200.0  # seconds
ROOM = 1.3  # of the largest initramfs that is there, which a new one may take
SPARE = 16 << 20  # bytes that stay free besides
PIECE = 1 << 20
HEADER = 110  # bytes of an entry's header in newc
END = b"TRAILER!!!"
#: How what is compressed begins -> the tool that tests it, for what Python cannot read itself.
TOOLS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4", b"\x04\x22\x4d\x18": "lz4", b"\x89LZO": "lzop"}


async def make_image(sysroot: Sysroot, release: str, largest: int) -> bool:
    """Make /boot/initramfs-RELEASE.img by dracut; tells whether there is a dracut to make it.

    largest: bytes of the largest initramfs there. Raises Problem boot-full and initramfs-failed.
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
        await check_image(fresh)
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


async def check_image(path: Path) -> None:
    """Read an initramfs to its end. Raises Problem initramfs-failed where it has none."""
    try:
        rest = await asyncio.to_thread(_check, path)
        if rest is not None:
            await _test(path, *rest)
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        text = f"the initramfs {path} is not whole: {error}"
        raise Problem("initramfs-failed", text, "dracut --force", transient=True) from error


async def _test(path: Path, tool: str, offset: int) -> None:
    """Have a tool test what begins at an offset. Where there is no such tool, it is left at the beginning."""
    if find_program(tool) is None:
        return
    data = await asyncio.to_thread(_read_from, path, offset)
    done = await run([tool, "-t", "-q"], check=False, stdin=data, timeout=TIMEOUT)
    if done.status != 0:
        raise ValueError(done.stderr.decode(errors="replace").strip() or f"{tool} -t fails")


def _read_from(path: Path, offset: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read()


def _check(path: Path) -> Optional[tuple[str, int]]:
    """Read the archives of an image. Returns the tool and the offset of what Python cannot read. Raises OSError etc."""
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            raise ValueError("it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _archives(data)


def _archives(data: mmap.mmap) -> Optional[tuple[str, int]]:
    offset, found = 0, False
    while True:
        while offset < len(data) and data[offset : offset + 4] == b"\0\0\0\0":
            offset += 4
        if offset >= len(data):
            break
        magic = data[offset : offset + 6]
        if magic in (b"070701", b"070702"):
            offset, found = _skip_archive(data, offset), True
            continue
        tool = TOOLS.get(magic[:4])
        if tool is not None:
            return tool, offset
        _decompress(data, offset, magic)
        return None
    if not found:
        raise ValueError("it holds no archive")
    return None


def _skip_archive(data: mmap.mmap, offset: int) -> int:
    """Return where an uncompressed archive ends. Raises ValueError."""
    while True:
        header = data[offset : offset + HEADER]
        if len(header) < HEADER or header[:5] != b"07070":
            raise ValueError("an archive in it was cut short")
        size, name = int(header[54:62], 16), int(header[94:102], 16)
        body = (offset + HEADER + name + 3) & ~3
        is_last = data[offset + HEADER : offset + HEADER + len(END)] == END
        offset = (body + size + 3) & ~3
        if is_last:
            return body
        if offset > len(data):
            raise ValueError("a file in it was cut short")


def _decompress(data: mmap.mmap, offset: int, magic: bytes) -> None:
    """Decompress what begins at an offset, and look for the archive's end. Raises ValueError etc."""
    unpacker: Any
    if magic[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    elif magic == b"\xfd7zXZ\0" or magic[:3] == b"\x5d\0\0":
        unpacker = lzma.LZMADecompressor()
    elif magic[:3] == b"BZh":
        unpacker = bz2.BZ2Decompressor()
    else:
        raise ValueError("it is compressed in a way that is not known")
    seen, tail = False, b""
    for piece in _pieces(data, offset):
        if unpacker.eof:
            break
        plain = tail + unpacker.decompress(piece)
        seen, tail = seen or END in plain, plain[-len(END) :]
    if not unpacker.eof:
        raise ValueError("what is compressed in it was cut short")
    if not seen:
        raise ValueError("the archive in it has no end")


def _pieces(data: mmap.mmap, offset: int) -> Iterator[bytes]:
    while offset < len(data):
        yield data[offset : offset + PIECE]
        offset += PIECE
