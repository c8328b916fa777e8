"""Who may read logs, from the moment they are made, and what is deleted with a module or a kernel."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from nobody import as_nobody
from worlds import change, record, settings_of

from kmodd.core.model import BrokenFile, Fault, Kernel, Snapshot, Target
from kmodd.core.sysroot import Sysroot
from kmodd.reconcile.logkeeping import LogKeeper

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others")
TARGET = Target("m", "6.1")
LOGS = "var/log/kmodd"


def keeper(root: Path, group: str = "adm") -> LogKeeper:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/group").write_text("root:x:0:\nadm:x:4004:\nbroken\nodd:x:none:\n")
    return LogKeeper(Sysroot(root), settings_of(f'[build]\nkeep_logs = 2\nlog_group = "{group}"\n'))


def seen(path: Path) -> tuple[int, int]:
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_gid


def below(root: Path) -> dict[str, tuple[int, int]]:
    top = root / LOGS
    return {("d" if path.is_dir() else "f"): seen(path) for path in (top, *top.rglob("*"))}


@as_root
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize(("group", "gid"), [("adm", 4004), ("nobodys", 0), ("broken", 0), ("odd", 0)])
def test_logs_are_made_for_root_and_a_group_whatever_the_umask(
    tmp_path: Path, umask: int, group: str, gid: int
) -> None:
    logs = keeper(tmp_path, group)
    (tmp_path / "var/log").mkdir(parents=True)
    before = os.umask(umask)
    try:
        logs.open(TARGET)
    finally:
        os.umask(before)
    assert below(tmp_path) == {"d": (0o750, gid), "f": (0o640, gid)}


@as_root
def test_logs_of_older_versions_get_group_and_modes_and_links_are_left_alone(tmp_path: Path) -> None:
    old = tmp_path / LOGS / "m/6.1/20261121T103752-0.log"
    old.parent.mkdir(parents=True)
    old.touch(0o644)
    other = tmp_path / "other"
    other.mkdir(0o755)
    (other / "file").touch(0o644)
    (old.parent.parent / "elsewhere").symlink_to(other)
    (old.parent / "x.log").symlink_to(other / "file")
    keeper(tmp_path).heal()
    assert {seen(path) for path in (old.parent, old.parent.parent, tmp_path / LOGS)} == {(0o750, 4004)}
    assert seen(old) == (0o640, 4004)
    assert (seen(other)[0], seen(other / "file")[0]) == (0o755, 0o644)


def test_old_logs_beyond_the_limit_go(tmp_path: Path) -> None:
    logs = keeper(tmp_path)
    paths = [logs.open(TARGET) for _ in range(13)]
    assert sorted(paths[0].parent.iterdir()) == sorted(paths[-2:])


READERS = [
    ("--regid=65534 --clear-groups", 1, "a member of the group that may read logs: build.log_group"),
    ("--regid=65534 --groups=4004", 0, ""),
    ("--regid=4004 --clear-groups", 0, ""),
]


@as_root
@pytest.mark.parametrize(("words", "status", "said"), READERS)
def test_logs_are_shown_to_members_and_others_are_told_who_may(words: str, status: int, said: str) -> None:
    with tempfile.TemporaryDirectory(prefix="kmodd-test-") as name:
        root = Path(name)
        root.chmod(0o755)
        keeper(root).open(TARGET).write_text("what make printed\n")
        argv = as_nobody(*words.split())
        for more in ([], ["--list"], ["--kernel", "6.1"]):
            ctl = [sys.executable, "-m", "kmodd.ctl", "logs", "m", *more, "--root", name]
            done = subprocess.run([*argv, *ctl], capture_output=True, text=True)
            assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
            assert said in done.stderr and ("what make printed" in done.stdout) == (not status and more != ["--list"])


GONE = {("gone", "6.1"), ("m", "5.0"), ("gone", "5.0")}
HAVE = GONE | {("m", "6.1"), ("remembered", "6.1"), ("runs", "6.1")}


@pytest.mark.parametrize(
    ("facts", "left"),
    [
        ({}, HAVE - GONE),
        ({"broken": (BrokenFile("x", "x.toml", Fault("module-file-invalid", "")),)}, HAVE),
        ({"modules": {}, "records": {}}, {("runs", "6.1")}),
    ],
)
def test_logs_of_what_is_gone_are_swept(tmp_path: Path, facts: dict[str, Any], left: set[tuple[str, str]]) -> None:
    logs = keeper(tmp_path)
    for target in HAVE:
        logs.open(Target(*target))
    (tmp_path / LOGS / "empty").mkdir()
    known = {
        "kernels": {"6.1": Kernel("6.1")},
        "modules": {"m": None},
        "records": {Target("remembered", "6.1"): record("remembered", "6.1")},
    }
    logs.sweep(change(Snapshot(), **{**known, **facts}), {Target("runs", "6.1")})
    assert {(found.module, found.kernel) for found in logs.targets()} == left
    assert (tmp_path / LOGS / "gone").exists() == (left == HAVE)
    assert (tmp_path / LOGS / "empty").exists() == (left == HAVE)
