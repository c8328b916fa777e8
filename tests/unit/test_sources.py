"""A source is known by its content, and is copied without what Kbuild or version control left in it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from worlds import module

from kmodd.core.errors import Problem
from kmodd.core.modulefile import Module, Source
from kmodd.core.sysroot import Sysroot
from kmodd.sources import SourceReader
from kmodd.sources.digests import DigestCache
from kmodd.sources.patchfiles import find_patches
from kmodd.system.reading import reach

M = module()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "usr/src/m"
    (top / "sub").mkdir(parents=True)
    (top / "m.c").write_text("int a;\n")
    (top / "sub/x.h").write_text("#define X\n")
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "link").symlink_to("m.c")
    return top


def identity(top: Path, what: Module = M) -> str:
    return SourceReader(Sysroot(top.parents[2])).identity(what)


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def relink(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)


MATTERS: list[tuple[str, Callable[[Path], object]]] = [
    ("content", lambda t: (t / "m.c").write_text("int b;\n")),
    ("new file", lambda t: (t / "n.c").touch()),
    ("new empty directory", lambda t: (t / "empty").mkdir()),
    ("file gone", lambda t: (t / "sub/x.h").unlink()),
    ("renamed", lambda t: (t / "m.c").rename(t / "n.c")),
    ("moved", lambda t: (t / "m.c").rename(t / "sub/m.c")),
    ("executable", lambda t: (t / "m.c").chmod(0o755)),
    ("not executable", lambda t: (t / "run.sh").chmod(0o644)),
    ("link leads elsewhere", lambda t: relink(t / "link", "sub/x.h")),
    ("link becomes a file", lambda t: ((t / "link").unlink(), (t / "link").write_text("int a;\n"))),
    ("file called .cmd", lambda t: (t / "a.cmd").touch()),
    ("file beside a foreign .cmd", lambda t: put(t / "y.o")),
]


@pytest.mark.parametrize("change", [c[1] for c in MATTERS], ids=[c[0] for c in MATTERS])
def test_what_matters_changes_the_identity(top: Path, change: Callable[[Path], object]) -> None:
    before = identity(top)
    change(top)
    assert identity(top) != before


SAME: list[tuple[str, Callable[[Path], object]]] = [
    ("time", lambda t: os.utime(t / "m.c", (1, 1))),
    ("rewritten", lambda t: (t / "m.c").write_text("int a;\n")),
    ("closed to others", lambda t: (t / "m.c").chmod(0o600)),
    (".git", lambda t: put(t / ".git/HEAD")),
    (".git file of a worktree", lambda t: put(t / ".git")),
    (".svn below", lambda t: put(t / "sub/.svn/entries")),
    ("Kbuild's output", lambda t: (put(t / "m.o"), put(t / ".m.o.cmd"))),
    ("Kbuild's output below", lambda t: (put(t / "sub/m.ko"), put(t / "sub/.m.ko.cmd"))),
    (".tmp_versions", lambda t: put(t / ".tmp_versions/m.mod")),
]


@pytest.mark.parametrize("change", [c[1] for c in SAME], ids=[c[0] for c in SAME])
def test_what_does_not_matter_keeps_the_identity(top: Path, change: Callable[[Path], object]) -> None:
    before = identity(top)
    change(top)
    assert identity(top) == before


def test_place_of_the_source_is_not_part_of_its_identity(top: Path) -> None:
    before = identity(top)
    top.rename(top.with_name("other"))
    assert identity(top.with_name("other"), module(source={"path": "/usr/src/other"})) == before


def test_one_reader_sees_changes_too(top: Path) -> None:
    reader = SourceReader(Sysroot(top.parents[2]))
    before = reader.identity(M)
    (top / "m.c").write_text("int b;\n")  # as long as before
    assert reader.identity(M) != before
    (top / "m.c").write_text("int a;\n")
    assert reader.identity(M) == before


def test_memory_serves_another_process_and_never_outlives_a_change(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysroot = Sysroot(top.parents[2])
    reader = SourceReader(sysroot)
    monkeypatch.setattr("kmodd.sources.digests.RACY", -1e9)
    before = reader.identity(M)
    reader.remember()
    assert reader.digests.memory.exists()
    (top / "m.c").write_text("int b;\n")
    assert SourceReader(sysroot).identity(M) != before
    reader.digests.memory.write_text('{"x": 1}')
    (top / "m.c").write_text("int a;\n")
    assert SourceReader(sysroot).identity(M) == before


def test_source_is_never_written_to(top: Path, tmp_path: Path) -> None:
    def look() -> list[Any]:
        return [(p, p.lstat().st_mtime_ns, p.lstat().st_ctime_ns, p.lstat().st_mode) for p in sorted(top.rglob("*"))]

    before = look()
    reader = SourceReader(Sysroot(top.parents[2]))
    reader.identity(M)
    reader.copy(M, tmp_path / "copy", None)
    (tmp_path / "copy/m.c").write_text("changed")
    assert look() == before


def test_copy_holds_what_the_identity_speaks_of(top: Path, tmp_path: Path) -> None:
    for path in (".git/HEAD", "m.o", ".m.o.cmd"):
        put(top / path)
    os.utime(top / "m.c", (5, 5))
    SourceReader(Sysroot(top.parents[2])).copy(M, tmp_path / "usr/src/copy", None)
    copy = tmp_path / "usr/src/copy"
    assert sorted(str(p.relative_to(copy)) for p in copy.rglob("*")) == ["link", "m.c", "run.sh", "sub", "sub/x.h"]
    assert os.access(copy / "run.sh", os.X_OK)
    assert os.readlink(copy / "link") == "m.c"
    assert (copy / "m.c").stat().st_mtime == 5
    assert identity(top, module(source={"path": "/usr/src/copy"})) == identity(top)


def test_copy_belongs_to_the_build_user(top: Path, tmp_path: Path) -> None:
    SourceReader(Sysroot(top.parents[2])).copy(M, tmp_path / "copy", (12345, 12345))
    assert {p.lstat().st_uid for p in (tmp_path / "copy").rglob("*")} == {12345}


def test_loop_of_links_is_harmless(top: Path, tmp_path: Path) -> None:
    (top / "sub/up").symlink_to("..")
    (top / "self").symlink_to("self")
    (top / "dangling").symlink_to("/gone")
    assert identity(top)
    SourceReader(Sysroot(top.parents[2])).copy(M, tmp_path / "copy", None)
    assert os.readlink(tmp_path / "copy/sub/up") == ".."


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_special_file_is_refused(top: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "fifo":
        os.mkfifo(top / "special")
    else:
        monkeypatch.chdir(top)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("special")
    reader = SourceReader(Sysroot(top.parents[2]))
    for act in (lambda: reader.identity(M), lambda: reader.copy(M, tmp_path / "copy", None)):
        with pytest.raises(Problem, match="special is neither") as caught:
            act()
        assert caught.value.code == "source-special-file"


def test_names_that_are_not_utf8_count(top: Path, tmp_path: Path) -> None:
    before = identity(top)
    os.close(os.open(os.fsencode(top) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    assert identity(top) != before
    SourceReader(Sysroot(top.parents[2])).copy(M, tmp_path / "copy", None)
    assert b"\xff" in os.listdir(os.fsencode(tmp_path / "copy"))


def test_missing_source_and_a_file_in_its_place(top: Path) -> None:
    for path, code in (("/gone", "source-missing"), ("/usr/src/m/m.c", "source-not-directory")):
        with pytest.raises(Problem) as caught:
            identity(top, module(source={"path": path}))
        assert caught.value.code == code
        assert f"/etc/kmodd/modules.d/m.toml: source.path: {path}" in caught.value.message


UNREADABLE = """
import os, sys
from pathlib import Path
from kmodd.core.errors import Problem
from kmodd.core.modulefile import Module, ModuleFile, Source
from kmodd.core.sysroot import Sysroot
from kmodd.sources import SourceReader
file = ModuleFile.model_validate({"source": {"path": "/m"}})
root = Path(sys.argv[1])
os.chroot(root)
os.setresuid(65534, 65534, 65534)
try:
    SourceReader(Sysroot(Path("/"))).identity(Module(name="m", file=file, path="/m.toml"))
except Problem as problem:
    print(problem.code, problem.message)
"""


def test_unreadable_file_is_named(top: Path) -> None:
    (top / "sub/x.h").chmod(0)
    argv = [sys.executable, "-c", UNREADABLE, str(top.parent)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("source-unreadable /m.toml: source.path: /m/sub/x.h cannot be read: Permission")


# -- patches ---------------------------------------------------------------------------------------------------------
def test_patches_apply_by_kernel_in_order(top: Path) -> None:
    root = top.parents[2]
    patches = root / "etc/kmodd/modules.d/m.patches"
    put(patches / "a.patch", "a")
    put(root / "srv/b.patch", "b")
    said: Any = ({"file": "/srv/b.patch", "kernels": ("6.1.*",), "strip": 0}, {"file": "a.patch"})
    what = module(source={"path": "/usr/src/m", "patches": said})
    reader = SourceReader(Sysroot(root))
    own = "/etc/kmodd/modules.d/m.patches/a.patch"
    assert [(p, d.strip) for p, d in find_patches(what, "6.1.0")] == [("/srv/b.patch", 0), (own, 1)]
    assert [p for p, _ in find_patches(what, "5.14.0")] == [own]
    assert reader.patches_identity(module(), "6.1.0") == ""
    before = reader.patches_identity(what, "6.1.0")
    assert before != reader.patches_identity(what, "5.14.0")
    put(patches / "a.patch", "c")
    assert reader.patches_identity(what, "6.1.0") != before


def test_missing_patch_is_a_problem(top: Path) -> None:
    what = module(source={"path": "/usr/src/m", "patches": ({"file": "x.patch"},)})
    with pytest.raises(Problem, match=r"m\.patches/x\.patch does not exist") as caught:
        SourceReader(Sysroot(top.parents[2])).patches_identity(what, "6.1")
    assert caught.value.code == "patch-missing"


def test_digest_cache_reads_again_what_changed(tmp_path: Path) -> None:
    cache = DigestCache()

    def digest() -> str:
        with reach(Sysroot(tmp_path), "/x") as found:
            return cache.digest(found)

    put(tmp_path / "x", "a")
    first = digest()
    assert digest() == first
    put(tmp_path / "x", "b")
    assert digest() != first


SOURCES: list[dict[str, object]] = [
    {"path": "/usr/src/m-1"},
    {"archive": "/srv/m.tar"},
    {"dkms": "/usr/src/m-1/dkms.conf"},
    {"kernel": ("drivers/md/bcache",)},
]


def test_every_kind_of_source_has_its_row(tmp_path: Path) -> None:
    kinds = SourceReader(Sysroot(tmp_path)).kinds
    found = {Source.model_validate(source).kind for source in SOURCES}
    assert found == kinds.keys()
    keys = {name for name, field in Source.model_fields.items() if field.default in (None, ())}
    assert keys - {"sha256", "strip", "ignore_hooks", "patches"} == kinds.keys(), "a key without a kind"
