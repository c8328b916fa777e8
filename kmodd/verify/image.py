"""Which parameters a kernel's image shows in /sys/module: the names of their directories are taken from the start.

modules.builtin.modinfo names parameters, but not whether they are shown. Formats: Documentation/arch/x86/boot.rst
(setup_sects, payload_offset), Elf64_Ehdr of elf(5), struct kernel_param of include/linux/moduleparam.h; see
param_sysfs_builtin() of kernel/params.c. Only images of x86-64 hold an ELF file. Must not: read modules.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..system.run import run
from .content import ZSTD, decompress

SECTOR, HEADER, LENGTH, MAGIC = 512, 0x1F1, 0x24C, b"HdrS"
PARAMETER, PERMISSIONS = 40, 24  # bytes of a struct kernel_param, and where in it its mode is
LONGEST = 256  # bytes of a name
SIZE_BEHIND = 4  # bytes behind a payload that is not gzip's: its size before it was compressed


class _Part(NamedTuple):
    """A section as it lies in memory and in the file."""

    name: int
    address: int
    offset: int
    size: int


async def read_shown(path: Path) -> frozenset[str]:
    """Return the names of an image's directories for parameters. Raises OSError, ValueError and Problem."""
    payload = find_payload(await asyncio.to_thread(path.read_bytes))
    if payload.startswith(ZSTD):
        payload = (await run(["zstd", "-dc"], stdin=payload)).stdout
    return await asyncio.to_thread(lambda: find_shown(decompress(payload)))


def find_payload(image: bytes) -> bytes:
    """Return the compressed kernel in a bzImage. Raises ValueError."""
    if image[0x202:0x206] != MAGIC or len(image) < LENGTH + 4:
        raise ValueError("it is no bzImage")
    offset, length = struct.unpack_from("<II", image, LENGTH - 4)
    start = (image[HEADER] + 1) * SECTOR + offset
    payload = image[start : start + length]
    return payload[:-SIZE_BEHIND] if payload.startswith(ZSTD) else payload


def find_shown(kernel: bytes) -> frozenset[str]:
    """Return the names of the directories that an uncompressed kernel makes for parameters. Raises ValueError."""
    try:
        parts = _parts(kernel)
        table = next(part for part in parts if _text(kernel, part.name) == "__param")
        found = set()
        for at in range(table.offset, table.offset + table.size - PARAMETER + 1, PARAMETER):
            (name,), (mode,) = struct.unpack_from("<Q", kernel, at), struct.unpack_from("<H", kernel, at + PERMISSIONS)
            module, dot, _ = _text(kernel, _find(parts, name)).partition(".")
            if mode and dot:
                found.add(module)
        return frozenset(found)
    except (struct.error, StopIteration) as error:
        raise ValueError("it is no kernel with a table of parameters") from error


def _parts(kernel: bytes) -> list[_Part]:
    """Return the sections, their names as places in the file."""
    if kernel[:6] != b"\x7fELF\x02\x01":
        raise ValueError("it holds no ELF file")
    (start,) = struct.unpack_from("<Q", kernel, 40)
    size, count, strings = struct.unpack_from("<HHH", kernel, 58)
    heads = [struct.unpack_from("<IIQQQQ", kernel, start + size * number) for number in range(count)]
    names = heads[strings][4] if strings < len(heads) else 0
    return [_Part(names + head[0], head[3], head[4], head[5]) for head in heads]


def _find(parts: Sequence[_Part], address: int) -> int:
    """Return where in the file an address is."""
    part = next(part for part in parts if part.address and 0 <= address - part.address < part.size)
    return part.offset + address - part.address


def _text(data: bytes, at: int) -> str:
    return data[at : at + LONGEST].partition(b"\0")[0].decode(errors="replace")
