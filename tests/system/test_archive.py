"""Modules whose source is an archive, good and bad, with the real sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import tarfile
from pathlib import Path

import pytest
from ground.archives import COMPRESSIONS, entry, link, source, tar, zip_archive
from world import GOOD, World

from kmodd.core.errors import Problem
from kmodd.core.model import Kernel
from kmodd.core.settings import SettingsSource
from kmodd.core.sysroot import Sysroot
from kmodd.kbuild import workspace as rooms
from kmodd.kbuild.builder import Builder
from kmodd.kbuild.jobserver import Jobserver
from kmodd.kbuild.unpack import unpack
from kmodd.kbuild.workspace import Workspace

pytestmark = pytest.mark.system


def files(name: str) -> dict[str, str]:
    return {"Makefile": f"obj-m := {name}.o\n", f"{name}.c": GOOD.format(name=name)}


def place(world: World, name: str) -> Path:
    path = world.root / "srv/src" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def register(world: World, name: str, path: Path, more: str = "") -> None:
    where = str(path)[len(str(world.root)) :]
    world.registry(name).write_text(f'[source]\narchive = "{where}"\n{more}')


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_archives_of_every_kind_are_built(world: World) -> None:
    for kind in ("", "zst", *COMPRESSIONS):
        name = f"m{kind}"
        path = tar(place(world, f"{name}-1.0.archive"), source(f"{name}-1.0", files(name)), kind)
        register(world, name, path, f'sha256 = "{digest(path).upper()}"\n')
    inner = [(f"a/b/{name}", text.encode(), 0o644) for name, text in files("mzip").items()]
    path = zip_archive(place(world, "mzip.archive"), inner)
    path.chmod(0o600)
    register(world, "mzip", path, "strip = 2\n")
    world.sync()
    names = ["m", "mbz2", "mgz", "mxz", "mzip", "mzst"]
    assert [world.verdict(name) for name in names] == ["ready"] * 6, world.ctl("status").stdout
    assert world.extra() == [f"{name}/{name}.ko" for name in names]
    assert world.plan() == "nothing to do"


def test_another_archive_is_built_and_one_of_another_digest_is_not(world: World) -> None:
    path = tar(place(world, "foo.tar.gz"), source("foo-1.2", files("foo")), "gz")
    good = digest(path)
    register(world, "foo", path, f'sha256 = "{"0" * 64}"\n')
    world.sync()
    found = world.target("foo")
    assert (found["verdict"], found["problem"]) == ("failed", "archive-mismatch"), found
    register(world, "foo", path, f'sha256 = "{good}"\n')
    world.sync()
    first = world.target("foo")
    assert first["verdict"] == "ready"
    changed = {**files("foo"), "foo.c": files("foo")["foo.c"].replace("value = 1", "value = 2")}
    tar(path, source("foo-1.3", changed), "gz")
    world.sync()
    found = world.target("foo")
    assert found["verdict"] == "ready", "what is installed stays"
    for text in ("foo.toml: source.archive: /srv/src/foo.tar.gz has the sha256", digest(path), good):
        assert text in found["reason"], found
    assert world.extra() == ["foo/foo.ko"]
    register(world, "foo", path, f'sha256 = "{digest(path)}"\n')
    assert "its source changed" in world.plan()
    world.sync()
    assert world.verdict("foo") == "ready"
    assert world.target("foo")["objects"] != first["objects"]
    tar(path, source("foo-1.2", files("foo")), "gz")
    register(world, "foo", path)
    assert "its source changed" in world.plan(), "the digest counts where none is given, too"


def test_archive_is_registered_with_its_digest(world: World) -> None:
    path = tar(place(world, "foo-1.2.tar.xz"), source("foo-1.2", files("foo")), "xz")
    done = world.ctl("add", "/srv/src/foo-1.2.tar.xz")
    assert done.returncode == 0, done.stderr
    text = world.registry("foo").read_text()
    assert f'archive = "/srv/src/foo-1.2.tar.xz"\nsha256 = "{digest(path)}"\n' in text
    assert 'version = "1.2"' in text
    world.sync()
    assert world.verdict("foo") == "ready"
    done = world.ctl("add", "/srv/src/nowhere.tar")
    assert "/srv/src/nowhere.tar is neither a directory nor an archive" in done.stderr


BAD = {
    "escape": ("archive-unsafe", "top/l is a link that leads outside, to ../../../../etc"),
    "through": ("archive-unsafe", "top/l/evil goes through the link top/l"),
    "dots": ("archive-unsafe", "top/../../evil has '..' in its name"),
    "device": ("archive-unsafe", "top/mem is a device or a pipe"),
    "cut": ("archive-invalid", "is truncated or damaged"),
    "cutzst": ("archive-invalid", "premature end"),
    "text": ("archive-invalid", "is neither a tar archive"),
    "top": ("archive-invalid", "Makefile has fewer directories than source.strip = 1 drops"),
    "gone": ("source-missing", "gone.toml: source.archive: /srv/src/gone does not exist"),
    "directory": ("source-not-file", "directory.toml: source.archive: /srv/src/directory is not a file"),
    "pipe": ("source-not-file", "is not a file"),
}


def test_bad_archives_are_refused_and_harm_nobody(world: World) -> None:
    good = source("top", files("bad"), "top")
    for name, more in {
        "escape": [link("top/l", "../../../../etc")],
        "through": [link("top/l", "."), entry("top/l/evil", b"x")],
        "dots": [entry("top/../../evil", b"x")],
        "device": [entry("top/mem", kind=tarfile.CHRTYPE, devmajor=1, devminor=1)],
        "top": [entry("Makefile", b"obj-m := bad.o\n")],
    }.items():
        tar(place(world, name), [*good, *more], "xz")
    os.truncate(tar(place(world, "cut"), good, "gz"), 300)
    os.truncate(tar(place(world, "cutzst"), good, "zst"), 200)
    place(world, "text").write_text("<html>not found</html>")
    place(world, "directory").mkdir()
    os.mkfifo(place(world, "pipe"))
    for name in BAD:
        register(world, name, place(world, name))
    world.add("good")
    world.sync()
    for name, (problem, text) in BAD.items():
        found = world.target(name)
        assert (found["verdict"], found["problem"]) == ("failed", problem), found
        assert text in found["reason"] and f"{name}.toml: source.archive: /srv/src/{name}" in found["reason"], found
        assert found["hint"]
    assert world.extra() == ["good/good.ko"]
    assert not list(world.root.rglob("evil"))
    assert world.plan() == "nothing to do", "what is refused is not tried again"


def test_times_of_an_archive_keep_generated_files_from_being_made_again(world: World) -> None:
    """As in a release whose generated files are newer than what they are made of."""
    rules = "$(obj)/foo.o: $(obj)/made.h\n$(obj)/made.h: $(src)/made.in\n\t$(error made.h is made again)\n"
    items = source("foo-1.2", {**files("foo"), "Makefile": f"obj-m := foo.o\n{rules}"})
    items += [entry("foo-1.2/made.h", b"", mtime=1_600_000_100), entry("foo-1.2/made.in", b"", mtime=1_600_000_000)]
    register(world, "foo", tar(place(world, "foo.tar"), items))
    world.sync()
    assert world.verdict("foo") == "ready", world.build_log("foo")


def unpack_alone(root: Path, archive: Path) -> Problem:
    """Return the problem that unpacking an archive in the sandbox is."""

    async def work() -> None:
        sysroot = Sysroot(root)
        builder = Builder(sysroot, Jobserver(lambda: 1), SettingsSource())
        scratch = builder.make_scratch("x")
        (scratch / "source").mkdir()
        os.chown(scratch / "source", *builder.owners[scratch])
        archive.rename(scratch / "tmp/archive")
        log = root / "log"
        log.touch()
        kernel = Kernel("6.1", build_tree="/usr/src/x")
        workspace = Workspace(sysroot, scratch, builder.owners[scratch], kernel, log)
        await unpack(workspace, scratch / "tmp/archive", "archive", 1)

    with pytest.raises(Problem) as caught:
        asyncio.run(work())
    return caught.value


def test_zstd_bomb_is_stopped(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rooms.LIMITS, resource.RLIMIT_FSIZE, 1 << 20)
    problem = unpack_alone(tmp_path, tar(tmp_path / "x", [entry("t/a", bytes(1 << 22))], "zst"))
    assert (problem.code, problem.transient) == ("archive-too-large", False)


def test_header_that_wants_much_memory_is_refused(tmp_path: Path) -> None:
    """A pax header is read as a whole, before anything can be said of its member."""
    item = tarfile.TarInfo("t/a")
    item.type, item.size = tarfile.XHDTYPE, 3 << 30
    with (tmp_path / "x").open("wb") as stream:
        stream.write(item.tobuf(tarfile.GNU_FORMAT))
        stream.truncate(3 << 30)
    problem = unpack_alone(tmp_path, tmp_path / "x")
    assert (problem.code, problem.message) == ("archive-too-large", "archive: takes too much memory to unpack")


def test_full_disk_is_no_fault_of_the_archive(world: World) -> None:
    cache = world.root / "var/cache/kmodd"
    world.mount(cache, "-t", "tmpfs", "-o", "size=400k", "none")
    items = source("foo", {**files("foo"), "large": "x" * 1_000_000})
    register(world, "foo", tar(place(world, "foo.tar.gz"), items, "gz"))
    world.start()
    world.wait(lambda: world.target("foo").get("problem") == "disk-full", "foo fails for want of space")
    world.unmount(cache)
    world.wait_for("foo", "ready")


def test_damaged_archive_that_is_put_right_is_built(world: World) -> None:
    path = tar(place(world, "foo.tar.gz"), source("foo", files("foo")), "gz")
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    register(world, "foo", path)
    world.sync()
    assert world.target("foo")["problem"] == "archive-invalid"
    path.write_bytes(whole)
    world.sync()
    assert world.verdict("foo") == "ready"
    assert "source.archive: /srv/src/foo.tar.gz" in world.build_log("foo")
