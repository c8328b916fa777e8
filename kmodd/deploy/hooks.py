"""Runs a script of a source with a dkms.conf at installation and removal, where the administrator allows that module.

It runs as root and outside of the sandbox: it is there to change the system. So it is run only if nobody but root can
change it, as argv without a shell, with a clean environment and a time limit; on a host with systemd in a unit of its
own, since kmodd's may neither write to /usr nor reach a network. Must not: decide whether it is allowed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.sysroot import SYSTEMD_RUNS, Sysroot
from ..system.run import TRANSIENT_UNIT, explain, run

TIMEOUT = 300.0  # seconds
LARGEST_OUTPUT = 1 << 20  # bytes


async def run_hook(sysroot: Sysroot, directive: str, line: str, source: str, log: Optional[Path]) -> None:
    """Run what a directive says (a script of the source and its arguments, split at spaces as by DKMS) in the source.

    source: in-root directory. log: host path of a file that what it prints is appended to.
    Raises Problem dkms-hook-unsafe, dkms-hook-failed, tool-timeout.
    """
    words = line.split()
    inside = f"{source}/{words[0]}"
    _check(sysroot, inside, words[0], directive)
    argv = [inside, *words[1:]]
    if not sysroot.is_host:
        argv = ["chroot", str(sysroot.root), "env", "-C", source, *argv]
    elif SYSTEMD_RUNS.is_dir():
        argv = [*TRANSIENT_UNIT, f"--working-directory={source}", f"--property=RuntimeMaxSec={TIMEOUT:.0f}", *argv]
    cwd = Path(source) if sysroot.is_host else None
    done = await run(
        argv, check=False, raw=True, timeout=TIMEOUT + 5, merged=True, output_limit=LARGEST_OUTPUT, cwd=cwd
    )
    if log is not None:
        with contextlib.suppress(OSError), log.open("ab") as stream:
            stream.write(f"[kmodd: {directive}={line}]\n".encode() + done.stdout)
            stream.write(f"[kmodd: {directive} ended with exit status {done.status}]\n".encode())
    if done.status != 0:
        said = done.text.strip().splitlines()[-1:]
        text = f"{directive}: {inside} ended with exit status {done.status}" + (f": {said[0][:300]}" if said else "")
        killed = explain(inside, done).code == "tool-killed"
        raise Problem("dkms-hook-failed", text, "look at what it printed, in the build's log", transient=killed)


def _check(sysroot: Sysroot, inside: str, word: str, directive: str) -> None:
    """Raise Problem where a script is not there, or somebody else than root could change it."""
    if word.startswith("/") or ".." in word.split("/"):
        raise Problem("dkms-hook-unsafe", f"{directive}: {word[:100]!r} is not inside the source", "remove it")
    script = sysroot.resolve(inside)
    if not script.is_file() or not os.access(script, os.X_OK):
        raise Problem("dkms-hook-failed", f"{directive}: {inside} is no executable file", "correct the dkms.conf")
    for path in (script, *script.parents):
        if path == sysroot.root or sysroot.root in path.parents:
            found = path.stat()
            if found.st_uid != 0 or found.st_mode & 0o022:
                text = f"{directive}: others than root can change {sysroot.inside(path)}, and so what root would run"
                raise Problem("dkms-hook-unsafe", text, f"chown root {path}; chmod go-w {path}")
