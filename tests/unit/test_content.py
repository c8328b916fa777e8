"""An object's bytes: compression by content, and the signature behind them."""

from __future__ import annotations

import asyncio
import gzip
import lzma
import subprocess
from pathlib import Path

import pytest

from kmodd.verify.content import LARGEST, MAGIC, Signed, decompress, read_plain, split

TEXT = b"\x7fELF and more" * 40


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["plain", "xz", "gzip", "zstd"])
def test_compression_is_told_by_the_content(tmp_path: Path, kind: str, suffix: str) -> None:
    packed = {"plain": TEXT, "xz": lzma.compress(TEXT, check=lzma.CHECK_CRC32), "gzip": gzip.compress(TEXT)}
    if kind == "zstd":
        packed[kind] = subprocess.run(["zstd", "-c"], input=TEXT, capture_output=True, check=True).stdout
    path = tmp_path / f"one.ko{suffix}"
    path.write_bytes(packed[kind])
    assert asyncio.run(read_plain(path)) == TEXT


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_what_is_cut_off_is_told(pack: object) -> None:
    packed = pack(TEXT)  # type: ignore[operator]
    with pytest.raises(ValueError, match="cannot be decompressed"):
        decompress(packed[:-9])
    with pytest.raises(ValueError, match="cannot be decompressed"):
        decompress(packed[:12] + b"\xff" * 30)


def test_what_grows_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmodd.verify.content.LARGEST", 1000)
    assert LARGEST > 1 << 28
    with pytest.raises(ValueError, match="too large"):
        decompress(lzma.compress(bytes(1 << 20)))


def trailer(length: int, kind: int = 2, **fields: int) -> bytes:
    values = {"algo": 0, "hash": 0, "signer": 0, "key": 0, "pad": 0, **fields}
    head = bytes([values["algo"], values["hash"], kind, values["signer"], values["key"], values["pad"], 0, 0])
    return head + length.to_bytes(4, "big") + MAGIC


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (TEXT, Signed(TEXT)),
        (TEXT + b"sig" + trailer(3), Signed(TEXT, b"sig")),
        (TEXT + b"sig" + trailer(3, kind=1), Signed(TEXT + b"sig" + trailer(3, kind=1)[:-28])),  # unsigned to it
        (MAGIC, Signed(MAGIC)),
    ],
)
def test_signature_is_taken_off(data: bytes, signed: Signed) -> None:
    assert split(data) == signed


@pytest.mark.parametrize("field", ["algo", "hash", "signer", "key", "pad"])
@pytest.mark.parametrize("bit", range(8))
def test_any_bit_of_the_trailer_counts(field: str, bit: int) -> None:
    assert split(TEXT + b"sig" + trailer(3, **{field: 1 << bit})).damage


@pytest.mark.parametrize("length", [len(TEXT) + 3, len(TEXT) + 400, (1 << 32) - 1])
def test_signature_longer_than_the_file_is_damage(length: int) -> None:
    assert "more than there are" in split(TEXT + b"sig" + trailer(length)).damage
    assert split(b"x" + MAGIC).damage
