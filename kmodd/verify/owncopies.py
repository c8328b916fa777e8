"""Whether the kernel's own copy of an object is at least as new as ours, by what modinfo calls version and srcversion.

DKMS installs nothing over a newer or equal one (its "module version sanity check"). Where neither has a version it
takes them for equal, and ours is not installed; here what cannot be determined is no reason to leave ours out.
Must not: decide what is installed.
"""

from __future__ import annotations

from pathlib import Path

from ..core.errors import Problem
from ..core.versions import compare
from ..system.files import find_accident, stat_signature
from . import content, elf


class OwnCopies:
    """Compares copies; files that did not change are not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, tuple[str, str]]] = {}

    async def why_left(self, name: str, own: Path, ours: Path) -> str:
        """Return why an object is to be left to the kernel, whose own copy is `own`; "" where ours counts.

        Raises OSError and Problem where one could not be read.
        """
        try:
            (theirs, their_source), (mine, my_source) = await self._read(own), await self._read(ours)
        except (OSError, Problem, ValueError) as error:
            if find_accident(error):
                raise
            return ""  # what is wrong with either is for others to find
        if theirs and mine and compare(theirs, mine) > 0:
            return f"the kernel's own {name} is newer: version {theirs}, not {mine}"
        if theirs == mine and their_source and their_source == my_source:
            return f"the kernel's own {name} is made of the same source: srcversion {my_source}"
        return ""

    async def _read(self, path: Path) -> tuple[str, str]:
        """Return an object's version and srcversion, "" where it has none. Raises OSError, Problem and ValueError."""
        key = stat_signature(path)
        known = self._known.get(path)
        if not known or known[0] != key:
            contents = elf.read(await content.read_plain(path), path.name)
            known = self._known[path] = (key, (contents.first("version"), contents.first("srcversion")))
        return known[1]
