"""The only place that starts processes: argv, a clean environment, a time limit, and one error that explains itself.

A child leads its own process group, which is killed on cancellation and time-out, and dies with this process
(PR_SET_PDEATHSIG). A program that was killed, could not begin, or ran out of memory or the like has given no answer:
that is an error of its own kind, whatever its exit status. Must not: use a shell, or interpret what a program prints
beyond that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Optional, Union

from ..core.errors import Problem
from ..core.sysroot import OOM_SCORE, PROGRAM_PATH
from .spawn import Child, Order

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
KEYCTL_JOIN_SESSION_KEYRING = 1  # <linux/keyctl.h>
KEYCTL = {"x86_64": 250, "aarch64": 219, "ppc64le": 271, "s390x": 280}  # <asm/unistd.h>: libc has no function for it
PACKAGES = {
    "modprobe": "kmod", "modinfo": "kmod", "depmod": "kmod", "rmmod": "kmod", "bwrap": "bubblewrap",
    "setpriv": "util-linux",
    "make": "make", "gcc": "gcc", "xz": "xz", "zstd": "zstd", "gzip": "gzip", "openssl": "openssl", "rpm": "rpm",
    "rpmkeys": "rpm",
    "patch": "patch", "strip": "binutils", "mokutil": "mokutil", "keyctl": "keyutils",
    "rpmbuild": "rpm-build",
}  # fmt: skip

CHILDREN = 0o022  # the umask of what kmodd starts: depmod's files, for one, are for everybody

#: Limits of this process as it was started, which children get back: programs that use select(2) fail above 1024.
FILES = resource.getrlimit(resource.RLIMIT_NOFILE)

#: What a program is run by that must outlive this unit, or do what its restrictions forbid; only with systemd.
TRANSIENT_UNIT = ("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--service-type=exec")

#: Statuses of a shell, bwrap or the like for a signal that ended what it ran: 128 and the signal's number.
HANDED_ON = {
    128 + number: number
    for number in (
        signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE,
        signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGTERM, signal.SIGXCPU, signal.SIGSYS,
    )
}  # fmt: skip
UNRUN = (126, 127)  # of what could not run another program, and of ld.so, which misses a library
#: How programs say that the machine, not what they were asked, is to blame: texts of strerror(3), and of libraries.
SHORT = re.compile(
    r"out of memory|not enough memory|cannot allocate memory|malloc failure|memory allocation|MemoryError"
    r"|Too many open files|Input/output error|Resource temporarily unavailable|No space left on device"
    r"|Disk quota exceeded|Stale file handle|Interrupted system call|Text file busy|Structure needs cleaning",
    re.IGNORECASE,
)
SAID = 1 << 16  # bytes of what it printed last that are read
MOMENT = 2.0  # seconds that a killed program is waited for; one that waits for a disk dies later

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _join_new_keyring() -> None:
    """Leave the session keyring of whoever started this, whose keys no child needs.

    Where the kernel has no keyrings, or the caller's own sandbox denies them, there is nothing to leave.
    """
    number = KEYCTL.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None)


def _yield_to_others() -> None:
    os.nice(10)
    with contextlib.suppress(OSError):  # where /proc is read-only it is as likely as others
        OOM_SCORE.write_text("1000")  # killed before the daemon, and before what the server is for


@dataclass(frozen=True)
class Finished:
    """How a program ended: status as Popen.returncode (negative: the signal), what it printed (bytes)."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


def find_program(name: str) -> Optional[str]:
    """Return the absolute path of a program, searched in the fixed PROGRAM_PATH only."""
    return shutil.which(name, path=os.environ.get("KMODD_PROGRAM_PATH", PROGRAM_PATH))


def own_python() -> str:
    """Return the path of this process's Python, outside of any virtual environment: for a child that is a file."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def environment(more: Optional[Mapping[str, str]] = None) -> dict[str, str]:
    """Return the clean environment that children get."""
    path = os.environ.get("KMODD_PROGRAM_PATH", PROGRAM_PATH)
    return {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/", **(more or {})}


def _preparation(limits: Mapping[int, int], yields: bool, outlives: bool) -> Callable[[], None]:
    """Return what a child does before it becomes the program. The arguments are those of run."""

    def prepare() -> None:
        if not outlives:
            _die_with_parent()
        _join_new_keyring()
        os.umask(CHILDREN)
        resource.setrlimit(resource.RLIMIT_NOFILE, FILES)
        for what, most in limits.items():
            hard = resource.getrlimit(what)[1]
            allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (allowed, allowed))
        if yields:
            _yield_to_others()

    return prepare


async def run(
    argv: Sequence[Union[str, Path]],
    *,
    check: bool = True,
    raw: bool = False,
    timeout: Optional[float] = 120,
    output: Optional[Path] = None,
    output_limit: int = 1 << 24,
    merged: bool = False,
    limits: Optional[Mapping[int, int]] = None,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[Path] = None,
    stdin: Optional[bytes] = None,
    pass_fds: Sequence[int] = (),
    yields: bool = False,
    outlives: bool = False,
) -> Finished:
    """Run a program to its end.

    check: a bad exit status is a Problem, too. raw: how it ended is returned whatever happened to it, for who can tell
    by other means what that was. timeout: seconds, from before it is started.
    output: a file that stdout and stderr are appended to, instead of being returned, up to output_limit bytes; what
    comes after is dropped, which the file says. merged: stdout holds stderr, too, and no more than output_limit bytes.
    limits: resource limits (setrlimit(2)).
    yields: it gives way to everything else, in processor time and when memory runs out.
    outlives: it is not killed with this process, nor on cancellation and time-out.
    Raises Problem tool-missing, tool-timeout, tool-killed, and tool-failed: transient where it could not be started, or
    ran out of something, with check also where it failed; and OSError where output cannot be written.
    """
    name = str(argv[0])
    program = name if "/" in name else find_program(name)
    if program is None or not os.access(program, os.X_OK):
        package = PACKAGES.get(Path(name).name)
        raise Problem("tool-missing", f"{name} is not installed", f"dnf install {package}" if package else "")

    words = (program, *(str(a) for a in argv[1:]))
    together = merged or output is not None
    order = Order(
        words,
        environment(env),
        cwd,
        stdin is not None,
        together,
        tuple(pass_fds),
        _preparation(limits or {}, yields, outlives),
    )
    with contextlib.ExitStack() as stack:
        out = _Output(stack.enter_context(output.open("ab", buffering=0)) if output else None)
        out.left = output_limit if together else None
        errors = _Output(None)
        status = await _end(name, order, stdin or b"", out, errors, timeout, outlives)
    done = Finished(status, bytes(out.kept), bytes(errors.kept))
    accident = None if raw else find_accident(name, done)
    if accident is not None:
        raise accident
    if check and done.status != 0:
        raise explain(name, done)
    return done


async def _end(
    name: str, order: Order, stdin: bytes, out: _Output, errors: _Output, timeout: Optional[float], outlives: bool
) -> int:
    """Start a program and return its status as Popen.returncode; nothing is left of it where that is cut short."""
    try:
        child = Child(order)
    except (OSError, MemoryError, RuntimeError) as error:
        raise _unstarted(name, error) from error
    try:
        work = child.follow(stdin, out.add, errors.add)
        # not wait_for: before Python 3.12 it could swallow a cancellation that came with the result
        await asyncio.wait([work], timeout=timeout)
        if not work.done():
            raise Problem("tool-timeout", f"{name} did not end within {timeout:g} s and was killed")
        work.result()
    except BaseException:
        if not outlives:
            child.kill()
            await asyncio.wait([child.gone], timeout=MOMENT)
        raise
    finally:
        child.close()
    if child.error is not None:
        raise _unstarted(name, child.error)
    assert child.status is not None
    return child.status


class _Output:
    """What a program prints, kept or written to a file. left: bytes that may still come, None for no limit."""

    def __init__(self, sink: Optional[BinaryIO]) -> None:
        self.sink = sink
        self.kept = bytearray()
        self.left: Optional[int] = None
        self.cut = False

    def add(self, chunk: bytes) -> None:
        """Add a piece. Raises OSError."""
        kept = chunk if self.left is None else chunk[: max(self.left, 0)]
        if self.sink is None:
            self.kept += kept
        elif kept:
            self.sink.write(kept)
        if self.sink is not None and len(kept) < len(chunk) and not self.cut:
            self.cut = True
            self.sink.write(b"\n[kmodd: more output was dropped]\n")
        if self.left is not None:
            self.left -= len(chunk)


def feed(argv: Sequence[str], text: bytes, env: Mapping[str, str]) -> bool:
    """Run a program of the person at the terminal, such as a pager, with a text as its input; tells whether it could.

    Unlike others it keeps the person's environment, PATH and terminal. env: more of the environment.
    """
    try:
        child = subprocess.Popen([*argv], stdin=subprocess.PIPE, env={**os.environ, **env})
    except OSError:
        return False
    with contextlib.suppress(KeyboardInterrupt):  # it is the program's, which may go on
        child.communicate(text)
    while child.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):
            child.wait()
    return child.returncode != 127


def _unstarted(name: str, error: BaseException) -> Problem:
    said = error.strerror if isinstance(error, OSError) else str(error) or "out of memory"
    number = error.errno if isinstance(error, OSError) else None
    return Problem("tool-failed", f"{name} could not be started: {said}", transient=True, errno=number)


def find_accident(name: str, done: Finished) -> Optional[Problem]:
    """Return what kept a program from saying anything of what it was asked, None where its exit status is its word."""
    number = -done.status if done.status < 0 else HANDED_ON.get(done.status)
    if number is not None:
        return Problem("tool-killed", f"{name} was killed by {_signal(number)}", status=done.status)
    if done.status in UNRUN or (done.status and SHORT.search(_said(done))):
        return _failed(name, done, transient=True)
    return None


def explain(name: str, done: Finished) -> Problem:
    """Return the problem that a program's bad end is, by its kind."""
    return find_accident(name, done) or _failed(name, done, transient=False)


def _failed(name: str, done: Finished, transient: bool) -> Problem:
    last = _said(done).strip().splitlines()[-1:] or [""]
    said = f": {last[0]}" if last[0] else ""
    text = f"{name} failed with exit status {done.status}{said}"
    return Problem("tool-failed", text, transient=transient, status=done.status)


def _said(done: Finished) -> str:
    return (done.stderr or done.stdout)[-SAID:].decode(errors="replace")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time
        return f"signal {number}"
