"""Asking this machine's firmware to trust a certificate: a machine owner key (MOK) of shim, by mokutil(1).

The request waits for the next boot, where MokManager asks for the password at the console. Must not: tell whether it
is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Union

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.run import run

LENGTHS = range(1, 257)  # of a password: PASSWORD_MIN to PASSWORD_MAX in mokutil.c
STEPS = (
    "reboot; the blue screen of MokManager shows up on the console (or its BMC) and goes on by itself after 10 s",
    "press a key, choose Enroll MOK, Continue, Yes, and give the password",
    "after that boot, kmoddctl key status says enrolled",
)


def check_firmware(sysroot: Sysroot) -> None:
    """Raise Problem enrolment-impossible unless root is this machine's own, and booted by EFI."""
    if not sysroot.is_host:
        text = f"enrolment changes this machine's firmware, which {sysroot.root} may not be meant for"
        raise Problem("enrolment-impossible", text, "run it without --root on the machine that boots it")
    if not sysroot.efivars.is_dir():
        text = "this machine was not booted by EFI, so that no firmware keeps keys for it"
        hint = "build the certificate into the kernel and set sign.trusted in kmodd.toml, or do not enforce signatures"
        raise Problem("enrolment-impossible", text, hint)


async def ask(certificate: Path, password: Optional[str]) -> None:
    """Ask for the enrolment of a certificate (DER), to be confirmed with a password; None means root's own.

    Raises Problem enrolment-failed and tool-missing.
    """
    if password is not None and (len(password) not in LENGTHS or "\n" in password):
        text = f"a MOK password has {LENGTHS.start} to {LENGTHS.stop - 1} characters and is one line"
        raise Problem("usage-password", text)
    argv: list[Union[str, Path]] = ["mokutil", "--import", certificate, *(["--root-pw"] if password is None else [])]
    # Without a terminal, mokutil takes the password and its repetition from stdin.
    done = await run(argv, check=False, timeout=60, stdin=f"{password}\n{password}\n".encode() if password else b"")
    if done.status != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise Problem("enrolment-failed", f"mokutil refused to enrol {certificate}: {said[0]}", "mokutil --sb-state")
