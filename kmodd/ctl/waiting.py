"""kmoddctl boot wait and hurry: an orderly reboot waits while something is under way that changes what boots.

kmodd-shutdown.service runs it when it is stopped. It is comfort: with the boot guard a reboot at any time boots a
kernel that is ready, and this spares a second one. Must not: fail, or outstay boot.delay.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time

from ..core.errors import Problem
from ..core.model import Verdict
from ..core.sysroot import CONSOLE, Sysroot
from ..host.settingsfile import read_settings
from ..system.files import replace_file
from ..system.run import run
from ..watch.transaction import transaction_holder
from . import DONE
from .inprocess import Observed, observe

PAUSE = 2.0  # seconds between two observations
TELL_AGAIN = 30.0  # seconds after which it is said again what is waited for
REBOOTS = ("reboot.target", "kexec.target")
ENDS = ("poweroff.target", "halt.target")
LONGEST = 20 * 60.0  # seconds; below TimeoutStopSec= of the unit


def run_wait(options: argparse.Namespace) -> int:
    """kmoddctl boot wait"""
    with contextlib.suppress(Exception):  # a reboot is not to hang on this
        _wait(options)
    return DONE


def run_hurry(options: argparse.Namespace) -> int:
    """kmoddctl boot hurry"""
    replace_file(Sysroot.at(options.root).hurry, b"")
    return DONE


def find_ending() -> str:
    """Return the target that systemd is on its way to, "" where the system neither reboots nor ends."""
    done = asyncio.run(run(["systemctl", "list-jobs", "--plain", "--no-legend"], check=False, timeout=20))
    queued = {words[1] for words in map(str.split, done.text.splitlines()) if len(words) > 2 and words[2] == "start"}
    return next((target for target in (*REBOOTS, *ENDS) if target in queued), "")


def _wait(options: argparse.Namespace) -> None:
    sysroot = Sysroot.at(options.root)
    ending = find_ending()
    if not ending:
        return
    most = min(read_settings(sysroot).boot.delay, LONGEST)
    end, told = time.monotonic() + most, ("", 0.0)
    while time.monotonic() < end and not sysroot.hurry.exists():
        reason = _find_reason(sysroot, options, ending in REBOOTS)
        if not reason:
            return
        if reason != told[0] or time.monotonic() > told[1] + TELL_AGAIN:
            _tell(f"kmodd: the {ending.partition('.')[0]} waits for {reason}, at most {most / 60:g} min; "
                        "kmoddctl boot hurry ends that")  # fmt: skip
            told = (reason, time.monotonic())
        time.sleep(PAUSE)


def _find_reason(sysroot: Sysroot, options: argparse.Namespace, reboots: bool) -> str:
    """Return what is under way that changes what boots, "" where nothing is."""
    with contextlib.suppress(Problem):
        if transaction_holder(sysroot) is not None:
            return "the rpm transaction that is running"
    if sysroot.releasing.exists():
        return "a new kernel that is being made bootable"
    return find_pending(observe(options)) if reboots else ""


def find_pending(seen: Observed) -> str:
    """Return the held kernel that will be ready by itself soon, "" where none will."""
    guarding = seen.guarding
    for standing in guarding.standings().values():
        verdict = guarding.kernels[standing.release].verdict
        if standing.held is not None and seen.holder and verdict in (Verdict.BUILDING, Verdict.READY):
            return f"{standing.release} to be ready ({guarding.kernels[standing.release].reason})"
    return ""


def _tell(text: str) -> None:
    """Say something on the console and to everybody who is logged in."""
    with contextlib.suppress(OSError):
        CONSOLE.write_text(f"{text}\n")
    with contextlib.suppress(Problem):
        asyncio.run(run(["wall", "--nobanner", text], check=False, timeout=10))
