"""An installed object's bytes: decompressed, and without the signature behind them.

Which compression it is, is read from the first bytes, as kmod does, not by the suffix. Sources: kmod's libkmod-file.c,
include/linux/module_signature.h, mod_check_sig(). Must not: judge what an object needs or says.
"""

from __future__ import annotations

import lzma
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from ..system.run import run

MAGIC = b"~Module signature appended~\n"
TRAILER = 12  # bytes of struct module_signature
PKCS7 = 2  # enum pkey_id_type
XZ, GZIP, ZSTD = b"\xfd7zXZ\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
LARGEST = 1 << 30  # bytes of an object, decompressed


@dataclass(frozen=True)
class Signed:
    """An object's content, the PKCS #7 signature behind it, and what is wrong with what describes that.

    signature: empty where the object is unsigned, or signed in a way that the kernel does not know and so passes over.
    """

    content: Union[bytes, memoryview]  # not a copy of what it is a part of
    signature: bytes = b""
    damage: str = ""


async def read_plain(path: Path) -> bytes:
    """Return a file's content, decompressed. Raises OSError, ValueError and Problem."""
    data = path.read_bytes()
    if data.startswith(ZSTD):
        return (await run(["zstd", "-dc"], stdin=data)).stdout
    return decompress(data)


def decompress(data: bytes) -> bytes:
    """Return what xz or gzip compressed, anything else as it is. Raises ValueError."""
    try:
        if data.startswith(XZ):
            unpacker = lzma.LZMADecompressor()
            plain = unpacker.decompress(data, LARGEST)
            return _whole(plain, unpacker.eof)
        if data.startswith(GZIP):
            inflater = zlib.decompressobj(wbits=31)
            plain = inflater.decompress(data, LARGEST)
            return _whole(plain, inflater.eof)
    except (lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error
    return data


def _whole(plain: bytes, ended: bool) -> bytes:
    if not ended:
        raise ValueError("it cannot be decompressed: it is cut off, or too large")
    return plain


def split(data: bytes) -> Signed:
    """Remove the signature from an object, as module_sig_check() does."""
    if not data.endswith(MAGIC) or len(data) == len(MAGIC):
        return Signed(data)
    end, view = len(data) - len(MAGIC), memoryview(data)
    if end <= TRAILER:
        return Signed(view[:end], damage="it is too short for a signature")
    trailer = data[end - TRAILER : end]
    length = int.from_bytes(trailer[8:], "big")
    if length >= end - TRAILER:
        return Signed(view[:end], damage=f"its signature has {length} bytes, more than there are")
    if trailer[2] != PKCS7:
        return Signed(view[:end])
    if any(trailer[:2]) or any(trailer[3:8]):
        return Signed(view[:end], damage="what describes its signature has other values than the kernel takes")
    start = end - TRAILER - length
    return Signed(view[:start], data[start : end - TRAILER])
