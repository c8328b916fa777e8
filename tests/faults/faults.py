"""The faults: what strikes while kmodd works, and how it is over again. A table of kinds, each a function.

A fault gets the arena, in which work has just begun, and a random generator; it returns once the fault is over, with
what it did, or "" where there was nothing to strike. Afterwards the daemon may be dead: the driver starts it again, as
systemd would.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import proctree
from arena import Arena
from patience import pause

SOON = 4.0  # seconds after the beginning of work within which a fault strikes
SEEN = 60.0  # seconds for which a child is waited for
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
SIGNALS = ("KILL", "KILL", "KILL", "TERM", "SEGV", "BUS", "HUP", "INT")

Fault = Callable[[Arena, random.Random], str]


def _pause(rng: random.Random, most: float = SOON) -> float:
    seconds = rng.uniform(0, most)
    pause(seconds)
    return seconds


# -- killing ---------------------------------------------------------------------------------------------------------
def kill_daemon(arena: Arena, rng: random.Random) -> str:
    seconds = _pause(rng)
    pid = arena.pid
    proctree.kill(pid)
    arena.wait(lambda: not arena.is_alive(), "the daemon to die")
    return f"after {seconds:.2f} s"


def kill_tree(arena: Arena, rng: random.Random) -> str:
    seconds = _pause(rng)
    for process in [*proctree.descendants(arena.pid)]:
        proctree.kill(process.pid)
    arena.end()
    return f"after {seconds:.2f} s"


def terminate(arena: Arena, rng: random.Random) -> str:
    seconds = _pause(rng)
    arena.stop()
    return f"after {seconds:.2f} s"


def kill_sync(arena: Arena, rng: random.Random) -> str:
    """kmoddctl sync does the work, where no daemon runs."""
    arena.stop()
    arena.write_sources("good")
    words = [sys.executable, "-m", "kmodd.ctl", "sync", "--root", str(arena.root)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        seconds = _pause(rng, 2 * SOON)
        child.kill()
        child.wait()
    arena.wait(lambda: not proctree.using(str(arena.root)), "the processes of a killed sync to end")
    return f"after {seconds:.2f} s"


def kill_child(*names: str) -> Fault:
    """Return the fault that hits a process of one of some names, as soon as it is seen, or a little later."""

    def strike(arena: Arena, rng: random.Random) -> str:
        name, number = rng.choice(names), rng.choice(SIGNALS)
        later = rng.choice((0.0, 0.0, rng.uniform(0, 0.2)))
        end = time.monotonic() + SEEN
        while time.monotonic() < end and arena.is_alive():
            for process in proctree.descendants(arena.pid):
                if process.name == name[:15]:
                    pause(later)
                    if proctree.kill(process.pid, getattr(signal, f"SIG{number}")):
                        return f"{name} by {number}"
        return ""

    return strike


def kill_rpm_query(arena: Arena, rng: random.Random) -> str:
    """The child that asks librpm; it runs when the daemon starts."""
    arena.end()
    arena.start()
    end = time.monotonic() + SEEN
    while time.monotonic() < end and arena.is_alive():
        for process in proctree.descendants(arena.pid):
            if "rpmchild" in proctree.words(process.pid) and proctree.kill(process.pid):
                return "rpmchild by KILL"
    return ""


#: Programs of a build, by the word of the sandbox's command that runs them, and where they are inside.
INSIDE = {
    "setpriv": ("make", "/usr/bin/setpriv"),
    "make": ("make", "/usr/bin/make"),
    "gcc": ("make", "/usr/bin/gcc"),
    "cc1": ("make", ""),
    "as": ("make", "/usr/bin/as"),
    "ld": ("make", "/usr/bin/ld"),
    "sh": ("make", "/bin/sh"),
    "objtool": ("make", "/usr/src/kernels/{kernel}/tools/objtool/objtool"),
    "modpost": ("make", "/usr/src/kernels/{kernel}/scripts/mod/modpost"),
    "strip": ("strip", "/usr/bin/strip"),
}


def kill_inside(*names: str) -> Fault:
    """Return the fault that hits every run of a program in the next build, as soon as it starts."""

    def strike(arena: Arena, rng: random.Random) -> str:
        name, number = rng.choice(names), rng.choice(SIGNALS)
        word, path = INSIDE[name]
        if name == "cc1":
            asked = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, text=True, check=True)
            path = asked.stdout.strip()
        path = os.path.realpath(path) if path.startswith("/usr/bin") else path.format(kernel=arena.kernel)
        (arena.path / "bwrap.hit").unlink(missing_ok=True)
        (arena.path / "bwrap.new").write_text(f"{number} {word} {path}\n")
        (arena.path / "bwrap.new").rename(arena.path / "bwrap.inside")
        arena.write_sources(rng.choice(("good", "two")))
        arena.ring()
        end = time.monotonic() + SEEN
        while time.monotonic() < end and not (arena.path / "bwrap.hit").exists():
            pause(0.02)
        (arena.path / "bwrap.inside").unlink(missing_ok=True)
        return f"{name} by {number}" if (arena.path / "bwrap.hit").exists() else ""

    return strike


def kill_tool(*names: str) -> Fault:
    """Return the fault that hits the next run of a tool, at once or a moment after its start."""

    def strike(arena: Arena, rng: random.Random) -> str:
        name, number = rng.choice([name for name in names if arena.has(name)]), rng.choice(SIGNALS)
        seconds = rng.choice((0, 0, round(rng.uniform(0, 0.05), 3)))
        place = arena.path
        if name == "sign-file":
            place = arena.root / "usr/src/kernels" / arena.kernel / "scripts"
        (place / f"{name}.hit").unlink(missing_ok=True)
        (place / f"{name}.arm").write_text(f"{number} {seconds}\n")
        arena.write_sources(rng.choice(("good", "two")))
        arena.ring()
        if rng.random() < 0.5:  # what was verified is forgotten, so that the tools of verification run
            with contextlib.suppress(FileNotFoundError):
                (arena.root / "var/cache/kmodd/verified.json").unlink()
            arena.end()
            arena.start()
        end = time.monotonic() + SEEN
        while time.monotonic() < end and arena.is_alive():
            if (place / f"{name}.hit").exists():
                return f"{name} by {number} after {seconds} s"
            pause(0.02)
        with contextlib.suppress(FileNotFoundError):
            (place / f"{name}.arm").unlink()
            return ""
        return f"{name} by {number} after {seconds} s"

    return strike


# -- the disk --------------------------------------------------------------------------------------------------------
def fill_disk(arena: Arena, rng: random.Random) -> str:
    seconds = _pause(rng)
    path = arena.root / "filling"
    size = 64 << 20
    with path.open("wb") as stream:
        offset = 0
        while size >= 4096:
            try:
                os.posix_fallocate(stream.fileno(), offset, size)
                offset += size
            except OSError:
                size //= 2
    held = _pause(rng)
    path.unlink()
    return f"after {seconds:.2f} s for {held:.2f} s"


def make_read_only(arena: Arena, rng: random.Random) -> str:
    """Whatever is opened in some directories is read-only; what is open stays as it is."""
    seconds = _pause(rng)
    names = rng.choice((("var",), ("usr/lib/modules",), ("etc",), ("var", "usr/lib/modules", "etc")))
    for name in names:
        subprocess.run(["mount", "--bind", arena.root / name, arena.root / name], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", arena.root / name], check=True)
    held = _pause(rng)
    for name in names:
        subprocess.run(["umount", "-l", arena.root / name], check=True)
    return f"{' '.join(names)} after {seconds:.2f} s for {held:.2f} s"


def fail_disk(arena: Arena, rng: random.Random) -> str:
    """Every call on the disk fails with EIO, and the daemon goes on; then the machine is switched off and on."""
    seconds = _pause(rng)
    arena.disk.cut()
    held = _pause(rng)
    if not arena.is_alive():
        raise AssertionError("the daemon ended by itself on a disk that fails")
    arena.stop(strict=False)
    arena.disk.restore()
    return f"after {seconds:.2f} s for {held:.2f} s"


def cut_power(arena: Arena, rng: random.Random) -> str:
    seconds = _pause(rng, 1.5 * SOON)
    arena.disk.cut()
    arena.end()
    arena.disk.restore()
    return f"after {seconds:.2f} s"


# -- the machine -----------------------------------------------------------------------------------------------------
def jump_clock(arena: Arena, rng: random.Random) -> str:
    """The daemon's clock goes wrong while it works, and a tool fails then, which is remembered with that time."""
    if not os.path.exists(FAKETIME):
        return ""
    arena.end()
    file = arena.top / "clock"
    file.write_text("+0\n")
    arena.write_sources("two")
    arena.start(
        {
            "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
    )
    jump = rng.choice(("+5h", "-5h", "+40d", "-40d", "+900d", "-1h"))
    (arena.path / "bwrap.arm").write_text("KILL 0\n")
    if rng.random() < 0.5:
        _pause(rng)
        file.write_text(f"{jump}\n")
    else:
        file.write_text(f"{jump}\n")
        _pause(rng)
    _pause(rng)
    arena.end()
    (arena.path / "bwrap.arm").unlink(missing_ok=True)
    return jump


def wipe_run(arena: Arena, rng: random.Random) -> str:
    """Somebody deletes /run/kmodd; and in half of the cases starts a second process, which must not get in."""
    seconds = _pause(rng)
    shutil.rmtree(arena.root / "run/kmodd", ignore_errors=True)
    if rng.random() < 0.5:
        return f"after {seconds:.2f} s"
    words = [sys.executable, "-m", "kmodd.ctl", "sync", "--root", str(arena.root)]
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return f"after {seconds:.2f} s, and a second process"


def halt(arena: Arena, rng: random.Random) -> str:
    """SIGSTOP to the daemon, or to all, and SIGCONT."""
    seconds = _pause(rng)
    everybody = rng.random() < 0.5
    pids = [arena.pid, *(process.pid for process in proctree.descendants(arena.pid) if everybody)]
    for pid in pids:
        proctree.kill(pid, signal.SIGSTOP)
    held = _pause(rng)
    for pid in pids:
        proctree.kill(pid, signal.SIGCONT)
    return f"{'tree' if everybody else 'daemon'} after {seconds:.2f} s for {held:.2f} s"


def limit(arena: Arena, rng: random.Random) -> str:
    """A resource limit of the daemon is lowered to about what it uses, and raised again."""
    seconds = _pause(rng, 1.0)
    files = len(os.listdir(f"/proc/{arena.pid}/fd"))
    pages = int(Path(f"/proc/{arena.pid}/statm").read_text().split()[0])
    what, most = rng.choice(
        [
            (resource.RLIMIT_NOFILE, files + rng.randrange(6)),
            (resource.RLIMIT_NOFILE, files + rng.randrange(6)),
            (resource.RLIMIT_FSIZE, rng.choice((0, 1000, 100_000))),
            (resource.RLIMIT_AS, pages * resource.getpagesize() + rng.randrange(4 << 20)),
        ]
    )
    _, hard = resource.prlimit(arena.pid, what)
    resource.prlimit(arena.pid, what, (most, hard))
    held = _pause(rng)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(arena.pid, what, (hard, hard))
    names = {resource.RLIMIT_NOFILE: "files", resource.RLIMIT_FSIZE: "size of a file", resource.RLIMIT_AS: "memory"}
    return f"{names[what]} {most} after {seconds:.2f} s for {held:.2f} s"


#: Kinds of faults, and how many of a hundred cases are of each.
KINDS: dict[str, tuple[int, Fault]] = {
    "daemon killed": (7, kill_daemon),
    "tree killed": (5, kill_tree),
    "daemon stopped": (5, terminate),
    "sync killed": (4, kill_sync),
    "make killed": (3, kill_child("make")),
    "compiler killed": (3, kill_child("cc1", "sh")),
    "build tools killed": (4, kill_inside("make", "gcc", "cc1", "as", "sh")),
    "linker killed": (2, kill_inside("ld")),
    "objtool, modpost killed": (4, kill_inside("objtool", "modpost")),
    "strip killed": (2, kill_inside("strip")),
    "setpriv killed": (1, kill_inside("setpriv")),
    "sandbox killed": (3, kill_child("bwrap")),
    "bwrap killed at start": (2, kill_tool("bwrap")),
    "depmod killed": (4, kill_tool("depmod")),
    "modprobe killed": (4, kill_tool("modprobe")),
    "openssl killed": (4, kill_tool("openssl")),
    "sign-file killed": (2, kill_tool("sign-file")),
    "compression killed": (3, kill_tool("xz", "zstd")),
    "rpm query killed": (2, kill_rpm_query),
    "disk full": (7, fill_disk),
    "disk read-only": (4, make_read_only),
    "disk fails": (4, fail_disk),
    "power cut": (9, cut_power),
    "clock jumps": (4, jump_clock),
    "/run/kmodd wiped": (4, wipe_run),
    "stopped and continued": (3, halt),
    "limits": (3, limit),
}


def deal(seed: int, count: int) -> Sequence[str]:
    """Return the kinds of a run's cases in their order: shares as in KINDS, shuffled by the seed."""
    deck = [name for name, (share, _) in KINDS.items() for _ in range(share)]
    rng = random.Random(seed)
    dealt: list[str] = []
    while len(dealt) < count:
        rng.shuffle(deck)
        dealt += deck
    return dealt[:count]
