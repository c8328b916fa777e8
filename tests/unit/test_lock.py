"""One process may change a root; the lock goes with it, however it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmodd.core.errors import Problem
from kmodd.core.model import Target
from kmodd.core.sysroot import Sysroot
from kmodd.system.lock import Lock

HOLDER = """
import sys
from pathlib import Path
from kmodd.system.lock import Lock
from kmodd.core.model import Target
from kmodd.core.sysroot import Sysroot
lock = Lock(Sysroot(Path(sys.argv[1])))
lock.acquire("other")
lock.tell([Target("m", "6.1")], "building")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_second_one_is_told_who_is_at_work(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    lock = Lock(Sysroot(tmp_path))
    with pytest.raises(Problem, match=rf"other \(pid {other.pid}\) is at work on") as caught:
        lock.acquire("kmodd")
    assert caught.value.code == "already-running"
    assert lock.holder() == f"other (pid {other.pid})"
    assert lock.running() == {Target("m", "6.1")}


def test_kill_frees_the_lock_and_what_was_told_means_nothing(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    lock = Lock(Sysroot(tmp_path))
    assert lock.holder() is None
    assert lock.running() == frozenset()
    lock.acquire("kmodd")
    assert lock.holder() == f"kmodd (pid {os.getpid()})"
    lock.release()
    assert lock.holder() is None


def test_wiped_runtime_directory_loses_neither_the_lock_nor_its_holder(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    shutil.rmtree(tmp_path / "run")
    lock = Lock(Sysroot(tmp_path))
    with pytest.raises(Problem, match=rf"other \(pid {other.pid}\) is at work on"):
        lock.acquire("kmodd")
    assert lock.holder() == f"other (pid {other.pid})"


def test_lock_is_taken_anew_where_its_file_was_deleted(tmp_path: Path) -> None:
    first, second = Lock(Sysroot(tmp_path)), Lock(Sysroot(tmp_path))
    first.acquire("first")
    first.sysroot.lock.unlink()
    first.keep()
    first.keep()
    with pytest.raises(Problem, match="first"):
        second.acquire("second")
    first.sysroot.lock.unlink()
    second.acquire("second")
    with pytest.raises(Problem, match="second") as caught:
        first.keep()
    assert caught.value.code == "already-running"
    second.release()
    first.keep()
    first.release()
    assert second.holder() is None


def test_asking_takes_nothing_from_who_wants_the_lock(tmp_path: Path) -> None:
    lock = Lock(Sysroot(tmp_path))
    lock.acquire("kmodd")
    lock.release()
    descriptor = os.open(Sysroot(tmp_path).lock, os.O_RDONLY)
    try:  # a mere reader's flock(2) kept kmodd from starting
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        lock.acquire("kmodd")
        lock.release()
    finally:
        os.close(descriptor)
    assert stat.S_IMODE(Sysroot(tmp_path).lock.stat().st_mode) == 0o600


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from kmodd.system.lock import Lock
from kmodd.core.sysroot import Sysroot
os.setgid(65534)
os.setuid(65534)
print(Lock(Sysroot(Path(sys.argv[1]))).holder())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root may open the lock, others may not")
def test_others_than_root_are_told_who_is_at_work(open_path: Path) -> None:
    def ask() -> str:
        argv = [sys.executable, "-c", UNPRIVILEGED, open_path]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    assert ask() == "None"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, open_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert ask() == f"other (pid {holder.pid})"
        holder.kill()
    assert ask() == "None"  # although what it told is there still


def test_release_may_be_repeated_and_frees_progress(tmp_path: Path) -> None:
    lock = Lock(Sysroot(tmp_path))
    lock.release()
    lock.acquire("kmodd")
    lock.tell([], "idle")
    assert Sysroot(tmp_path).progress.exists()
    lock.release()
    lock.release()
    assert not Sysroot(tmp_path).progress.exists()


def test_damaged_progress_is_nothing(tmp_path: Path) -> None:
    lock = Lock(Sysroot(tmp_path))
    lock.acquire("kmodd")
    for content in ("", "{", "[]", '{"running": 1}', '{"running": [[1]]}', "\0"):
        Sysroot(tmp_path).progress.write_text(content)
        assert lock.running() == frozenset()
    lock.release()


def test_lock_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    with pytest.raises(Problem, match="opening /var/lib/kmodd/lock"):
        Lock(Sysroot(tmp_path)).acquire("kmodd")
