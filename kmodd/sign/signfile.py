"""A kernel's own sign-file: finding it, running it, and reading what it left (scripts/sign-file.c).

Must not: read a private key, which is sign-file's own to do.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Union

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.run import SHORT, UNRUN, Finished, find_accident, run

MAGIC = b"~Module signature appended~\n"  # MODULE_SIG_STRING in include/linux/module_signature.h
#: Why a program cannot be started that is at fault itself, rather than the machine.
UNRUNNABLE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ELIBBAD)


def find_sign_file(sysroot: Sysroot, build_tree: Path) -> Path:
    """Return a build tree's sign-file, which root may run. Raises Problem sign-file-missing, sign-file-unsafe."""
    path = build_tree / "scripts/sign-file"
    try:
        path = sysroot.resolve(sysroot.inside(path))
    except ValueError:  # a tree outside the root
        path = path.resolve()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise _unusable(path, "there is no such program")
    if os.geteuid() == 0:
        for part in (path, *path.parents):
            if part == sysroot.root:
                break
            _check_safe(part)
    return path


def is_signed(path: Path, unsigned: int = 0) -> bool:
    """Tell whether a file that was so many bytes long got a signature since. Raises OSError."""
    size = path.stat().st_size
    if size <= unsigned + len(MAGIC):
        return False
    with path.open("rb") as stream:
        stream.seek(-len(MAGIC), os.SEEK_END)
        return stream.read() == MAGIC


async def run_sign_file(argv: Sequence[Union[str, Path]], environment: Mapping[str, str]) -> Finished:
    """Run sign-file, and return how it ended by itself. Raises Problem tool-killed, tool-timeout, sign-file-missing."""
    try:
        done = await run(argv, check=False, raw=True, env=environment)
    except Problem as problem:
        if problem.attributes.get("errno") in UNRUNNABLE:
            raise _unusable(Path(argv[0]), problem.message) from problem
        raise
    accident = find_accident("sign-file", done)
    if done.status in UNRUN and not SHORT.search(last_line(done)):  # the dynamic loader misses a library
        raise _unusable(Path(argv[0]), last_line(done))
    if accident is not None and accident.code == "tool-killed":
        raise accident
    return done


def find_hint(done: Finished, is_token: bool) -> str:
    """Return what may help, by what sign-file said."""
    said = done.stderr.decode(errors="replace")
    if "No space left" in said:
        return "free some space"
    if is_token:
        return "check the URI with p11tool --list-all, the PIN in sign.passphrase_file and sign.pkcs11_module"
    if re.search(r"unsupported|digest|invalid hash", said, re.IGNORECASE):
        return "this openssl does not take the kernel's hash; see update-crypto-policies(8) and FIPS mode"
    return "run the kernel's scripts/sign-file by hand to see more"


def _check_safe(part: Path) -> None:
    """Raise Problem sign-file-unsafe where others than root could change a file, or what is in a directory."""
    found = part.stat()
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX  # others may add names, not replace them
    if found.st_uid != 0 or (found.st_mode & 0o022 and not sticky):
        text = f"sign-file is not run, since others than root can change {part}"
        raise Problem("sign-file-unsafe", text, f"chown root {part} && chmod go-w {part}", path=str(part))


def _unusable(path: Path, why: str) -> Problem:
    hint = "reinstall the kernel-devel package of this kernel"
    return Problem("sign-file-missing", f"{path} cannot be run: {why}", hint, path=str(path))


def last_line(done: Finished) -> str:
    """Return the last line of what a program printed."""
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
