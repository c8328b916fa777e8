"""What a patch file says: unified diffs, with git's extended headers, as patch(1) reads them. Pure.

Must not: open files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")
MADE_LINK = re.compile(r"new (?:file )?mode 120000")
BINARY = re.compile(r"GIT binary patch$|Binary files .* differ$")


class Outside(Exception):
    """A name leads out of the source."""


@dataclass(frozen=True)
class Hunk:
    """A hunk: its number in the file's part from 1, the line of the old file it begins at, its lines with the "@@"."""

    number: int
    line: int
    lines: tuple[str, ...]

    @property
    def result(self) -> str:
        """Return the text that is there once the hunk is applied."""
        return "".join(f"{line[1:]}\n" for line in self.lines[1:] if not line or line[0] in " +")


@dataclass
class Piece:
    """What a patch does to one file: its names as patch(1) sees them, which may differ, the hunks, its whole text."""

    names: list[str] = field(default_factory=list)
    hunks: list[Hunk] = field(default_factory=list)
    makes_link: bool = False
    is_git: bool = False
    text: str = ""


def strip_name(name: str, strip: int) -> str:
    """Return a name without its leading directories, as patch -p does it. Raises ValueError, Outside."""
    name = name.partition("\t")[0].strip().strip('"')
    left = "/".join(re.split("/+", name)[strip:])
    if not left:
        raise ValueError(f"{name} has fewer directories than strip = {strip} drops")
    if left.startswith("/") or ".." in left.split("/"):
        raise Outside(f"{left} lies outside of the source")
    return left


def parse(text: str, strip: int) -> list[Piece]:
    """Return what a patch does, file by file.

    Raises Outside, and ValueError where patch(1) could not read the whole of it.
    """
    lines = text.removesuffix("\n").split("\n")
    pieces: list[Piece] = []
    at, begun, end = 0, 0, 0
    while at < len(lines):
        line, following = lines[at].rstrip("\r"), lines[at + 1] if at + 1 < len(lines) else ""
        piece = pieces[-1] if pieces else None
        if BINARY.match(line):
            raise ValueError(f"holds a binary difference (line {at + 1}), which patch(1) cannot apply")
        named = line.startswith("--- ") and following.startswith("+++ ")
        in_header = piece is not None and piece.is_git and not piece.hunks
        if line.startswith("diff --git ") or (named and not in_header):
            if piece:
                piece.text = "\n".join([*lines[begun:end], ""])
                begun = end
            piece = Piece(is_git=line.startswith("diff"))
            pieces.append(piece)
        if piece is None:
            at += 1
            continue
        if named:
            for name in (line[4:], following[4:]):
                if name.partition("\t")[0].strip() != "/dev/null":
                    piece.names.append(strip_name(name, strip))
            at += 2
        elif found := HUNK.match(line):
            length = _length(lines, at, found)
            body = tuple(part.rstrip("\r") for part in lines[at : at + length])
            piece.hunks.append(Hunk(len(piece.hunks) + 1, int(found[1]), body))
            at += length
        else:
            if piece.is_git and not piece.hunks:
                if line.startswith(("rename from ", "rename to ", "copy from ", "copy to ")):
                    piece.names.append(strip_name(line.split(" ", 2)[2], max(strip - 1, 0)))
                piece.makes_link = piece.makes_link or bool(MADE_LINK.match(line))
            elif not line.startswith("\\"):
                at += 1
                continue
            at += 1
        end = at
    if not any(piece.names or piece.is_git for piece in pieces):
        raise ValueError("holds no unified diff (diff -u)")
    pieces[-1].text = "\n".join([*lines[begun:end], ""])
    return pieces


def _length(lines: list[str], at: int, found: re.Match[str]) -> int:
    """Return how many lines a hunk takes that begins at a line. Raises ValueError."""
    old, new = (int(found[group]) if found[group] is not None else 1 for group in (2, 3))
    here = at + 1
    while old > 0 or new > 0:
        kind = lines[here][:1] if here < len(lines) else "end"
        if kind not in ("", "\r", " ", "\t", "-", "+", "\\"):
            raise ValueError(f"is malformed at line {min(here, len(lines) - 1) + 1}")
        old -= kind not in ("+", "\\")
        new -= kind not in ("-", "\\")
        here += 1
    if old or new:
        raise ValueError(f"is malformed at line {here}")
    return here - at
