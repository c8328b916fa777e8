"""Links inside a root lead nowhere out of it, whatever is written, read back, healed or deleted there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds import K, T, installed, record

from kmodd.control.address import socket_of
from kmodd.core.dropincontent import MARK
from kmodd.core.errors import Problem
from kmodd.core.model import Dropin
from kmodd.core.record import KernelRecord
from kmodd.core.sysroot import Sysroot
from kmodd.deploy.dropins import DropinFiles
from kmodd.deploy.install import Installation, run_depmod
from kmodd.host.kernels import KernelReader, find_own
from kmodd.host.store import Store
from kmodd.kbuild.logfiles import LogReader
from kmodd.kbuild.progress import estimate
from kmodd.sign import Keyring
from kmodd.system.files import TEMPORARY
from kmodd.system.lock import Lock
from kmodd.verify.dependants import find_dependants
from kmodd.verify.probe import Probe
from kmodd.verify.symbols import find_symvers

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
    found = asyncio.run(Probe(Sysroot.at(str(root))).resolve(K, "m", f"/lib/modules/{K}/extra/m/m.ko"))
    assert found.fault is None, "modprobe follows it, too"


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


def link_out(path: Path, to: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)


@pytest.mark.parametrize("name", ["updates", "extra", "extra/m", "modules.dep", "modules.builtin", "kernel"])
def test_a_kernel_that_would_lead_depmod_out_of_the_root_is_passed_over(tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    directory = root / "lib/modules" / K
    directory.mkdir(parents=True)
    (directory / "modules.order").touch()
    sysroot, reader = Sysroot.at(str(root)), KernelReader(Sysroot.at(str(root)))
    (outside / "d").mkdir(parents=True)
    (outside / "f").touch()
    link_out(directory / name, outside / ("f" if name.startswith("modules") else "d"))
    before = content(outside)
    assert reader.read((), (), {}, {}) == {}
    assert [(broken.name, broken.fault.problem) for broken in reader.skipped] == [(K, "link-leads-out")]
    with pytest.raises(Problem) as caught:
        asyncio.run(run_depmod(sysroot, K))
    assert caught.value.code == "link-leads-out" and content(outside) == before
    (directory / name).unlink()
    for harmless in ("build", "source", "config", "symvers.gz"):
        link_out(directory / harmless, outside / "d/x")
    (root / "data").mkdir()
    (root / "file").touch()
    link_out(directory / name, Path(f"{'../' * (3 + name.count('/'))}{'file' if '.' in name else 'data'}"))
    assert set(reader.read((), (), {}, {})) == {K}


def test_what_a_kernel_says_of_itself_is_read_inside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    directory = root / "lib/modules" / K
    for top in (outside, root / str(outside)[1:]):
        top.mkdir(parents=True)
        inside = "inside" if top != outside else "outside"
        (top / "config").write_text(f'CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_HASH="{inside}"\n')
        (top / "utsrelease.h").write_text(f'#define UTS_RELEASE "{K if top != outside else "9.9"}"\n')
        (top / "a.ko").touch()
    (root / str(outside)[1:] / "symvers.gz").touch()
    tree = root / "usr/src/kernels" / K
    for name in ("Makefile", ".config", "Module.symvers", "include/generated/autoconf.h", "scripts/Makefile.modpost"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    link_out(tree / "include/generated/utsrelease.h", outside / "utsrelease.h")
    for name in ("config", "symvers.gz"):
        link_out(directory / name, outside / name)
    (directory / "modules.order").write_text(f"kernel/{'../' * 30}{outside}/a.ko\n/{outside}/b.ko\n")
    (directory / "modules.dep").write_text(f"kernel/{'../' * 30}{outside}/a.ko: extra/m/m.ko\n")
    sysroot = Sysroot.at(str(root))
    kernel = KernelReader(sysroot).read((), (), {}, {})[K]
    assert (kernel.build_tree_fault, kernel.signature_hash) == (None, "inside")
    assert find_own(sysroot, directory, ["a", "b"]) == {"a": root / str(outside)[1:] / "a.ko"}
    assert find_dependants(sysroot, directory, directory / "extra/m/m.ko") == [root / str(outside)[1:] / "a.ko"]
    assert find_symvers(sysroot, kernel) == root / str(outside)[1:] / "symvers.gz"


def test_links_in_the_place_of_state_are_not_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    sysroot, stranger = Sysroot.at(str(root)), Store(Sysroot(outside))
    stranger.write(record())
    stranger.write_kernel(KernelRecord(kernel=K))
    (outside / "told").write_text('{"running": [["m", "k"]]}')
    state = root / "var/lib/kmodd"
    link_out(state / f"targets/{K}/m.json", outside / f"var/lib/kmodd/targets/{K}/m.json")
    link_out(state / f"kernels/{K}.json", outside / f"var/lib/kmodd/kernels/{K}.json")
    link_out(state / "signing.x509", outside / "told")
    for name in ("progress.json", "io.kmodd.Manager"):
        link_out(root / "run/kmodd" / name, outside / "told")
    link_out(root / f"var/log/kmodd/m/{K}/20260101T000000-0.log", outside / "told")
    store, lock = Store(sysroot), Lock(sysroot)
    assert (store.records(), store.kernel_records()) == ({}, {})
    assert LogReader(sysroot).attempts("m", K) == []
    assert root in Keyring(sysroot).published.parents
    assert socket_of(str(root)) == f"{root}{outside}/told"
    lock.acquire("test")
    lock.tell([T], "at work")
    assert lock.running() == {T}
    lock.release()
    assert (outside / "told").read_text() == '{"running": [["m", "k"]]}'


def test_a_build_is_not_estimated_by_what_lies_outside(tmp_path: Path) -> None:
    outside, logs = tmp_path / "outside", tmp_path / "m"
    outside.mkdir()
    (outside / "1.log").write_text("\n  CC [M]  a.o\n")
    own = logs / K / "2.log"
    link_out(logs / "other", outside)
    link_out(logs / K / "1.log", outside / "1.log")
    own.touch()
    assert estimate(own) is None


@pytest.mark.parametrize(
    "hostile",
    [{"module": "../../../x"}, {"kernel": "../../x"}, {"built": "../../../../x"}, {"installed": "/x"}],
    ids=str,
)
def test_records_name_nothing_outside(tmp_path: Path, hostile: dict[str, str]) -> None:
    store = Store(Sysroot(tmp_path))
    good = record()
    store.write(good)
    assert Store(Sysroot(tmp_path)).records() == {T: good}
    data = json.loads(good.model_dump_json(by_alias=True))
    for key, value in hostile.items():
        if key in ("built", "installed"):
            data[key]["objects"][0]["name"] = value
        else:
            data[key] = value
    path = tmp_path / f"var/lib/kmodd/targets/{K}/m.json"
    path.write_text(json.dumps(data))
    assert Store(Sysroot(tmp_path)).records() == {}
    assert path.with_suffix(".json.damaged").exists()
