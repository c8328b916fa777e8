"""The directory that kmod's tools use as a root: they follow its links as if there were none.

depmod -b and modprobe -d put /lib/modules behind it. Must not: run them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from .files import make_directory

PLACES = ("lib/modules", "usr/lib/modules")


@contextlib.contextmanager
def open_base(sysroot: Sysroot) -> Iterator[Path]:
    """Give the directory that depmod -b and modprobe -d are to have. Raises OSError and Problem symlink-loop.

    Where links of the root would lead them out of it, that is a directory which has nothing but the place of the
    modules.
    """
    if all(os.path.realpath(sysroot.root / place) == str(sysroot.resolve(f"/{place}")) for place in PLACES):
        yield sysroot.root
        return
    with tempfile.TemporaryDirectory(prefix="kmodd-kmod.") as name:
        for place in PLACES:
            path = Path(name, place)
            make_directory(path.parent, durable=False)
            path.symlink_to(sysroot.modules)
        yield Path(name)


def check_links(sysroot: Sysroot, release: str) -> None:
    """Raise Problem link-leads-out where kmod's tools would leave the root in a kernel's directory, and OSError."""
    path = sysroot.find_astray(sysroot.kernel(release))
    if path is not None:
        text = f"{sysroot.inside(path)} is a link to {os.readlink(path)}, by which depmod would leave the root"
        raise Problem("link-leads-out", text, "make it a relative link, or a directory")
