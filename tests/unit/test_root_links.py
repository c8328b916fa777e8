"""Links inside a root lead nowhere out of it, whatever is written, read back, healed or deleted there."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds import K, T, installed, record

from kmodd.build.logs import LogReader
from kmodd.dropins import DropinFiles
from kmodd.errors import Problem
from kmodd.files import TEMPORARY
from kmodd.install import Installation, run_depmod
from kmodd.loading import MARK
from kmodd.model import Dropin
from kmodd.paths import Sysroot
from kmodd.record import KernelRecord
from kmodd.store import Store

#: What a hostile image could have made links of, and who writes there.
PLACES = (
    "lib",
    "usr/lib/modules",
    f"usr/lib/modules/{K}/extra",
    f"usr/lib/modules/{K}/extra/m",
    "var/lib",
    "var/lib/kmodd",
    "var/lib/kmodd/targets",
    f"var/lib/kmodd/targets/{K}",
    f"var/lib/kmodd/targets/{K}/m.objects",
    "var/lib/kmodd/kernels",
    "var/log/kmodd",
    "var/log/kmodd/m",
    f"var/log/kmodd/m/{K}",
    "etc/modprobe.d",
    "etc/depmod.d",
    "etc/depmod.d/kmodd-m.conf",
    "run/kmodd",
    "var/lib/kmodd/lock",
)
KINDS = ("absolute", "relative", "through another")


def content(top: Path) -> dict[str, object]:
    """Return all that is below a directory, with contents and times."""
    return {
        str(path): (os.lstat(path).st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(top.rglob("*"))
    }


@pytest.fixture(params=[(place, kind) for place in PLACES for kind in KINDS], ids=" ".join)
def trap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Sysroot, Path]]:
    """A root in which one place is a link out of it, and what is there, which must stay as it is."""
    place, kind = request.param
    root, canary = tmp_path / "root", tmp_path / "canary"
    below = canary
    for part in (K, "extra", "m"):
        below = below / part
        below.mkdir(parents=True)
        for name in (f".x{TEMPORARY}", "m.json", "kmodd-m.conf", "m.ko", "20260101T000000-0.log", f"{K}.json"):
            (below / name).write_text(f"{MARK} {name}")
        (below / "m.objects.new").mkdir()
    for name in ("kmodd-m.conf", f".kmodd-m.conf{TEMPORARY}", "lock", f"{K}.json", "m.json"):
        (canary / name).write_text(f"{MARK} for module m")
    if place.endswith((".conf", "lock")):
        canary = canary / "kmodd-m.conf"
    link = root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    to = {"absolute": str(canary), "relative": f"{'../' * 30}{canary.relative_to('/')}", "through another": "/etc/hop"}
    link.symlink_to(to[kind])
    if kind == "through another":
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc/hop").symlink_to(canary)
    if place != "lib":
        (root / "lib").symlink_to("usr/lib")
    before = content(tmp_path / "canary")
    yield Sysroot.at(str(root)), root
    assert content(tmp_path / "canary") == before


def test_what_is_remembered_stays_inside(trap: tuple[Sysroot, Path]) -> None:
    sysroot, root = trap
    store = Store(sysroot)
    store.check_writable()
    store.heal()
    thing = root / "m.ko"
    thing.write_bytes(b"object")
    store.keep_objects(T, [thing], b"symvers")
    store.write(record())
    store.write_kernel(KernelRecord(kernel=K))
    again = Store(sysroot)
    assert again.records() == {T: record()} and again.kernel_records().keys() == {K}
    assert again.symvers(T) is not None
    again.forget(T)
    again.forget_kernel(K)
    assert Store(sysroot).records() == {}


def test_what_is_installed_stays_inside(trap: tuple[Sysroot, Path]) -> None:
    sysroot, root = trap
    work = Installation(sysroot)
    work.heal()
    source = root / "source.ko"
    source.write_bytes(b"object")
    mine = installed()
    asyncio.run(work.install(T, [(source, mine.objects[0])], mine, lambda _: None))
    assert sysroot.resolve(mine.objects[0].path).read_bytes() == b"object"
    work.remove(T, mine)
    assert not sysroot.resolve(mine.objects[0].path).exists()
    work.clean_kernel(K)


def test_generated_files_stay_inside(trap: tuple[Sysroot, Path]) -> None:
    sysroot, _ = trap
    files = DropinFiles(sysroot)
    files.heal()
    assert files.read() == ()
    for kind in ("modprobe", "depmod"):
        dropin = Dropin(kind, "m", f"{MARK} for module m\n# Kernels: {K}\n", (K,) if kind == "depmod" else ())
        try:
            files.write(dropin)
        except Problem as problem:
            assert problem.code == "dropin-foreign", "it is somebody's link"
            continue
        assert dropin in files.read()
        files.remove(dropin)
    assert files.read() == ()


def test_logs_and_the_lock_stay_inside(trap: tuple[Sysroot, Path]) -> None:
    sysroot, root = trap
    directory = sysroot.log_directory("m", K)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "20260101T000000-0.log").write_text("said\n")
    (found,) = LogReader(sysroot).attempts("m", K)
    assert LogReader(sysroot).read(found["log"]) == "said\n"
    assert root in sysroot.lock.parents and not sysroot.lock.is_symlink()


def test_depmod_writes_where_a_link_leads_inside_the_root(tmp_path: Path) -> None:
    """depmod itself follows an absolute link out of it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for top in (root / f"{outside}"[1:], outside):
        (top / f"modules/{K}/extra/m").mkdir(parents=True)
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            (top / f"modules/{K}" / name).touch()
    thing = root / f"{outside}"[1:] / f"modules/{K}/extra/m/m.ko"
    subprocess.run(["cc", "-c", "-x", "c", "-o", thing, "-"], input=b"int x;", check=True)
    (root / "lib").symlink_to(outside)
    (root / "usr/lib").parent.mkdir()
    (root / "usr/lib").symlink_to(outside)
    before = content(outside)
    asyncio.run(run_depmod(Sysroot.at(str(root)), K))
    assert content(outside) == before
    assert "extra/m/m.ko" in (thing.parents[2] / "modules.dep").read_text()


@pytest.mark.parametrize("place", [p for p in PLACES if not p.endswith((".conf", "lock"))])
def test_a_loop_of_links_is_one_problem_of_its_place_alone(tmp_path: Path, place: str) -> None:
    """What cannot be reached is passed over where all is looked at, and refused where it is asked for."""
    link = tmp_path / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(link.name)
    if place != "lib":
        (tmp_path / "lib").symlink_to("usr/lib")
    sysroot = Sysroot.at(str(tmp_path))
    whole = place in ("lib", "usr/lib/modules", "var/lib", "var/lib/kmodd", "var/lib/kmodd/targets", "run/kmodd")
    whole = whole or place in ("var/lib/kmodd/kernels", "etc/modprobe.d", "etc/depmod.d", "var/log/kmodd")
    if not whole:
        Installation(sysroot).heal()
        Store(sysroot).heal()
        assert Store(sysroot).records() == {}
    with pytest.raises(Problem, match="too many levels"):
        sysroot.resolve(f"/{place}/x")


def test_roots_own_links_are_followed_as_ever(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/modules" / K / "extra/m").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "var").mkdir()
    (tmp_path / "data/logs").mkdir(parents=True)
    (tmp_path / "var/log").symlink_to("/data/logs")
    sysroot = Sysroot.at(str(tmp_path))
    assert sysroot.extra(K, "m") == tmp_path / "usr/lib/modules" / K / "extra/m"
    assert sysroot.log_directory("m", K) == tmp_path / "data/logs/kmodd/m" / K
    assert sysroot.inside(sysroot.extra(K, "m")) == f"/usr/lib/modules/{K}/extra/m"
    (tmp_path / "data/link").symlink_to("/usr")
    assert sysroot.entry("/data/link") == tmp_path / "data/link"
    assert sysroot.resolve("/data/link") == tmp_path / "usr"
    assert Sysroot(Path("/")).below(Path("/proc"), "self", "..") == Path("/proc")
