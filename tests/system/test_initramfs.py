"""Reading an initramfs: archives by cpio(1), compressed by the tools that dracut calls, and damaged in many ways."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from ground.command import run

from kmodd.core.errors import Problem
from kmodd.core.initramfs import Image, OnDisk, find_stale
from kmodd.core.sysroot import Sysroot
from kmodd.host import initramfs, initramfschild
from kmodd.host.initramfs import InitramfsReader

pytestmark = pytest.mark.system

K = "6.1.0-56+rt-amd64"
IMAGE = f"/boot/initramfs-{K}.img"
OURS = f"usr/lib/modules/{K}/extra/alpha/alpha.ko"
COMPRESSORS = {
    "none": ("cat",),
    "gzip": ("gzip", "-n", "-9"),
    "xz": ("xz", "--check=crc32", "--lzma2=dict=1MiB"),
    "lzma": ("xz", "--format=lzma"),
    "bzip2": ("bzip2",),
    "zstd": ("zstd", "-q", "-c", "-19"),
    "lz4": ("lz4", "-l", "-q", "-c", "-9"),
}
CHECKED = ("gzip", "xz", "bzip2", "zstd")  # which have sums of what they hold


def pack(top: Path) -> bytes:
    """Return a directory as dracut packs it."""
    names = "\0".join([".", *sorted(str(path.relative_to(top)) for path in top.rglob("*"))])
    argv = ["cpio", "--quiet", "--null", "--create", "--format=newc", "--owner=0:0"]
    return subprocess.run(argv, cwd=top, input=names.encode(), check=True, capture_output=True).stdout


def compress(kind: str, data: bytes) -> bytes:
    return subprocess.run(COMPRESSORS[kind], input=data, check=True, capture_output=True).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What an image has: modules, options, a large file and a link."""
    top = tmp_path / "tree"
    for name, content in {
        OURS: b"ours",
        f"usr/lib/modules/{K}/kernel/drivers/md/dm-mod.ko.xz": compress("xz", b"the kernel's own"),
        "etc/modprobe.d/kmodd-alpha.conf": b"options alpha a=1\n",
        "usr/bin/large": random.Random(1).randbytes(300_000),
        "init": b"#!/bin/sh\n",
    }.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (top / "lib").symlink_to("usr/lib")
    return top


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    return Sysroot(root)


def read(sysroot: Sysroot, data: bytes, *wanted: str) -> Image:
    path = sysroot.resolve(IMAGE)
    path.write_bytes(data)
    path.chmod(0o600)
    return asyncio.run(InitramfsReader(sysroot).read(IMAGE, wanted))


def early(top: Path) -> bytes:
    """Return the archive with microcode that comes first, padded as dracut pads it."""
    place = top / "early/kernel/x86/microcode"
    place.mkdir(parents=True)
    (place / "GenuineIntel.bin").write_bytes(bytes(5000))
    data = pack(top / "early")
    return data + bytes(-len(data) % 4096)


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_modules_and_options_are_found_behind_the_microcode(
    sysroot: Sysroot, tree: Path, tmp_path: Path, kind: str
) -> None:
    image = read(sysroot, early(tmp_path) + compress(kind, pack(tree)))
    assert image.fault is None
    assert image.formats == ("cpio", "cpio" if kind == "none" else kind)
    assert image.objects[OURS].sha256 == hashlib.sha256(b"ours").hexdigest()
    assert image.options == {"etc/modprobe.d/kmodd-alpha.conf": hashlib.sha256(b"options alpha a=1\n").hexdigest()}
    assert [item.path.rpartition("/")[2] for item in image.named(K)["dm_mod"]] == ["dm-mod.ko.xz"]


@pytest.mark.parametrize("first", COMPRESSORS)
@pytest.mark.parametrize("second", ["none", "gzip", "zstd", "lz4"])
def test_a_later_archive_stands_over_an_earlier_one(sysroot: Sysroot, tree: Path, first: str, second: str) -> None:
    old = compress(first, pack(tree))
    (tree / OURS).write_bytes(b"newer")
    image = read(sysroot, old + bytes(-len(old) % 4) + bytes(512) + compress(second, pack(tree)) + bytes(512))
    assert image.fault is None
    assert image.objects[OURS].sha256 == hashlib.sha256(b"newer").hexdigest()


def test_hard_links_have_one_content(sysroot: Sysroot, tree: Path) -> None:
    other = tree / f"usr/lib/modules/{K}/extra/beta.ko"
    os.link(tree / OURS, other)
    image = read(sysroot, pack(tree))
    assert image.objects[str(other.relative_to(tree))].sha256 == image.objects[OURS].sha256
    assert image.objects[OURS].sha256 == hashlib.sha256(b"ours").hexdigest()


def test_unified_kernel_image_has_it_in_a_section(sysroot: Sysroot, tree: Path) -> None:
    content = compress("zstd", pack(tree))
    sections = {b".linux": bytes(5000), b".initrd": content, b".uname": K.encode()}
    data = bytearray(
        b"MZ" + bytes(0x3A) + struct.pack("<I", 0x40) + b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 3, 0, 0, 0, 0, 0)
    )
    start = len(data) + 40 * len(sections)
    for name, body in sections.items():
        padded = len(body) + -len(body) % 512
        data += struct.pack("<8sIIIIIIHHI", name, len(body), 0, padded, start, 0, 0, 0, 0, 0)
        start += padded
    for body in sections.values():
        data += body + bytes(-len(body) % 512)
    image = read(sysroot, bytes(data))
    assert (image.fault, image.formats) == (None, ("uki", "zstd"))
    assert OURS in image.objects


def test_what_lies_in_a_nested_file_system_is_not_told(sysroot: Sysroot, tree: Path) -> None:
    shutil.rmtree(tree / "usr/lib/modules")
    (tree / "squash").mkdir()
    (tree / "squash/root.img").write_bytes(b"hsqs" + bytes(10000))
    image = read(sysroot, pack(tree))
    assert image.nested == "squash/root.img"
    assert not image.is_told


def test_a_compression_that_nothing_here_reads_is_no_damage(sysroot: Sysroot) -> None:
    image = read(sysroot, b"\x89LZO" + bytes(100))
    assert (image.fault, image.nested, image.is_told) == (None, "a part compressed by lzo", False)


def test_a_missing_tool_is_no_damage(sysroot: Sysroot, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMODD_PROGRAM_PATH", "/nonexistent")
    image = read(sysroot, compress("lz4", pack(tree)))
    assert image.fault is None and "lz4, which cannot be started" in image.nested


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_one_that_is_cut_off_anywhere_is_told_as_that(sysroot: Sysroot, tree: Path, kind: str) -> None:
    whole = compress(kind, pack(tree))
    for at in (0, 1, 5, 100, len(whole) // 2, len(whole) - 600):
        image = read(sysroot, whole[:at])
        assert image.fault is not None and image.fault.problem == "initramfs-failed", at
        assert IMAGE in image.fault.message and not image.is_told


def test_garbage_never_passes_for_an_image(sysroot: Sysroot, tree: Path) -> None:
    noise, right = random.Random(2), hashlib.sha256(b"ours").hexdigest()
    plain = pack(tree)
    for number in range(40):
        kind = noise.choice(list(COMPRESSORS))
        data = bytearray(compress(kind, plain))
        for _ in range(noise.randrange(1, 30)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        image = read(sysroot, bytes(data), "alpha")
        if kind in CHECKED:
            assert image.fault is not None or image.objects[OURS].sha256 == right, (number, kind)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello" * 100, "neither a cpio archive nor compressed"),
        (b"MZ" + bytes(0x3A) + struct.pack("<I", 0x40) + b"PE\0\0" + bytes(100), "without an initramfs"),
        (b"MZ" + bytes(0x3A) + struct.pack("<I", 0xFFFFFFF0), "cut off"),
        (b"070701" + b"0" * 88 + b"FFFFFFFF" + b"0" * 8, "damaged"),
        (b"070701" + b"z" * 104, "damaged"),
        (bytes(4096), "empty"),
    ],
    ids=["text", "no section", "beyond", "long name", "no number", "zeros"],
)
def test_what_is_no_image_is_said(sysroot: Sysroot, data: bytes, said: str) -> None:
    image = read(sysroot, data)
    assert image.fault is not None and said in image.fault.message


def test_a_bomb_is_bounded(sysroot: Sysroot) -> None:
    """Some KiB that claim to be 3 GiB, and zeros that go on behind an archive."""
    header = f"070701{'0' * 8}000081A4{'0' * 24}{'0' * 8}{3 << 30:08X}{'0' * 32}00000002{'0' * 8}a\0".encode()
    image = read(sysroot, compress("zstd", header + bytes(4096)))
    assert image.fault is not None and "more than 2 GiB" in image.fault.message


def test_zeros_that_never_end_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(initramfschild, "MOST_BYTES", 1 << 20)
    path = tmp_path / "image"
    path.write_bytes(compress("gzip", bytes(1 << 22)))
    with path.open("rb") as file:
        assert initramfschild.main(file.fileno(), [])["fault"] == initramfschild.LARGE


def test_many_members_are_bounded(sysroot: Sysroot, tmp_path: Path) -> None:
    one = f"070701{'0' * 8}000041ED{'0' * 72}00000002{'0' * 8}a\0".encode()
    one += bytes(-len(one) % 4)
    image = read(sysroot, compress("gzip", one * 200_100))
    assert image.fault is not None and "too many files" in image.fault.message


def test_one_that_did_not_change_is_not_read_again(
    sysroot: Sysroot, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(sysroot, compress("zstd", pack(tree)))
    sysroot.cache.mkdir(parents=True, exist_ok=True)
    second = asyncio.run(InitramfsReader(sysroot).read(IMAGE, ()))  # fills the cache, now that it can be written
    monkeypatch.setattr(initramfs, "CHILD", Path("/nonexistent"))
    assert asyncio.run(InitramfsReader(sysroot).read(IMAGE, ())) == first == second
    os.utime(sysroot.resolve(IMAGE))
    with pytest.raises(Problem, match="exit status"):
        asyncio.run(InitramfsReader(sysroot).read(IMAGE, ()))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "images": {"a": 1}}', '{"schema": 7}']
)
def test_a_damaged_cache_is_passed_over(sysroot: Sysroot, tree: Path, content: str) -> None:
    sysroot.cache.mkdir(parents=True)
    (sysroot.cache / "initramfs.json").write_text(content)
    assert OURS in read(sysroot, pack(tree)).objects


def test_reading_changes_nothing_on_boot(sysroot: Sysroot, tree: Path) -> None:
    path = sysroot.resolve(IMAGE)
    path.write_bytes(pack(tree))
    before = (path.stat(), path.parent.stat())
    asyncio.run(InitramfsReader(sysroot).read(IMAGE, ()))
    after = (path.stat(), path.parent.stat())
    assert [(s.st_mtime_ns, s.st_ctime_ns, s.st_size) for s in before] == [
        (s.st_mtime_ns, s.st_ctime_ns, s.st_size) for s in after
    ]


# -- comparing -------------------------------------------------------------------------------------------------------
def build(top: Path, text: str) -> bytes:
    """Return an object with a build id and a srcversion, as a compiler and modpost leave them."""
    source = top / "m.c"
    info = f'static const char s[] __attribute__((section(".modinfo"), used)) = "srcversion={text}";'
    source.write_text(f"{info}\nint f(void) {{ return {len(text)}; }}\n")
    run(["gcc", "-g", "-c", "-o", top / "m.o", source])
    run(["ld", "-r", "--build-id=sha1", "-o", top / "m.ko", top / "m.o"])
    return (top / "m.ko").read_bytes()


def test_a_stripped_copy_is_the_same_and_another_build_is_not(sysroot: Sysroot, tree: Path, tmp_path: Path) -> None:
    (tree / OURS).write_bytes(build(tmp_path, "AAAA"))
    whole = read(sysroot, pack(tree), "alpha").objects[OURS]
    assert whole.srcversion == "AAAA" and len(whole.build_id) > 40
    installed = [OnDisk("extra/alpha/alpha.ko", whole.sha256, whole.build_id, whole.srcversion)]
    run(["strip", "-g", tree / OURS])
    stripped = read(sysroot, pack(tree), "alpha")
    assert stripped.objects[OURS].sha256 != whole.sha256
    assert find_stale(stripped, K, installed) == []
    (tree / OURS).write_bytes(build(tmp_path, "BBBBBB"))
    (said,) = find_stale(read(sysroot, pack(tree), "alpha"), K, installed)
    assert f"{IMAGE} has another build of alpha ({OURS})" in said


def test_the_kernels_own_is_stale_where_ours_takes_its_place(sysroot: Sysroot, tree: Path) -> None:
    (said,) = find_stale(read(sysroot, pack(tree)), K, [OnDisk("extra/dm-mod.ko", "0" * 64)])
    assert "the kernel's own dm_mod" in said


def test_what_is_not_in_it_or_is_another_kernels_is_not_stale(sysroot: Sysroot, tree: Path) -> None:
    image = read(sysroot, pack(tree))
    assert find_stale(image, K, [OnDisk("extra/gamma.ko", "0" * 64)]) == []
    assert find_stale(image, "6.1.0-55-amd64", [OnDisk("extra/alpha/alpha.ko", "0" * 64)]) == []
