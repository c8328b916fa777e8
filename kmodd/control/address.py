"""Where the control socket is, however long its path: names of sockets hold 107 bytes (unix(7)), paths more.

Must not: import anything heavy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

LONGEST = 107  # bytes of sun_path, without its NUL


@contextlib.contextmanager
def short_name(path: str) -> Iterator[str]:
    """Give a name of a path that fits sun_path while the block runs: by its directory's descriptor. Raises OSError."""
    if len(os.fsencode(path)) <= LONGEST:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def socket_of(root: str) -> str:
    """Return the path of the control socket of a root, its links followed inside it. Raises Problem."""
    if root == "/":  # as the kernel follows its links, kmodd.core.sysroot need not be imported
        return "/run/kmodd/io.kmodd.Manager"
    from ..core.sysroot import Sysroot

    sysroot = Sysroot.at(root)
    return str(sysroot.resolve(sysroot.inside(sysroot.socket)))
