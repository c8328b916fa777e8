"""Directories are deleted however deep, however many, and whatever stands in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kmodd.core.settings import SettingsSource
from kmodd.core.sysroot import Sysroot
from kmodd.reconcile.reconciler import Reconciler
from kmodd.system.deleting import delete_tree, remove_tree

#: Makes directories in each other, more than a path may be long.
DEEP = """
import os, sys
for number in range(int(sys.argv[1])):
    os.mkdir("directory"); open("file", "w").close(); os.chdir("directory")
"""


def deep(top: Path) -> None:
    subprocess.run([sys.executable, "-c", DEEP, "3000"], cwd=top, check=True)


def many(top: Path) -> None:
    for number in range(12_000):
        (top / str(number)).touch()


def branches(top: Path) -> None:
    for one in range(10):
        for two in range(10):
            (top / f"{one}/{two}/same").mkdir(parents=True)
            (top / f"{one}/{two}/same/file").touch()


def closed(top: Path) -> None:
    (top / "a/b/c").mkdir(parents=True)
    for path in ("a/b/c", "a/b", "a"):
        (top / path).chmod(0)


def special(top: Path) -> None:
    os.mkfifo(top / "pipe")
    (top / "link").symlink_to("/etc")
    os.close(os.open(os.fsencode(top) + b"/\xff\n", os.O_CREAT | os.O_WRONLY))


KINDS = [deep, many, branches, closed, special]


@pytest.mark.parametrize("make", KINDS, ids=lambda kind: kind.__name__)
def test_everything_goes(tmp_path: Path, make: Callable[[Path], None]) -> None:
    top = tmp_path / "top"
    top.mkdir()
    make(top)
    assert delete_tree(top)
    assert os.listdir(tmp_path) == []
    assert Path("/etc").is_dir()


def test_file_link_and_nothing_are_trees_too(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "file").touch()
    for name in ("link", "file", "none"):
        assert delete_tree(tmp_path / name)
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_mount_point_stays_with_what_is_in_it_and_the_rest_goes(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a/mounted").mkdir(parents=True)
    (top / "a/other").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", top / "a/mounted"], check=True)
    try:
        (top / "a/mounted/kept").touch()
        assert not delete_tree(top)
        with pytest.raises(OSError, match="not empty"):
            remove_tree(top)
        assert [str(p.relative_to(top)) for p in top.rglob("*")] == ["a", "a/mounted", "a/mounted/kept"]
    finally:
        subprocess.run(["umount", top / "a/mounted"], check=True)
    assert delete_tree(top)


def test_what_a_build_left_is_gone_after_the_next_start_whatever_it_is(tmp_path: Path) -> None:
    sysroot = Sysroot(tmp_path)
    scratch = sysroot.scratch / "6.1.m"
    scratch.mkdir(parents=True)
    deep(scratch)
    Reconciler(sysroot, SettingsSource(), lambda _: None).heal()
    assert os.listdir(sysroot.scratch) == []


def test_step_of_healing_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reconciler = Reconciler(Sysroot(tmp_path), SettingsSource(), lambda _: None)
    healed = []

    def fail() -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(reconciler.store, "heal", fail)
    monkeypatch.setattr(reconciler.installation, "heal", lambda: healed.append("installation"))
    reconciler.heal()
    assert healed == ["installation"]
