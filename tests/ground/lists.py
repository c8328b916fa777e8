"""The package manager's lists of what can be had: fetched anew where they are old, or lack what is wanted.

How that is done is in the script setup, which also runs where there is no Python yet.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from .cache import locked

SETUP = Path(__file__).with_name("setup")


@functools.cache
def refresh_old(cache: Path) -> None:
    """Fetch the lists anew where there are none or they are older than a day; tries it once in a process."""
    _ask(cache, "--refresh-old")


@functools.cache
def refresh(cache: Path) -> str:
    """Fetch the lists anew, once in a process. Returns where they are from, or what kept them, fit to print."""
    done = _ask(cache, "--refresh")
    return f"{done.stdout.strip()}, {done.stderr.strip() if done.returncode else 'fetched anew just now'}"


def _ask(cache: Path, option: str) -> subprocess.CompletedProcess[str]:
    with locked(cache, "lists"):
        return subprocess.run([SETUP, option], stdin=subprocess.DEVNULL, capture_output=True, text=True)
