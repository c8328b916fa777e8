"""What a kernel's image shows in /sys/module: images made by hand as Documentation/arch/x86/boot.rst describes them."""

from __future__ import annotations

import asyncio
import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest

from kmodd.verify.image import find_payload, find_shown, read_shown

BASE = 0xFFFFFFFF81000000
PARAMETERS = (("printk.time", 0o644), ("ghes.disable", 0), ("panic", 0o644), ("a.hidden", 0), ("a.shown", 0o400))


def make_kernel() -> bytes:
    """Return an uncompressed kernel: a table of parameters, and the names that it points to."""
    names = b"".join(name.encode() + b"\0" for name, _ in PARAMETERS)
    places = [names.index(name.encode()) for name, _ in PARAMETERS]
    strings = b"\0.rodata\0__param\0.shstrtab\0"
    table = b"".join(
        struct.pack("<QQQHbBIQ", BASE + place, 0, 0, mode, 0, 0, 0, 0) for place, (_, mode) in zip(places, PARAMETERS)
    )
    parts = ((b"", 0, b""), (b".rodata", BASE, names), (b"__param", BASE + 0x1000, table), (b".shstrtab", 0, strings))
    body, heads = b"", b""
    for name, address, data in parts:
        at = strings.index(name + b"\0") if name else 0
        heads += struct.pack("<IIQQQQIIQQ", at, 1, 0, address, 64 + len(body), len(data), 0, 0, 1, 0)
        body += data
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(parts), len(parts) - 1)
    return head + body + heads


def make_image(kind: str) -> bytes:
    """Return a bzImage with a kernel that was compressed in some way."""
    kernel = make_kernel()
    payload = {"plain": kernel, "gzip": gzip.compress(kernel), "xz": lzma.compress(kernel, check=lzma.CHECK_CRC32)}
    if kind == "zstd":
        payload["zstd"] = subprocess.run(["zstd", "-c"], input=kernel, capture_output=True, check=True).stdout
    data = payload[kind] + (b"" if kind == "gzip" else struct.pack("<I", len(kernel)))
    head = bytearray(3 * 512)
    head[0x1F1], head[0x202:0x206] = 2, b"HdrS"
    struct.pack_into("<II", head, 0x248, 32, len(data))
    return bytes(head) + bytes(32) + data + b"relocations"


@pytest.mark.parametrize("kind", ["plain", "gzip", "xz", "zstd"])
def test_only_parameters_that_are_shown_have_a_directory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(make_image(kind))
    assert asyncio.run(read_shown(path)) == {"printk", "a"}


def test_what_is_no_such_image_is_refused() -> None:
    image, kernel = make_image("plain"), make_kernel()
    for data in (b"", image[:0x205], image[:0x24D], b"MZ" + bytes(2000)):
        with pytest.raises(ValueError, match="no bzImage"):
            find_payload(data)
    for data in (b"", b"\x02\x21\x4c\x18 lz4", kernel[:50], kernel[:-300], kernel.replace(b"__param", b"__other")):
        with pytest.raises(ValueError):
            find_shown(data)
