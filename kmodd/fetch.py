"""What dnf(8) can fetch for a kernel: kernel-devel, and source RPMs. Only where the settings allow it.

dnf runs as a unit of its own where systemd is there: kmodd's own is neither to write to /usr nor to reach a network,
and a transaction must not end with it. Must not: run inside an rpm transaction, or decide that it is due.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .errors import Problem
from .paths import SYSTEMD_RUNS, Sysroot
from .run import TRANSIENT_UNIT, run

TIMEOUT = 3600.0  # seconds


def fetch_words(sysroot: Sysroot, command: str) -> list[str]:
    """Return the argv that runs a dnf command, as it is shown to the administrator, without asking back."""
    dnf, *words = shlex.split(command)
    detached = TRANSIENT_UNIT if sysroot.is_host and SYSTEMD_RUNS.is_dir() else ()
    return [*detached, dnf, "--assumeyes", *words]


async def fetch(sysroot: Sysroot, command: str) -> None:
    """Run a dnf command to its end. Raises Problem fetch-failed, tool-missing, tool-timeout."""
    words: Sequence[str] = fetch_words(sysroot, command)
    done = await run(words, check=False, raw=True, timeout=TIMEOUT, outlives=True)
    if done.status != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        line = next((line for line in said if line.startswith("Error:")), (said or ["it said nothing"])[-1])
        text = f"dnf ended with exit status {done.status}: {line.replace('Error:', '').strip()}"
        raise Problem("fetch-failed", text, command, transient=True)
