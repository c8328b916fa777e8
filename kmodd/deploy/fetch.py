"""Has dnf(8) fetch what a kernel lacks: kernel-devel, and source RPMs. Only where the settings allow it.

dnf runs as a unit of its own where systemd is there: kmodd's own is neither to write to /usr nor to reach a network,
and a transaction must not end with it. Must not: run inside an rpm transaction, or decide that it is due.
"""

from __future__ import annotations

from ..core.errors import Problem
from ..core.remedy import Remedy
from ..core.sysroot import SYSTEMD_RUNS, Sysroot
from ..system.run import TRANSIENT_UNIT, run

TIMEOUT = 3600.0  # seconds


def fetch_words(sysroot: Sysroot, remedy: Remedy, directory: str) -> list[str]:
    """Return the argv that does what the administrator is shown, without asking back. directory: for source RPMs."""
    dnf, *words = remedy.words(sysroot, directory)
    detached = TRANSIENT_UNIT if sysroot.is_host and SYSTEMD_RUNS.is_dir() else ()
    return [*detached, dnf, "--assumeyes", *words]


async def fetch(sysroot: Sysroot, remedy: Remedy, directory: str) -> None:
    """Run dnf to its end. Raises Problem fetch-failed, tool-missing, tool-timeout."""
    done = await run(fetch_words(sysroot, remedy, directory), check=False, raw=True, timeout=TIMEOUT, outlives=True)
    if done.status != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        line = next((line for line in said if line.startswith("Error:")), (said or ["it said nothing"])[-1])
        text = f"dnf ended with exit status {done.status}: {line.replace('Error:', '').strip()}"
        raise Problem("fetch-failed", text, remedy.shown(sysroot, directory), transient=True)
