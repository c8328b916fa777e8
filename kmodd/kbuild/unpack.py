"""Unpacking an archive into the copy of the source, by an unprivileged child inside the sandbox.

Whatever is in an archive, only the scratch directory can be written; the child refuses what a source has no use for.
Must not: read what is in an archive here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..core.errors import Problem
from ..system.run import Finished, find_accident, find_program, own_python
from . import unpackchild
from .workspace import TEMPORARY, Workspace

CHILD = Path(unpackchild.__file__)
INSIDE = "/unpackchild.py"  # where the child is seen
ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878; Python knows it from 3.14 on
MOST_FILES = 200_000
MOST_BYTES = 4 << 30
TIMEOUT = 600.0  # seconds
TOO_LARGE = 128 + 25  # SIGXFSZ, as bwrap hands it on
HINTS = {
    "archive-invalid": "put a good copy in its place",
    "archive-unsafe": "such an archive is not unpacked; take one of the project itself, or use source.path",
    "archive-too-large": "unpack it by hand and use source.path",
    "disk-full": "free some space; kmodd tries again by itself",
}


async def unpack(workspace: Workspace, archive: Path, name: str, strip: int) -> None:
    """Unpack an archive in scratch/tmp into the source directory there, without `strip` leading directories.

    name: what the archive is called in messages. Raises Problem archive-invalid, archive-unsafe, archive-too-large,
    disk-full, tool-missing.
    """
    before = workspace.log.stat().st_size
    workspace.say(f"unpacking {name}")
    with archive.open("rb") as stream:
        compressed = stream.read(len(ZSTD)) == ZSTD
    inside = f"{TEMPORARY}/{archive.name}"
    try:
        status = 0
        if compressed:
            plain = f"{inside}.tar"
            if find_program("zstd") is None:
                raise Problem("tool-missing", f"{name}: zstd is not installed", "dnf install zstd", transient=True)
            words = ["zstd", "-d", "-q", "-f", "--rm", "-o", plain, inside]
            status = await workspace.run(words, timeout=TIMEOUT, raw=True)
            _check_alive(words[0], status)
            status = unpackchild.LARGE if status == TOO_LARGE else unpackchild.INVALID if status else 0
            inside = plain
        if not status:
            visible = [(CHILD, INSIDE)]
            if not sys.base_prefix.startswith("/usr"):
                visible.append((Path(sys.base_prefix), sys.base_prefix))
            words = [own_python(), "-I", "-S", "-B", INSIDE, inside, str(strip), str(MOST_FILES), str(MOST_BYTES)]
            status = await workspace.run(words, timeout=TIMEOUT, read_only=visible, raw=True)
            _check_alive(words[0], status)
    except Problem as problem:
        if problem.code != "tool-timeout":
            raise
        text = f"{name}: unpacking did not end within {TIMEOUT:g} s"
        raise Problem("archive-too-large", text, HINTS["archive-too-large"], transient=False) from None
    if status:
        code = unpackchild.STATUSES.get(status, "archive-invalid")
        lines = workspace.said_since(before).strip().splitlines()
        said = "".join(c for c in lines[-1][:600].replace(f"{inside} : ", "") if c.isprintable())
        raise Problem(code, f"{name}: {said}", HINTS[code], transient=code == "disk-full")


def _check_alive(program: str, status: int) -> None:
    """Raise Problem tool-killed where a program did not come to its own end."""
    accident = find_accident(program, Finished(status, b"", b""))
    if accident is not None:
        raise accident
