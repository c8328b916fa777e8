"""What an accident keeps from being read is neither absent nor broken: it stays, and is read again."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import LIMIT, meanwhile
from worlds import NOW, POLICY, K, T, change, do, module, record, settings_of, settled, verdict, world

from kmodd.core.actions import BuildModule, RemoveDropin, RemoveModule
from kmodd.core.model import BrokenFile, Dropin, Fault, Kernel, Snapshot, Verdict
from kmodd.core.planner import judge
from kmodd.core.sysroot import Sysroot
from kmodd.host.kernels import NEEDED, KernelReader
from kmodd.host.registry import RegistryReader
from kmodd.host.store import Store
from kmodd.reconcile.observe import make_observer
from kmodd.reconcile.reconciler import Reconciler

OTHER = "6.1.0-2.el9.x86_64"
CALLS = ("stat", "lstat", "open", "scandir", "listdir", "readlink")
MACHINE, DISK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM), (errno.EIO, errno.EUCLEAN)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, number: int, *below: Path) -> Iterator[None]:
    """Have every look at something fail; io.open is what Path.open calls."""
    follow = os.readlink

    def wrap(real: Any) -> Any:
        def call(path: Any = ".", *words: Any, **more: Any) -> Any:
            name = os.fspath(path) if isinstance(path, (str, Path)) else ""
            if more.get("dir_fd") is not None:
                name = os.path.join(follow(f"/proc/self/fd/{more['dir_fd']}"), name)
            if any(name == str(place) or name.startswith(f"{place}/") for place in below):
                raise OSError(number, os.strerror(number), name)
            return real(path, *words, **more)

        return call

    with monkeypatch.context() as patched:
        for call in CALLS:
            patched.setattr(os, call, wrap(getattr(os, call)))
        patched.setattr(io, "open", wrap(io.open))
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with two kernels, of which K has a build tree, a configuration and modules of its own."""
    for release in (K, OTHER):
        directory = tmp_path / "lib/modules" / release
        for name in ("modules.order", "modules.builtin", "kernel/fs/a.ko.xz"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).touch()
        (directory / "modules.order").write_text("kernel/fs/a.ko\n")
        (directory / "config").write_text("CONFIG_MODULE_SIG=y\n")
        (directory / "build").symlink_to(f"/usr/src/other/{release}")
        tree = tmp_path / "usr/src/other" / release
        for name in (*NEEDED, "include/generated/utsrelease.h"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(f'#define UTS_RELEASE "{release}"\n')
    (tmp_path / "etc/kmodd/modules.d").mkdir(parents=True)
    (tmp_path / "etc/depmod.d").mkdir()
    (tmp_path / "etc/depmod.d/x.conf").write_text("search updates\n")
    (tmp_path / "etc/kmodd/modules.d/m.toml").write_text('[source]\npath = "/usr/src/m"\n')
    return tmp_path


def look(root: Path) -> tuple[dict[str, Kernel], list[tuple[str, str]]]:
    reader = KernelReader(Sysroot(root))
    return reader.read((), ("a",), {}, {}), [(item.name, item.fault.problem) for item in reader.skipped]


PLACES = (
    f"lib/modules/{K}/modules.order", f"lib/modules/{K}/build", f"lib/modules/{K}/config", f"lib/modules/{K}/kernel",
    f"lib/modules/{K}/modules.builtin", f"lib/modules/{K}/modules.dep", f"lib/modules/{K}",
    f"usr/src/other/{K}", f"usr/src/other/{K}/Makefile", f"usr/src/other/{K}/include/generated/utsrelease.h",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_kernel_is_as_it_was_or_passed_over(root: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = look(root)
    assert whole[0].keys() == {K, OTHER} and whole[0][K].in_tree == {"a"} and not whole[1]
    assert whole[0][K].build_tree == f"/usr/src/other/{K}"
    for number in DISK:
        with failing(monkeypatch, number, root / place):
            kernels, skipped = look(root)
        assert kernels[OTHER] == whole[0][OTHER]
        assert kernels.get(K, whole[0][K]) == whole[0][K]
        assert skipped == ([] if K in kernels else [(K, "look-interrupted")])
    for number in MACHINE:
        with failing(monkeypatch, number, root / place):
            try:
                assert look(root) == whole
            except OSError as error:
                assert error.errno == number


def test_a_kernel_with_something_else_in_a_files_place_is_passed_over_alone(root: Path) -> None:
    (root / f"lib/modules/{K}/modules.dep").mkdir()
    kernels, skipped = look(root)
    assert (kernels.keys(), skipped) == ({OTHER}, [(K, "modules-unreadable")])


@pytest.mark.parametrize("place", ["etc/kmodd/modules.d", "etc/kmodd/modules.d/m.toml"])
@pytest.mark.parametrize("number", MACHINE + DISK)
def test_a_module_whose_file_could_not_be_read_waits_and_nothing_of_it_goes(
    root: Path, place: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(monkeypatch, number, root / place):
        found = RegistryReader(Sysroot(root)).read()
    assert found.modules == {}
    assert [item.fault.problem for item in found.broken] == ["look-interrupted"]
    assert found.broken[0].whole == (not place.endswith(".toml"))
    dropins = (Dropin("modprobe", "m", "# ours\n"),)
    facts = {"kernels": settled().kernels, "records": {T: record()}, "dropins": dropins}
    there = change(Snapshot(), **facts, broken=found.broken, again=NOW + 1)
    assert not [action for action in do(there) if isinstance(action, (RemoveModule, RemoveDropin))]
    assert {judgement.verdict for judgement in judge(there, POLICY, NOW).values()} == {Verdict.WAITING}
    gone = change(Snapshot(), **facts)
    assert [type(a) for a in do(gone) if isinstance(a, (RemoveModule, RemoveDropin))] == [RemoveModule, RemoveDropin]


def test_what_is_broken_for_good_has_failed(root: Path) -> None:
    (root / "etc/kmodd/modules.d/m.toml").write_text("[")
    (item,) = RegistryReader(Sysroot(root)).read().broken
    assert item.fault.problem == "module-file-invalid"
    assert verdict(change(settled(), modules={}, broken=(item,), records={})).verdict is Verdict.FAILED


def test_what_needs_a_module_that_could_not_be_read_waits_for_it() -> None:
    unread = BrokenFile("/etc/kmodd/modules.d/dep.toml", "dep", Fault("look-interrupted", "cannot be read: x"))
    mine, known = module(build={"depends": ("dep",)}), {"broken": (unread,), "again": NOW + 1}
    found = judge(world(mine, **known), POLICY, NOW)[T]
    assert (found.verdict, found.problem) == (Verdict.WAITING, "look-interrupted")
    assert judge(settled(mine, **known), POLICY, NOW)[T].verdict is Verdict.READY


def test_a_look_says_when_it_is_to_be_repeated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = make_observer(Sysroot(root), settings_of(), brief=True)
    assert asyncio.run(observer.observe()).again is None
    with failing(monkeypatch, errno.EIO, root / "etc/kmodd/modules.d/m.toml"):
        assert asyncio.run(observer.observe()).again is not None
    with failing(monkeypatch, errno.EIO, root / f"lib/modules/{K}/config"):
        there = asyncio.run(observer.observe())
    assert there.again is not None and there.kernels.keys() == {OTHER}
    assert asyncio.run(observer.observe()).again is None


@pytest.mark.parametrize("place", ["etc/kmodd/modules.d/m.toml", f"lib/modules/{K}/config"])
def test_the_daemon_wakes_for_it_and_stops_no_build_meanwhile(
    root: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        reconciler = Reconciler(Sysroot(root), settings_of(), lambda _: None, brief=True)
        build = asyncio.get_running_loop().create_task(meanwhile(LIMIT))
        reconciler.building.builds[T] = (BuildModule(T, "x", {}), build)
        with failing(monkeypatch, errno.EIO, root / place):
            wake = reconciler.next_wake(await reconciler.settle())
        assert wake is not None and 0 < wake <= reconciler.settings.now.retry.first
        assert not build.done()
        await reconciler.stop()

    asyncio.run(work())


@pytest.mark.parametrize("number", MACHINE)
def test_a_record_that_could_not_be_read_is_not_forgotten(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(Sysroot(tmp_path))
    store.write(record())
    path = tmp_path / f"var/lib/kmodd/targets/{K}/m.json"
    with failing(monkeypatch, number, path), pytest.raises(OSError, match=os.strerror(number)):
        Store(Sysroot(tmp_path)).records()
    assert Store(Sysroot(tmp_path)).records() == {T: record()}
