"""Runs a script of others only for what it prints: unprivileged, offline, and with nothing writable at all.

Must not: know what the script is, or judge what it prints.
"""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Sequence
from pathlib import Path

from ..core.sysroot import Sysroot
from ..system.run import explain, run
from . import sandbox
from .workspace import ENVIRONMENT

TIMEOUT = 10.0  # seconds
SPARE = sandbox.FIRST_SPARE + 4096  # uids after those of builds, whose processes count elsewhere (RLIMIT_NPROC)
LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_CPU: 10,  # seconds
    resource.RLIMIT_DATA: 64 << 20,  # bytes of each process
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NPROC: 32,
}


async def evaluate(
    sysroot: Sysroot, script: str, words: Sequence[str], directory: str, visible: Sequence[tuple[Path, str]], most: int
) -> bytes:
    """Return what a bash script prints on stdout and stderr, up to `most` bytes.

    words: its arguments. directory: where it runs, as seen inside. visible: what it sees besides (host path, path
    inside). Raises Problem tool-missing, tool-timeout, tool-killed, tool-failed (the sandbox).
    """
    bash = ["bash", "--noprofile", "--norc", "-c", script, "bash", *words]
    spare = random.randrange(SPARE, SPARE + 4096)
    owner = (spare, spare) if os.geteuid() == 0 else sandbox.build_owner()
    limits = LIMITS if os.geteuid() == 0 else {**LIMITS, resource.RLIMIT_NPROC: 4096}  # of all that the person runs
    with sandbox.open_filter() as filters:
        argv = sandbox.command(
            sysroot, None, bash, directory=directory, read_only=visible, env=ENVIRONMENT, owner=owner, filters=filters
        )
        done = await run(
            argv,
            check=False,
            raw=True,
            timeout=TIMEOUT,
            output_limit=most,
            merged=True,
            limits=limits,
            yields=True,
            pass_fds=filters,
        )
    problem = explain(argv[0], done)
    if problem.code == "tool-killed" or (done.status and done.stdout.startswith((b"bwrap: ", b"setpriv: "))):
        raise problem
    return done.stdout
