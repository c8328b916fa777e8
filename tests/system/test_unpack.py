"""What the child unpacks is what is in the archive; what it refuses is named, and nothing of it gets anywhere."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from ground.archives import COMPRESSIONS, entry, link, tar, zip_archive

from kmodd.kbuild.unpackchild import INVALID, LARGE, UNSAFE
from kmodd.kbuild.unpackchild import __file__ as CHILD

pytestmark = pytest.mark.system

DIRECTORY = tarfile.DIRTYPE
GOOD = [
    entry("foo-1.2", kind=DIRECTORY, mode=0o755),
    entry("foo-1.2/Makefile", b"obj-m := a.o\n"),
    entry("foo-1.2/src", kind=DIRECTORY),
    entry("foo-1.2/src/a.c", b"int a;\n"),
    entry("foo-1.2/configure", b"#!/bin/sh\n", mode=0o755),
    link("foo-1.2/src/inner", "../Makefile"),
    link("foo-1.2/Kbuild", "foo-1.2/Makefile", tarfile.LNKTYPE),
]


def unpack(archive: Path, strip: int = 1, files: int = 1000, size: int = 1 << 20) -> tuple[int, str, Path]:
    """Return the child's status, what it said, and the directory that it unpacked to."""
    top = archive.parent / "source"
    top.mkdir()
    (archive.parent / "witness").write_text("untouched")
    argv = [sys.executable, "-I", "-S", "-B", CHILD, archive, str(strip), str(files), str(size)]
    done = subprocess.run(argv, cwd=top, capture_output=True, text=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stderr == ""
    assert (archive.parent / "witness").read_text() == "untouched"
    assert sorted(os.listdir(archive.parent)) == ["source", "witness"], "nothing lies outside"
    return done.returncode, done.stdout.strip(), top


def found(top: Path) -> dict[str, str]:
    """Return what lies below a directory: a file's content, where a link leads."""
    return {
        str(p.relative_to(top)): f"-> {os.readlink(p)}" if p.is_symlink() else p.read_text()
        for p in sorted(top.rglob("*"))
        if p.is_symlink() or p.is_file()
    }


UNPACKED = {
    "Kbuild": "obj-m := a.o\n",
    "Makefile": "obj-m := a.o\n",
    "configure": "#!/bin/sh\n",
    "src/a.c": "int a;\n",
    "src/inner": "-> ../Makefile",
}


@pytest.mark.parametrize("compression", ["", *COMPRESSIONS])
def test_tar_archive_is_known_by_its_content(tmp_path: Path, compression: str) -> None:
    status, said, top = unpack(tar(tmp_path / "misnamed.zip", GOOD, compression))
    assert (status, said) == (0, "")
    assert found(top) == UNPACKED
    assert (top / "src/a.c").stat().st_mtime == 1_600_000_000
    assert os.access(top / "configure", os.X_OK)
    assert not os.access(top / "Makefile", os.X_OK)


def test_zip_archive_is_known_by_its_content(tmp_path: Path) -> None:
    files = [
        ("foo-1.2/", b"", stat.S_IFDIR | 0o755),
        ("foo-1.2/src/a.c", b"int a;\n", stat.S_IFREG | 0o644),
        ("foo-1.2/configure", b"#!/bin/sh\n", 0o755),
        ("foo-1.2/src/inner", b"../configure", stat.S_IFLNK | 0o777),
        ("foo-1.2/dos.c", b"", 0),
    ]
    status, said, top = unpack(zip_archive(tmp_path / "misnamed.tar", files))
    assert (status, said) == (0, "")
    assert found(top) == {
        "configure": "#!/bin/sh\n", "dos.c": "", "src/a.c": "int a;\n", "src/inner": "-> ../configure",
    }  # fmt: skip
    assert os.access(top / "configure", os.X_OK)
    assert (top / "src/a.c").stat().st_mtime == 1_600_000_000


@pytest.mark.parametrize(("strip", "first"), [(0, "foo-1.2/src/a.c"), (2, "a.c")])
def test_leading_directories_are_dropped(tmp_path: Path, strip: int, first: str) -> None:
    _, _, top = unpack(tar(tmp_path / "x", [entry("./foo-1.2//src/a.c", b"int a;\n")]), strip)
    assert found(top) == {first: "int a;\n"}


def test_what_kbuild_and_version_control_left_is_not_unpacked(tmp_path: Path) -> None:
    names = ["a.c", "a.o", ".a.o.cmd", "sub/b.ko", "sub/.b.ko.cmd", ".git/HEAD", "y.o", "keep.cmd"]
    _, _, top = unpack(tar(tmp_path / "x", [entry(f"t/{name}", b"x") for name in names]))
    assert sorted(found(top)) == ["a.c", "keep.cmd", "y.o"]


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    _, _, top = unpack(tar(tmp_path / "x", [entry("t/\udcff.c", b"x")]))
    assert os.listdir(os.fsencode(top)) == [b"\xff.c"]


def test_setuid_bit_is_dropped_and_said(tmp_path: Path) -> None:
    status, said, top = unpack(tar(tmp_path / "x", [entry("t/su", b"x", mode=0o6755)]))
    assert (status, said) == (0, "t/su: setuid or setgid bit dropped")
    assert stat.S_IMODE((top / "su").stat().st_mode) == 0o700


@pytest.mark.parametrize("modified", [-5, 1e12, float("nan")])
def test_impossible_time_becomes_now(tmp_path: Path, modified: float) -> None:
    item, _ = entry("t/a", pax_headers={"mtime": str(modified)})
    with tarfile.open(tmp_path / "x", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(item)
    status, _, top = unpack(tmp_path / "x")
    assert status == 0
    assert abs((top / "a").stat().st_mtime - time.time()) < 3600


def test_sparse_member_gets_its_holes(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with (tmp_path / "t/holes").open("wb") as stream:
        stream.truncate(300_000)
        stream.write(b"begin")
    subprocess.run(["tar", "-C", tmp_path, "-cSf", tmp_path / "x", "t"], check=True)
    (tmp_path / "t/holes").unlink()
    (tmp_path / "t").rmdir()
    status, _, top = unpack(tmp_path / "x")
    assert status == 0
    assert (top / "holes").read_bytes() == b"begin" + bytes(299_995)


A = entry("t/a", b"int a;\n")
HOSTILE: dict[str, tuple[list[Any], int, str]] = {
    "absolute name": ([entry("/tmp/evil", b"x")], UNSAFE, "/tmp/evil has an absolute name"),
    "dots": ([entry("t/../../evil", b"x")], UNSAFE, "t/../../evil has '..' in its name"),
    "dots at the end": ([entry("t/x/..", kind=DIRECTORY)], UNSAFE, "t/x/.. has '..' in its name"),
    "absolute link": ([A, link("t/l", "/etc/passwd")], UNSAFE, "t/l is a link that leads outside, to /etc/passwd"),
    "escaping link": ([A, link("t/l", "../witness")], UNSAFE, "t/l is a link that leads outside, to ../witness"),
    "escape by two links": (
        [A, entry("t/d/e", kind=DIRECTORY), link("t/up", "d/e/../.."), link("t/l", "up/../witness")],
        UNSAFE,
        "t/l is a link that leads outside",
    ),
    "escape by a link to a parent": (
        [A, entry("t/d", kind=DIRECTORY), link("t/d/up", ".."), link("t/l", "d/up/../witness")],
        UNSAFE,
        "t/l is a link that leads outside",
    ),
    "file through a link": (
        [A, link("t/l", "."), entry("t/l/evil", b"x")], UNSAFE, "t/l/evil goes through the link t/l",
    ),
    "directory over a link": (
        [A, link("t/l", ".."), entry("t/l", kind=DIRECTORY)], UNSAFE, "t/l goes through the link t/l",
    ),
    "file over a link": ([A, link("t/l", "../witness"), entry("t/l", b"x")], UNSAFE, "t/l is there twice"),
    "link over a file": ([A, link("t/a", "b")], UNSAFE, "t/a is there twice"),
    "link over a directory": ([entry("t/d/a", b"x"), link("t/d", "..")], UNSAFE, "t/d is there twice"),
    "file twice": ([A, A], UNSAFE, "t/a is there twice"),
    "file twice by another spelling": ([A, entry("./t//a", b"y")], UNSAFE, "./t//a is there twice"),
    "file below a file": ([A, entry("t/a/b", b"x")], INVALID, "t/a/b lies below a file"),
    "hard link to the outside": (
        [A, link("t/h", "/etc/shadow", tarfile.LNKTYPE)], UNSAFE, "/etc/shadow has an absolute name",
    ),
    "hard link upwards": (
        [A, link("t/h", "t/../../witness", tarfile.LNKTYPE)], UNSAFE, "t/../../witness has '..' in its name",
    ),
    "hard link to what comes later": (
        [link("t/h", "t/a", tarfile.LNKTYPE), A], UNSAFE, "t/h is a hard link to t/a, which is not in the archive",
    ),
    "hard link to a link": (
        [A, link("t/l", "a"), link("t/h", "t/l", tarfile.LNKTYPE)], UNSAFE, "t/h is a hard link to t/l, which is not",
    ),
    "character device": (
        [A, entry("t/mem", kind=tarfile.CHRTYPE, devmajor=1, devminor=1)], UNSAFE, "t/mem is a device or a pipe",
    ),
    "block device": ([A, entry("t/vda", kind=tarfile.BLKTYPE, devmajor=8)], UNSAFE, "t/vda is a device or a pipe"),
    "pipe": ([A, entry("t/p", kind=tarfile.FIFOTYPE)], UNSAFE, "t/p is a device or a pipe"),
    "unknown kind": ([A, entry("t/v", kind=b"V")], UNSAFE, "t/v is of the unknown kind b'V'"),
    "too large": ([A, entry("t/big", bytes(1 << 21))], LARGE, "t/big makes it larger than is allowed"),
    "too many": ([entry(f"t/{n}") for n in range(1001)], LARGE, "holds more than 1000 members"),
    "above the top": ([entry("Makefile", b"x")], INVALID, "Makefile has fewer directories than source.strip = 1 drops"),
    "only directories": ([entry("t", kind=DIRECTORY)], INVALID, "holds no files"),
    "name too long": ([entry("t/" + "x" * 300, b"x")], INVALID, "File name too long"),
    "name to fool a terminal": ([entry("/\x1b[31m\n\udcff", b"x")], UNSAFE, r"/\x1b[31m\n\udcff has an absolute name"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_member_is_refused_by_name(tmp_path: Path, case: str) -> None:
    items, status, text = HOSTILE[case]
    done, said, _ = unpack(tar(tmp_path / "x", items))
    assert (done, text in said) == (status, True), said
    assert "\n" not in said


def test_what_follows_the_end_is_limited_too(tmp_path: Path) -> None:
    path = tar(tmp_path / "x", [A])
    status, said, _ = unpack(write(path, gzip.compress(path.read_bytes() + bytes(1 << 21))))
    assert (status, said) == (LARGE, "has too much after its end")


def truncated(path: Path, size: int) -> Path:
    os.truncate(path, size)
    return path


def patched(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)
    return path


def random(size: int) -> bytes:
    """Return bytes that do not compress, the same every time."""
    value, made = 1, bytearray()
    while len(made) < size:
        value = value * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        made += value.to_bytes(8, "little")
    return bytes(made[:size])


BIG = [entry("t/a", b"int a;\n"), entry("t/b", random(50_000))]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def encrypted(path: Path) -> Path:
    """Return a zip archive whose member says that it is encrypted, in both its headers."""
    zip_archive(path, [("t/secret.c", b"x", 0o644)])
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return write(path, bytes(data))


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty file": (lambda p: write(p, b""), "is neither a tar archive"),
    "text": (lambda p: write(p, b"<html>404 not found</html>"), "is neither a tar archive"),
    "cut in a member": (lambda p: truncated(tar(p, BIG), 30_000), "is truncated or damaged: unexpected end of data"),
    "cut in a header": (lambda p: truncated(tar(p, BIG), 1024 + 100), "is truncated or damaged: truncated header"),
    "cut between members": (lambda p: truncated(tar(p, BIG), 1024), "is truncated or damaged: empty header"),
    "damaged header": (lambda p: patched(tar(p, BIG), 1024, b"X"), "is truncated or damaged: bad checksum"),
    "cut gzip": (lambda p: truncated(tar(p, BIG, "gz"), 30_000), "is truncated or damaged: Compressed file ended"),
    "cut xz": (lambda p: truncated(tar(p, BIG, "xz"), 30_000), "is truncated or damaged: Compressed file ended"),
    "cut bzip2": (lambda p: truncated(tar(p, BIG, "bz2"), 30_000), "is truncated or damaged: Compressed file ended"),
    "damaged gzip": (lambda p: patched(tar(p, BIG, "gz"), 20_000, b"XXXX"), "is truncated or damaged"),
    "damaged xz": (lambda p: patched(tar(p, BIG, "xz"), 20_000, b"XXXX"), "is truncated or damaged"),
    "cut zip": (lambda p: truncated(zip_archive(p, [("t/a", random(9000), 0)]), 5000), "is truncated or damaged"),
    "damaged zip": (
        lambda p: patched(zip_archive(p, [("t/a", random(9000), 0)]), 3000, b"XXXX"), "is truncated or damaged",
    ),
    "encrypted zip": (encrypted, "t/secret.c is encrypted"),
    "gzip of something else": (lambda p: write(p, gzip.compress(random(2000))), "is truncated or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_archive_is_refused(tmp_path: Path, case: str) -> None:
    make, text = DAMAGED[case]
    status, said, _ = unpack(make(tmp_path / "x"))
    assert (status, said.startswith(text)) == (INVALID, True), said


ZIPS: dict[str, tuple[list[tuple[str, bytes, int]], int, str]] = {
    "dots": ([("../evil", b"x", 0)], UNSAFE, "../evil has '..' in its name"),
    "absolute": ([("/evil", b"x", 0)], UNSAFE, "/evil has an absolute name"),
    "escaping link": (
        [("t/a", b"x", 0), ("t/l", b"../witness", stat.S_IFLNK)],
        UNSAFE,
        "t/l is a link that leads outside, to ../witness",
    ),
    "device": ([("t/d", b"", stat.S_IFCHR | 0o600)], UNSAFE, "t/d is a device or a pipe"),
    "twice": ([("t/a", b"x", 0), ("t/a", b"y", 0)], UNSAFE, "t/a is there twice"),
    "bomb": ([("t/a", bytes(1 << 22), 0)], LARGE, "t/a makes it larger than is allowed"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", ZIPS)
def test_hostile_zip_is_refused_by_name(tmp_path: Path, case: str) -> None:
    files, status, text = ZIPS[case]
    done, said, _ = unpack(zip_archive(tmp_path / "x", files))
    assert (done, said) == (status, text)


def test_zip_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """The size in the directory is what a careless reader would check."""
    path = zip_archive(tmp_path / "x", [("t/a", bytes(1 << 22), 0)])
    data = bytearray(path.read_bytes())
    for at in (22, data.index(b"PK\x01\x02") + 24):
        data[at : at + 4] = (100).to_bytes(4, "little")
    status, _, top = unpack(write(path, bytes(data)))
    assert status in (INVALID, LARGE)
    assert sum(p.stat().st_size for p in top.rglob("*")) <= 1 << 20
