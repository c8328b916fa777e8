"""Releases with characters that mean something to patterns, file names and programs: +, ., ~, ^."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

from worlds import K2, K, T, do, kernel, module, record, settled, world

from kmodd.dropins import DropinFiles
from kmodd.install import run_depmod
from kmodd.loading import MARK, dropins, exactly, kernels_of
from kmodd.model import Dropin, RemoveDropin, RunDepmod, Target, WriteDropin
from kmodd.paths import Sysroot

#: Those of EL, Debian, rpm's pre-releases and snapshots, self-built ones, and neighbours that are a part of another.
RELEASES = (
    "6.1.0-5",
    "6.1.0-56",
    "6.12.0-124.8.1.el10_1.x86_64+rt",
    "6.12.0-124.8.1.el10_1.x86_64+rt-debug",
    "6.12.0-124.8.1.el10_1.x86_64",
    "6.12.117+deb12-amd64",
    "6.121117+deb12-amd64",
    "6.12.117++deb12-amd64",
    "6.12~rc1-1.x86_64",
    "6.12^20261124git-1.x86_64",
    "6.12-20261124git-1.x86_64",
    "6.1+",
    "6.1",
)


def test_an_override_is_for_one_release_alone(tmp_path: Path) -> None:
    """By real depmod, where nothing else would prefer ours: each release overrides an object of its own."""
    (found,) = dropins(module(), {release: {f"m{number}"} for number, release in enumerate(RELEASES)})
    DropinFiles(Sysroot(tmp_path)).write(found)
    (tmp_path / "etc/depmod.d/order.conf").write_text("search built-in extra\n")
    thing = tmp_path / "m.o"
    subprocess.run(["cc", "-c", "-x", "c", "-o", thing, "-"], input=b"int x;", check=True)
    for number, release in enumerate(RELEASES):
        top = tmp_path / "lib/modules" / release
        for place in ("kernel", "extra/m"):
            (top / place).mkdir(parents=True)
            for other in range(len(RELEASES)):
                os.link(thing, top / place / f"m{other}.ko")
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            (top / name).touch()
        asyncio.run(run_depmod(Sysroot(tmp_path), release))
        listed = (top / "modules.dep").read_text().splitlines()
        assert [line for line in listed if line.startswith("extra/")] == [f"extra/m/m{number}.ko:"], exactly(release)
        argv = ["/sbin/modprobe", "-d", tmp_path, "-S", release, "-C", tmp_path / "etc/depmod.d", "-D", f"m{number}"]
        assert "/extra/m/" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_the_releases_of_an_override_are_read_back_as_they_were_given(tmp_path: Path) -> None:
    (found,) = dropins(module(), {release: {"m", "n"} for release in RELEASES})
    assert found.kernels is not None and set(found.kernels) == set(RELEASES)
    files = DropinFiles(Sysroot(tmp_path))
    files.write(found)
    assert files.read() == (found,)
    assert kernels_of(found.content) == found.kernels


def test_an_override_that_an_older_version_wrote_is_replaced(tmp_path: Path) -> None:
    files = DropinFiles(Sysroot(tmp_path))
    files.write(Dropin("depmod", "m", f"{MARK} for module m\noverride m {K} extra/m\n"))
    (old,) = files.read()
    assert old.kernels is None
    own = kernel(in_tree=frozenset({"m"}))
    (new,) = dropins(module(), {K: {"m"}})
    assert do(settled(kernels=(own,), dropins=(old,))) == [
        WriteDropin(new, "says something else"),
        RunDepmod(K, "overrides change"),
    ]


def test_what_an_old_override_spoke_of_cannot_be_told_so_that_depmod_runs_for_all() -> None:
    old = Dropin("depmod", "gone", f"{MARK}\noverride x {K2} extra/gone\n", None)
    found = do(settled(kernels=(kernel(), kernel(K2)), dropins=(old,)))
    assert found == [RemoveDropin(old, "no longer wanted"), *(RunDepmod(k, "overrides change") for k in (K, K2))]


def test_depmod_runs_for_the_release_that_an_override_names_and_for_no_other() -> None:
    names = ("6.1.0-5", "6.1.0-56")
    kernels = tuple(kernel(name, in_tree=frozenset({"m"} if name == names[0] else ())) for name in names)
    records = {Target(T.module, name): record(release=name) for name in names}
    (wanted,) = dropins(module(), {names[0]: {"m"}})
    assert do(world(kernels=kernels, records=records)) == [
        WriteDropin(wanted, "is missing"),
        RunDepmod(names[0], "overrides change"),
    ]
