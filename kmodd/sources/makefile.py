"""Which objects a source's Makefiles say that they build, as far as that can be determined without running make.

Kbuild's words: obj-m, in Kbuild or else Makefile (Documentation/kbuild/modules.rst). Must not: run anything, or be
relied on: a Makefile is a program, and what it really yields is seen after the build.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LARGEST = 1 << 20  # bytes of a Makefile
MOST = 1000  # directories
MOST_NAMED = 3  # objects in a sentence
_OBJECTS = re.compile(r"obj-(?P<kind>\S+?)\s*[:+?]?=(?P<words>.*)")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_CONDITION = re.compile(r"(?P<word>ifeq|ifneq|ifdef|ifndef|else|endif)\b(?P<rest>.*)")


@dataclass(frozen=True)
class Foreseen:
    """objects: name and directory, relative to the source. certain: whether these are all, and all are built."""

    objects: tuple[tuple[str, str], ...]
    certain: bool


def foresee(top: Path) -> Foreseen:
    """Return the objects that make would build in a source."""
    found: dict[tuple[str, str], None] = {}
    certain = True
    pending, seen = ["."], 0
    while pending and seen < MOST:
        place, seen = pending.pop(0), seen + 1
        for words, sure in _assignments(_read(top / place)):
            certain = certain and sure
            for word in words.split():
                if not _PLAIN.fullmatch(word) or ".." in word.split("/"):
                    certain = False
                elif word.endswith("/"):
                    pending.append(os.path.normpath(f"{place}/{word}"))
                elif word.endswith(".o"):
                    inner = os.path.normpath(f"{place}/{word[: -len('.o')]}")
                    found[os.path.basename(inner), os.path.dirname(inner) or "."] = None
    return Foreseen(tuple(found), certain and not pending)


def find_marks(top: Path) -> list[str]:
    """Return what tells that a directory is the source of a module, such as "its Makefile builds alpha.ko"."""
    marks = []
    name, text = find_makefile(top)
    if _assignments(text):
        objects = [f"{item}.ko" for item, _ in foresee(top).objects]
        more = f" and {len(objects) - MOST_NAMED} more" if len(objects) > MOST_NAMED else ""
        named = f"builds {', '.join(objects[:MOST_NAMED])}{more}" if objects else "has obj-m"
        marks.append(f"its {name} {named}")
    if (top / "dkms.conf").is_file():
        marks.append("it has a dkms.conf")
    return marks


def find_sources(top: Path) -> list[str]:
    """Return the names of the directories below one that are sources of modules."""
    try:
        names = sorted(os.listdir(top))[:MOST]
    except OSError:
        return []
    return [name for name in names if (top / name).is_dir() and find_marks(top / name)]


def find_makefile(directory: Path) -> tuple[str, str]:
    """Return the name and text of what Kbuild reads in a directory, both "" where there is nothing."""
    for name in ("Kbuild", "Makefile"):
        try:
            with (directory / name).open("rb") as stream:
                return name, stream.read(LARGEST).decode(errors="replace")
        except OSError:
            continue
    return "", ""


def _read(directory: Path) -> str:
    """Return the text of a directory's Kbuild or Makefile, "" where there is none."""
    return find_makefile(directory)[1]


def _assignments(text: str) -> list[tuple[str, bool]]:
    """Return what is assigned to obj-m and the like, and whether it surely counts: KERNELRELEASE is set for Kbuild."""
    found = []
    conditions: list[bool] = []  # of those that are open, whether each surely holds
    for line in text.replace("\\\n", " ").splitlines():
        line = line.partition("#")[0].strip()
        condition = _CONDITION.match(line)
        if condition is not None:
            if condition["word"].startswith("if"):
                conditions.append("KERNELRELEASE" in condition["rest"])
            elif condition["word"] == "endif":
                conditions[-1:] = []
            continue
        assigned = _OBJECTS.match(line)
        if assigned is not None and assigned["kind"] != "n":
            found.append((assigned["words"], all(conditions) and assigned["kind"] in ("m", "y")))
    return found
