"""Files are replaced as a whole or not at all, even by a process that is killed on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kmodd.core.errors import Problem
from kmodd.core.model import Target
from kmodd.core.sysroot import Sysroot
from kmodd.host.store import Store
from kmodd.system import files


def test_replace_makes_directories_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c"
    old = os.umask(0o077)
    try:
        files.replace_file(path, b"one", 0o644)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    files.replace_file(path, b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["c"]


def test_replace_takes_the_place_of_a_link_not_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    (tmp_path / "link").symlink_to("victim")
    files.replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "victim").read_text() == "old"
    assert not (tmp_path / "link").is_symlink()


def test_link_in_the_temporary_ones_place_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    files.temporary_name(tmp_path / "x").symlink_to(tmp_path / "victim")
    files.replace_file(tmp_path / "x", b"new")
    assert (tmp_path / "victim").read_text() == "old"
    assert (tmp_path / "x").read_bytes() == b"new"


def test_replace_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/inner").touch()
    with pytest.raises(OSError, match="directory"):
        files.replace_file(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == ["x"]


KILLED = """
import os, signal, sys
from pathlib import Path
from kmodd.system import files
os.{call} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
Path.rename = (lambda *a: os.kill(os.getpid(), signal.SIGKILL)) if "{call}" == "rename" else Path.rename
files.replace_file(Path(sys.argv[1]), b"new" * 1000)
"""


@pytest.mark.parametrize("call", ["fchmod", "fsync", "rename"])
def test_kill_leaves_the_old_file_and_a_leftover_that_is_found(tmp_path: Path, call: str) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED.format(call=call), path])
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert files.find_leftovers(tmp_path) == [files.temporary_name(path)]
    files.replace_file(path, b"newer")
    assert files.find_leftovers(tmp_path) == []
    assert path.read_text() == "newer"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of all that is synced."""
    found: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (found.append(os.fstat(descriptor).st_ino), real(descriptor)))
    return found


def test_directories_that_are_made_are_synced_into_their_parents(tmp_path: Path, synced: list[int]) -> None:
    files.replace_file(tmp_path / "a/b/c", b"x")
    assert {tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino, (tmp_path / "a/b").stat().st_ino} <= {*synced}
    synced.clear()
    files.make_link(tmp_path / "d/e/link", "/dev/null")
    assert [(tmp_path / name).stat().st_ino for name in (".", "d", "d/e")] == synced
    synced.clear()
    files.make_directory(tmp_path / "f/g", durable=False)
    files.make_directory(tmp_path / "a/b")
    assert synced == []


def test_kept_objects_are_synced_with_their_names(tmp_path: Path, synced: list[int]) -> None:
    store, source = Store(Sysroot(tmp_path / "root")), tmp_path / "m.ko"
    (tmp_path / "root").mkdir()
    source.write_bytes(b"x")
    store.keep_objects(Target("m", "6.1"), [source], b"")
    kept = store.objects(Target("m", "6.1"))
    assert {path.stat().st_ino for path in (kept / "m.ko", kept, kept.parent, kept.parent.parent)} <= {*synced}
    assert synced.index(kept.stat().st_ino) < len(synced) - 1 - synced[::-1].index(kept.parent.stat().st_ino)


def test_full_disk_is_a_problem_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught, files.explained("writing x"):
        files.stage_copy(Path("/dev/null"), tmp_path / "y")
        with open("/dev/full", "wb", buffering=0) as stream:
            stream.write(b"x")
    assert (caught.value.code, caught.value.transient) == ("disk-full", True)
    assert caught.value.message == "writing x: the disk is full"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk-full"), (errno.EDQUOT, "disk-full"), (errno.EROFS, "read-only"),
        (errno.EACCES, "permission-denied"), (errno.EPERM, "permission-denied"), (errno.EIO, "input-output"),
    ],
)  # fmt: skip
def test_errors_have_codes(number: int, code: str) -> None:
    problem = files.explain(OSError(number, os.strerror(number), "/some/file"), "writing x")
    assert problem.code == code
    assert problem.message.startswith("writing x: ")
    assert problem.message.endswith("(/some/file)")
    assert problem.hint


def test_file_that_is_named_already_is_not_named_twice() -> None:
    assert files.explain(OSError(errno.EIO, "bad", "/a"), "writing /a").message == "writing /a: bad"


def test_stage_copy_waits_under_a_temporary_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 << 20))
    staged = files.stage_copy(source, tmp_path / "d/x", 0o600)
    assert staged == tmp_path / "d" / f".x{files.TEMPORARY}"
    assert staged.read_bytes() == source.read_bytes()
    assert not (tmp_path / "d/x").exists()
    with pytest.raises(FileNotFoundError):
        files.stage_copy(tmp_path / "gone", tmp_path / "d/y")
    assert files.find_leftovers(tmp_path / "d") == [staged]


def test_remove_tells_whether_it_was_there(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert files.remove_file(tmp_path / "x")
    assert not files.remove_file(tmp_path / "x")
    assert not files.remove_file(tmp_path / "gone/x")
    (tmp_path / "link").symlink_to("gone")
    assert files.remove_file(tmp_path / "link")


def test_only_empty_directories_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/file").touch()
    files.remove_empty(tmp_path / "a/b/c", tmp_path / "a/b", tmp_path / "a", tmp_path / "gone")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "file"]


def test_leftovers_of_a_missing_directory_are_none(tmp_path: Path) -> None:
    assert files.find_leftovers(tmp_path / "gone") == []


def test_digest_and_signature_tell_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * (1 << 21))
    assert files.digest_file(path) == hashlib.sha256(b"a" * (1 << 21)).hexdigest()
    before = files.stat_signature(path)
    assert files.stat_signature(path) == before
    files.replace_file(path, b"a" * (1 << 21))
    assert files.stat_signature(path) != before
