"""What happens to a program that is waited for when nobody wants it any more, and what its end is taken for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import LIMIT, pause, until
from processes import STUBBORN, cancel_many, find_children, nothing_left

from kmodd.core.errors import Problem
from kmodd.system import run as running
from kmodd.system import spawn
from kmodd.system.run import Finished, explain, find_accident, run


@pytest.fixture(params=["pidfd", "thread"])
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of learning of a program's end: the second is for kernels that lack the first."""
    if request.param == "thread":

        def lack(pid: int) -> int:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", lack)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """A variable's value that tells which processes are of this test; none of them is left at its end."""
    with nothing_left(f"kmodd-test-{tmp_path}"):
        yield f"kmodd-test-{tmp_path}"


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("slow", [False, True], ids=["exec", "slow-exec"])
def test_whatever_was_started_dies_whenever_it_is_cancelled(
    slow: bool, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slow:
        die = running._die_with_parent
        monkeypatch.setattr(running, "_die_with_parent", lambda: (pause(0.02), die()))

    cancel_many(15, mark)


def test_the_time_limit_covers_the_start(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_die_with_parent", lambda: pause(LIMIT))
    with pytest.raises(Problem) as caught:
        asyncio.run(run(["true"], timeout=0.05, env={"MARK": mark}))
    assert caught.value.code == "tool-timeout"


def test_a_program_beyond_its_time_is_killed_with_all_that_holds_its_output(mark: str) -> None:
    with pytest.raises(Problem) as caught:
        asyncio.run(run(["sh", "-c", STUBBORN], timeout=0.05, env={"MARK": mark}))
    assert (caught.value.code, caught.value.transient) == ("tool-timeout", True)


def test_what_outlives_its_caller_is_not_killed(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    fork = spawn._fork
    monkeypatch.setattr(spawn, "_fork", lambda *order: started.append(fork(*order)) or started[-1])

    async def start() -> None:
        task = asyncio.ensure_future(run(["sleep", "600"], outlives=True, env={"MARK": mark}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (pid,) = started
        ended = os.WEXITED | os.WNOWAIT
        assert await asyncio.to_thread(os.waitid, os.P_PID, pid, ended | os.WNOHANG) is None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: str(pid) not in find_children(), "the loop to reap it")

    asyncio.run(start())


def test_a_cancellation_that_comes_with_the_result_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spawn.Child.follow

    async def wait() -> None:
        def follow(self: spawn.Child, *args: object) -> object:
            work = real(self, *args)  # type: ignore[arg-type]
            work.add_done_callback(lambda _: task.cancel())
            return work

        monkeypatch.setattr(spawn.Child, "follow", follow)
        task = asyncio.ensure_future(run(["true"]))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(wait())


@pytest.mark.usefixtures("watched")
def test_what_it_printed_and_how_it_ended(mark: str) -> None:
    script = ["sh", "-c", "cat; echo no >&2; exit 3"]
    done = asyncio.run(run(script, check=False, stdin=b"yes", env={"MARK": mark}))
    assert (done.status, done.text, done.stderr) == (3, "yes", b"no\n")


def test_much_input_and_output_flow_side_by_side(mark: str) -> None:
    data = random.Random(1).randbytes(3 << 20) if hasattr(random, "randbytes") else os.urandom(3 << 20)
    assert asyncio.run(run(["cat"], stdin=data, env={"MARK": mark})).stdout == data
    assert asyncio.run(run(["head", "-c", "5"], stdin=data, env={"MARK": mark})).stdout == data[:5]


@pytest.mark.parametrize("merged", [False, True], ids=["file", "merged"])
def test_output_beyond_its_limit_is_dropped(merged: bool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    done = asyncio.run(
        run(["sh", "-c", "yes | head -c 300000"], merged=merged, output=None if merged else log, output_limit=1000)
    )
    if merged:
        assert done.stdout == b"y\n" * 500
    else:
        assert (done.stdout, done.stderr) == (b"", b"")
        assert log.read_bytes() == b"before\n" + b"y\n" * 500 + b"\n[kmodd: more output was dropped]\n"


def test_a_program_whose_output_cannot_be_written_is_killed(mark: str) -> None:
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(run(["yes"], output=Path("/dev/full"), env={"MARK": mark}))


def test_who_yields_is_nice_and_the_first_to_be_killed() -> None:
    argv = ["sh", "-c", "nice; cat /proc/self/oom_score_adj"]
    assert asyncio.run(run(argv, yields=True)).text.split() == [str(min(19, os.nice(0) + 10)), "1000"]
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    assert asyncio.run(run(argv)).text.split() == [str(os.nice(0)), own]


def test_a_program_gets_no_descriptor_but_its_own_and_signals_as_they_are(tmp_path: Path) -> None:
    left, given = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    os.set_inheritable(left, True)
    try:
        said = asyncio.run(run(["sh", "-c", "ls /proc/$$/fd; grep SigIgn /proc/$$/status"], pass_fds=[given])).text
    finally:
        os.close(left)
        os.close(given)
    *descriptors, _, ignored = said.split()
    assert set(descriptors) == {"0", "1", "2", str(given)}
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not int(ignored, 16) >> (number - 1) & 1


@contextlib.contextmanager
def _no_more_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), limits[1]))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with contextlib.suppress(OSError):
            while True:
                stack.enter_context(open(os.devnull))
        yield


def _refuse(error: Exception) -> object:
    def refuse(*_: object, **__: object) -> int:
        raise error

    return refuse


@pytest.mark.usefixtures("mark")
@pytest.mark.parametrize("cause", ["files", "processes", "memory", "threads", "format", "interpreter"])
def test_what_cannot_be_started_may_be_later(cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_text("#!/nowhere/to/be/found\n" if cause == "interpreter" else "nonsense")
    program.chmod(0o755)
    if cause == "processes":
        monkeypatch.setattr(os, "fork", _refuse(BlockingIOError(11, "Resource temporarily unavailable")))
    if cause == "memory":
        monkeypatch.setattr(os, "fork", _refuse(MemoryError()))
    if cause == "threads":
        monkeypatch.setattr(os, "pidfd_open", _refuse(OSError(38, "Function not implemented")))
        monkeypatch.setattr(threading.Thread, "start", _refuse(RuntimeError("can't start new thread")))

    async def start() -> None:
        with _no_more_files() if cause == "files" else contextlib.nullcontext():
            await run([program] if cause in ("format", "interpreter") else ["true"])

    with pytest.raises(Problem) as caught:
        asyncio.run(start())
    assert (caught.value.code, caught.value.transient) == ("tool-failed", True)
    assert "could not be started" in caught.value.message


@pytest.mark.parametrize(
    ("script", "code", "transient"),
    [
        ("kill -KILL $$", "tool-killed", True),
        ("kill -SEGV $$", "tool-killed", True),
        ("kill -40 $$", "tool-killed", True),
        ("exit 137", "tool-killed", True),
        ("exit 143", "tool-killed", True),
        ("exit 126", "tool-failed", True),
        ("exit 127", "tool-failed", True),
        ("echo 'x: Cannot allocate memory' >&2; exit 1", "tool-failed", True),
        ("echo 'x: Too many open files' >&2; exit 1", "tool-failed", True),
        ("echo 'x: Input/output error' >&2; exit 2", "tool-failed", True),
        ("echo 'error:80000018:system library:BIO_new_file:Too many open files' >&2; exit 1", "tool-failed", True),
        ("echo 'error:07880100:common libcrypto routines:malloc failure' >&2; exit 1", "tool-failed", True),
        ("echo 'x is no such thing' >&2; exit 1", "tool-failed", False),
        ("echo 'x: Cannot allocate memory' >&2; exit 0", "", False),
    ],
)
def test_a_killed_program_is_told_from_one_that_says_no(script: str, code: str, transient: bool) -> None:
    async def ask(check: bool, raw: bool = False) -> tuple[str, bool]:
        try:
            await run(["sh", "-c", script], check=check, raw=raw)
        except Problem as problem:
            return problem.code, problem.transient
        return "", False

    assert asyncio.run(ask(check=True)) == (code, transient)
    assert asyncio.run(ask(check=False)) == ((code, True) if transient else ("", False))
    assert asyncio.run(ask(check=False, raw=True)) == ("", False)


def test_a_bad_end_is_explained_by_its_last_line() -> None:
    assert find_accident("x", Finished(1, b"", b"what\nis it?\n")) is None
    assert explain("x", Finished(1, b"", b"what\nis it?\n")).message == "x failed with exit status 1: is it?"
    assert explain("x", Finished(-9, b"", b"")).message == "x was killed by SIGKILL"
