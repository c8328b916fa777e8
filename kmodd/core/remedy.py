"""What kmodd itself may do about a wait: what dnf(8) can fetch, the command for that, and how people are shown it.

The command is made from the remedy, and nothing is read back out of what people are shown. Must not: run anything.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Literal, Optional

from .sysroot import Sysroot

_SRPM = ".src.rpm"
_NAME = re.compile(r"[A-Za-z0-9][\w.+~^-]*", re.ASCII)  # no option of dnf's


@dataclass(frozen=True)
class Remedy:
    """What is to be fetched. wanted: a kernel release (fetch-devel), or a source RPM's file name (fetch-source)."""

    kind: Literal["fetch-devel", "fetch-source"]
    wanted: str

    def words(self, sysroot: Sysroot, directory: str = "") -> list[str]:
        """Return the argv of dnf. directory: the in-root one that a source RPM is put into."""
        root = [] if sysroot.is_host else [f"--installroot={sysroot.root}"]
        if self.kind == "fetch-devel":
            return ["dnf", *root, "install", f"kernel-devel-uname-r = {self.wanted}"]
        place = directory or "."
        where = place if sysroot.is_host else str(sysroot.resolve(place))
        # dnf-plugins-core
        return ["dnf", *root, "download", "--source", f"--destdir={where}", self.wanted[: -len(".rpm")]]

    def shown(self, sysroot: Sysroot, directory: str = "") -> str:
        """Return the command as people type it."""
        return shlex.join(self.words(sysroot, directory))


def find_remedy(problem: str, release: str, source_package: str) -> Optional[Remedy]:
    """Return what may be done about a problem of a kernel, None where nothing can be or a name is none."""
    if problem == "kernel-devel-missing" and _NAME.fullmatch(release):
        return Remedy("fetch-devel", release)
    if problem == "kernel-source-missing" and _NAME.fullmatch(source_package) and source_package.endswith(_SRPM):
        return Remedy("fetch-source", source_package)
    return None
