"""The Module.symvers of modules that others built: build.symvers.

Must not: judge what is in them; modpost does.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from ..core.errors import Problem
from ..core.modulefile import Module
from ..core.sysroot import Sysroot
from ..system.reading import Reached, reach
from .ownership import check_owners

LINE = re.compile(rb"0x[0-9a-fA-F]+\t[^\t\n]+\t[^\t\n]+(?:\t|\n|$)")  # CRC, symbol, module: scripts/mod/modpost.c
LARGEST = 64 << 20  # bytes; a whole kernel's has some 3 MiB


@contextlib.contextmanager
def _open(sysroot: Sysroot, module: Module, place: str) -> Iterator[Reached]:
    """Give a Module.symvers. Raises Problem symvers-missing, symvers-invalid, source-unsafe."""
    where = f"{module.path}: build.symvers: {place}"
    missing = "install or build for this kernel what makes it, or correct the path"
    try:
        with reach(sysroot, place) as found:
            if not found.is_file:
                raise Problem("symvers-missing", f"{where} is not a file", missing)
            check_owners(module, "build.symvers", found.weakness)
            if found.found.st_size > LARGEST:
                raise Problem("symvers-invalid", f"{where} is larger than {LARGEST} bytes", "is it one?")
            with found.stream() as stream:
                first = stream.readline(4096)
            if first and not LINE.match(first):
                text = f"{where} is no Module.symvers: its first line is not a CRC, a symbol and a module"
                hint = "name the Module.symvers that the other build left, uncompressed"
                raise Problem("symvers-invalid", text, hint)
            yield found
    except FileNotFoundError:
        raise Problem("symvers-missing", f"{where} does not exist", missing) from None
    except OSError as error:
        raise Problem("symvers-invalid", f"{where} cannot be read: {error.strerror}") from error


def _places(module: Module, release: str) -> list[str]:
    return [said.replace("{kernel}", release) for said in module.file.build.symvers]


def _identity(digests: list[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def symvers_identity(sysroot: Sysroot, module: Module, release: str, digest: Callable[[Reached], str]) -> str:
    """Return the sha256 of build.symvers for a kernel, "" where there are none.

    digest: returns a file's. Raises Problem symvers-missing, symvers-invalid, source-unsafe.
    """
    digests = []
    for place in _places(module, release):
        with _open(sysroot, module, place) as found:
            digests.append(digest(found))
    return _identity(digests)


def copy(sysroot: Sysroot, module: Module, release: str, directory: Path) -> tuple[str, list[Path]]:
    """Copy build.symvers for a kernel to a directory; returns their sha256, "" where there are none, and the copies.

    Raises Problem as symvers_identity does.
    """
    digests, copies = [], []
    for number, place in enumerate(_places(module, release)):
        with _open(sysroot, module, place) as found:
            copies.append(directory / f"{number}.symvers")
            digests.append(found.copy(copies[-1]))
    return _identity(digests), copies
