"""What shells complete: `kmoddctl --complete modules|kernels|attempts [MODULE] [--root DIR]` prints names, one a line.

Called at every press of Tab: imports nothing heavy, parses no TOML, and reports no errors. The scripts in
packaging/completion know all that does not depend on the root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..kbuild.logfiles import LogReader

#: Shells take what is printed apart, and some expand it.
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^@=:,%-]*")
_NAME = re.compile(r'^\[module\][^\[]*?^\s*name\s*=\s*"([^"]+)"', re.MULTILINE)


def print_names(words: Sequence[str]) -> None:
    """Print the names that words ask for; nothing where they cannot be read."""
    rest = list(words)
    root = "/"
    if "--root" in rest[:-1]:
        at = rest.index("--root")
        root = rest[at + 1]
        del rest[at : at + 2]
    with suppress(OSError, Problem):
        sysroot = Sysroot.at(root)
        if rest[:1] == ["modules"]:
            names = _modules(sysroot)
        elif rest[:1] == ["kernels"]:
            names = iter(entry.name for entry in os.scandir(sysroot.modules) if entry.is_dir())
        elif rest[:1] == ["attempts"] and len(rest) > 1:
            reader = LogReader(sysroot)
            names = (one["attempt"] for r in reader.kernels(rest[1]) for one in reader.attempts(rest[1], r))
        else:
            return
        print("\n".join(sorted({name for name in names if PLAIN.fullmatch(name)})))


def _modules(sysroot: Sysroot) -> Iterator[str]:
    for directory in sysroot.registries:
        for entry in os.scandir(directory) if directory.is_dir() else ():
            if entry.name.endswith(".toml") and entry.is_file():
                with open(entry.path, errors="replace") as stream:
                    found = _NAME.search(stream.read(1 << 16))
                yield found[1] if found else entry.name[: -len(".toml")]
