"""The Module.symvers of modules that others built: build.symvers.

Must not: judge what is in them; modpost does.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Callable

from ..errors import Problem
from ..modulefile import Module
from ..paths import Sysroot

LINE = re.compile(rb"0x[0-9a-fA-F]+\t[^\t\n]+\t[^\t\n]+(?:\t|\n|$)")  # CRC, symbol, module: scripts/mod/modpost.c


def symvers(sysroot: Sysroot, module: Module, release: str) -> list[Path]:
    """Return the host paths of build.symvers for a kernel. Raises Problem symvers-missing, symvers-invalid."""
    found = []
    for said in module.file.build.symvers:
        place = said.replace("{kernel}", release)
        where = f"{module.path}: build.symvers: {place}"
        path = sysroot.resolve(place)
        if not path.is_file():
            hint = "install or build for this kernel what makes it, or correct the path"
            raise Problem("symvers-missing", f"{where} does not exist", hint)
        try:
            with path.open("rb") as stream:
                first = stream.readline(4096)
        except OSError as error:
            raise Problem("symvers-invalid", f"{where} cannot be read: {error.strerror}") from error
        if first and not LINE.match(first):
            text = f"{where} is no Module.symvers: its first line is not a CRC, a symbol and a module"
            raise Problem("symvers-invalid", text, "name the Module.symvers that the other build left, uncompressed")
        found.append(path)
    return found


def symvers_identity(sysroot: Sysroot, module: Module, release: str, digest: Callable[[Path], str]) -> str:
    """Return the sha256 of build.symvers for a kernel, "" where there are none. Raises Problem, OSError."""
    digests = [digest(path) for path in symvers(sysroot, module, release)]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""
