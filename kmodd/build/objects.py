"""What builds leave, looked at as the hostile input that it may be: objects, and Module.symvers.

Must not: run anything.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ..errors import Problem
from ..modulefile import OBJECT, OBJECT_RULE
from ..visible import visible

SUFFIX = ".ko"
LONGEST_SHOWN = 100  # characters of a path in a message
LARGEST_OBJECT = 1 << 30  # bytes
LARGEST_SYMVERS = 64 << 20  # bytes
ELF_RELOCATABLE = b"\x01\x00"


def read_symvers(top: Path, directories: Sequence[Path], most: Optional[int] = None) -> bytes:
    """Return the Module.symvers in some directories below top, one after the other; of the first `most` only."""
    paths = [directory / "Module.symvers" for directory in directories]
    found = [path for path in paths if is_plain(path, top) and 0 < path.lstat().st_size < LARGEST_SYMVERS]
    return b"".join(path.read_bytes() for path in found[:most])


def is_plain(path: Path, top: Path) -> bool:
    """Tell whether a path below top is a regular file reached through no link."""
    try:
        here = path
        while here != top:
            mode = here.lstat().st_mode
            if stat.S_ISLNK(mode) or (here == path and not stat.S_ISREG(mode)):
                return False
            here = here.parent
    except OSError:
        return False
    return True


def find_objects(top: Path) -> list[Path]:
    """Return the regular files NAME.ko below top, sorted; none that are behind a link. Takes trees of any depth."""
    found = []
    pending = [str(top)]
    while pending:
        directory = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError:  # gone meanwhile, or too deep to have a path at all
            continue
        pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        found += [Path(e.path) for e in entries if e.name.endswith(SUFFIX) and e.is_file(follow_symlinks=False)]
    return sorted(found)


def check_name(path: Path, top: Path) -> None:
    """Raise Problem object-invalid unless the kernel could call a module as an object below top is named."""
    if not OBJECT.fullmatch(path.name[: -len(SUFFIX)]):
        name = visible(str(path.relative_to(top)))
        name = name if len(name) <= LONGEST_SHOWN else f"…{name[-LONGEST_SHOWN:]}"
        raise Problem("object-invalid", f"the build yielded {name}: {OBJECT_RULE}", "correct its Makefile's obj-m")


def check_object(path: Path) -> None:
    """Raise Problem object-invalid unless a file is a relocatable ELF object of bearable size (elf(5))."""
    name = path.name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Problem("object-invalid", f"{name} cannot be read: {error.strerror}", transient=False) from error
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        head = stream.read(18) if stat.S_ISREG(found.st_mode) else b""
    if head[:4] != b"\x7fELF" or head[16:18] not in (ELF_RELOCATABLE, ELF_RELOCATABLE[::-1]):
        raise Problem("object-invalid", f"{name} is not a relocatable ELF object", transient=False)
    if found.st_size > LARGEST_OBJECT:
        raise Problem("object-invalid", f"{name} is larger than {LARGEST_OBJECT} bytes", transient=False)
