"""The only place that starts processes: argv, a clean environment, a time limit, and one error that explains itself.

A child leads its own process group, which is killed on cancellation and time-out, and dies with this process
(PR_SET_PDEATHSIG). Must not: use a shell, or interpret what a program prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from .errors import Problem
from .paths import OOM_SCORE, PROGRAM_PATH

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
KEYCTL_JOIN_SESSION_KEYRING = 1  # <linux/keyctl.h>
KEYCTL = {"x86_64": 250, "aarch64": 219, "ppc64le": 271, "s390x": 280}  # <asm/unistd.h>: libc has no function for it
PACKAGES = {
    "modprobe": "kmod", "modinfo": "kmod", "depmod": "kmod", "rmmod": "kmod", "bwrap": "bubblewrap",
    "setpriv": "util-linux",
    "make": "make", "gcc": "gcc", "xz": "xz", "zstd": "zstd", "gzip": "gzip", "openssl": "openssl", "rpm": "rpm",
    "patch": "patch", "strip": "binutils", "mokutil": "mokutil", "keyctl": "keyutils",
    "rpmbuild": "rpm-build",
}  # fmt: skip

#: Limits of this process as it was started, which children get back: programs that use select(2) fail above 1024.
FILES = resource.getrlimit(resource.RLIMIT_NOFILE)

#: What a program is run by that must outlive this unit, or do what its restrictions forbid; only with systemd.
TRANSIENT_UNIT = ("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--service-type=exec")

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
    """Return the absolute path of a program, looked for in the fixed PROGRAM_PATH only."""
    return shutil.which(name, path=os.environ.get("KMODD_PROGRAM_PATH", PROGRAM_PATH))


def environment(more: Optional[Mapping[str, str]] = None) -> dict[str, str]:
    """Return the clean environment that children get."""
    path = os.environ.get("KMODD_PROGRAM_PATH", PROGRAM_PATH)
    return {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/", **(more or {})}


async def run(
    argv: Sequence[Union[str, Path]],
    *,
    check: bool = True,
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

    timeout: seconds. output: a file that stdout and stderr are appended to, instead of being returned, up to
    output_limit bytes; what comes after is dropped, which the file says. merged: stdout holds stderr, too, and no more
    than output_limit bytes. limits: resource limits (setrlimit(2)).
    yields: it gives way to everything else, in processor time and when memory runs out.
    outlives: it is not killed with this process, nor on cancellation and time-out.
    Raises Problem tool-missing, tool-timeout, and with check also tool-killed and tool-failed.
    """
    name = str(argv[0])
    program = name if "/" in name else find_program(name)
    if program is None or not os.access(program, os.X_OK):
        package = PACKAGES.get(Path(name).name)
        raise Problem("tool-missing", f"{name} is not installed", f"dnf install {package}" if package else "")

    def prepare() -> None:
        if not outlives:
            _die_with_parent()
        _join_new_keyring()
        resource.setrlimit(resource.RLIMIT_NOFILE, FILES)
        for what, most in (limits or {}).items():
            resource.setrlimit(what, (most, most))
        if yields:
            _yield_to_others()

    try:
        child = await asyncio.create_subprocess_exec(
            program,
            *(str(a) for a in argv[1:]),
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if output or merged else asyncio.subprocess.PIPE,
            env=environment(env),
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            preexec_fn=prepare,
        )
    except OSError as error:
        raise Problem(
            "tool-failed", f"{name} could not be started: {error.strerror}", transient=True, status=126
        ) from error
    pumped = _pump(child, output, output_limit, stdin) if output or merged else child.communicate(stdin)
    work = asyncio.ensure_future(pumped)
    try:
        # not wait_for: before Python 3.12 it could swallow a cancellation that came with the result
        await asyncio.wait([work], timeout=timeout)
        if not work.done():
            raise Problem("tool-timeout", f"{name} did not end within {timeout:g} s and was killed")
        stdout, stderr = work.result()
    except BaseException:
        if not outlives:
            await _kill(child)
        work.cancel()
        with contextlib.suppress(BaseException):
            await work
        raise
    done = Finished(child.returncode if child.returncode is not None else -1, stdout or b"", stderr or b"")
    if check and done.status != 0:
        raise explain(name, done)
    return done


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


def explain(name: str, done: Finished) -> Problem:
    """Return the problem that a program's bad end is, by its kind."""
    last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:] or [""]
    if done.status < 0:
        what = signal.Signals(-done.status).name
        return Problem("tool-killed", f"{name} was killed by {what}", status=done.status)
    said = f": {last[0]}" if last[0] else ""
    return Problem("tool-failed", f"{name} failed with exit status {done.status}{said}", status=done.status)


async def _pump(
    child: asyncio.subprocess.Process, output: Optional[Path], limit: int, stdin: Optional[bytes]
) -> tuple[bytes, bytes]:
    """Append what a program prints to a file, or return it, up to a limit, and wait for its end."""
    assert child.stdout is not None
    feeding = asyncio.ensure_future(_feed(child, stdin or b""))
    room = limit
    with output.open("ab", buffering=0) if output else io.BytesIO() as sink:
        while chunk := await child.stdout.read(1 << 16):
            if room > 0:
                sink.write(chunk[:room])
                if len(chunk) > room and output:
                    sink.write(b"\n[kmodd: more output was dropped]\n")
            room -= len(chunk)
        await asyncio.gather(feeding, child.wait())
        return sink.getvalue() if isinstance(sink, io.BytesIO) else b"", b""


async def _feed(child: asyncio.subprocess.Process, data: bytes) -> None:
    """Write a program's stdin, as far as it reads it."""
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            child.stdin.write(data)
            await child.stdin.drain()
        child.stdin.close()


async def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()
