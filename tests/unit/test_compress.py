"""Compressed objects are what the kernel's decoders take, and come back unchanged."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from kmodd.core.errors import Problem
from kmodd.deploy.compress import compress, decompress

CONTENT = b"\x7fELF" + bytes(range(256)) * 400


@pytest.mark.parametrize(
    "kind, magic", [("", b"\x7fELF"), ("xz", b"\xfd7zXZ"), ("zst", b"\x28\xb5\x2f\xfd"), ("gz", b"\x1f\x8b")]
)
def test_an_object_is_replaced_and_comes_back(tmp_path: Path, kind: str, magic: bytes) -> None:
    path = tmp_path / "foo.ko"
    path.write_bytes(CONTENT)
    packed = asyncio.run(compress(path, kind))
    assert packed.name == (f"foo.ko.{kind}" if kind else "foo.ko")
    assert packed.read_bytes().startswith(magic)
    assert [p.name for p in tmp_path.iterdir()] == [packed.name]
    plain = tmp_path / "plain.ko"
    asyncio.run(decompress(packed, plain))
    assert plain.read_bytes() == CONTENT
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([packed.name, "plain.ko"])


def test_equal_objects_are_equal_compressed_later_too(tmp_path: Path) -> None:
    found = set()
    for name in ("a", "b"):
        path = tmp_path / name / "foo.ko"
        path.parent.mkdir()
        path.write_bytes(CONTENT)
        subprocess.run(["touch", "-d", "2001-02-03" if name == "a" else "2020-02-03", path], check=True)
        found.add(asyncio.run(compress(path, "gz")).read_bytes())
    assert len(found) == 1


def test_xz_uses_the_one_check_that_the_kernel_knows(tmp_path: Path) -> None:
    path = tmp_path / "foo.ko"
    path.write_bytes(CONTENT)
    packed = asyncio.run(compress(path, "xz"))
    listing = subprocess.run(["xz", "--robot", "--list", packed], check=True, capture_output=True, text=True).stdout
    assert "CRC32" in listing


@pytest.mark.parametrize("kind", ["xz", "zst", "gz"])
def test_a_damaged_object_is_a_problem_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "foo.ko"
    path.write_bytes(CONTENT)
    packed = asyncio.run(compress(path, kind))
    packed.write_bytes(packed.read_bytes()[:40])
    with pytest.raises(Problem) as caught:
        asyncio.run(decompress(packed, tmp_path / "plain.ko"))
    assert caught.value.code == "compression-failed"
    assert [p.name for p in tmp_path.iterdir()] == [packed.name]


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "foo.ko"
    path.write_bytes(CONTENT)
    monkeypatch.setenv("KMODD_PROGRAM_PATH", str(tmp_path))
    with pytest.raises(Problem) as caught:
        asyncio.run(compress(path, "xz"))
    assert (caught.value.code, caught.value.hint) == ("tool-missing", "dnf install xz")
    assert path.read_bytes() == CONTENT
