"""What the guard file says to 05-kmodd.install, a shell script that runs in every installation of a kernel. Pure.

One key and its value a line. The last line is "end", which tells a whole file from one that was cut short.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Optional

from .booting import BootEntry

MARK = "# Written by kmodd after each pass, for kernel-install's plugin 05-kmodd.install."
SCHEMA = 1


def guard_text(
    fallback: Optional[BootEntry], system: str, directories: Iterable[str] = (), ready: Iterable[str] = ()
) -> str:
    """Return the file's text.

    fallback: the entry that is to boot while new kernels are held; None: none is to be held. system: ID and major
    version of the distribution. directories: of boot loader entries. ready: kernels that are not to be held.
    """
    lines = [MARK, f"schema {SCHEMA}", f"hold {'yes' if fallback else 'no'}"]
    if fallback:
        lines += [f"system {system}", f"fallback {fallback.release}"]
        lines += [f"file {path}" for path in (fallback.file, fallback.image, *fallback.initrds)]
        lines += [f"entries {path}" for path in directories]
        lines += [f"ready {release}" for release in sorted(ready)]
    return "".join(f"{line}\n" for line in (*lines, "end"))


def kept_text(release: str) -> str:
    """Return what the file for dnf's plugin says: which kernel is to stay installed, "" for none."""
    return json.dumps({"schema": 1, "keep": release}) + "\n"
