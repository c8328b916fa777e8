"""Writes text to a terminal: colours that repeat what the words say, the width, and nothing that steers it.

All that a command prints goes through the Door, which shows as escapes whatever is no text.
Imports nothing heavy; must not know what a document holds beyond a verdict's name.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable
from typing import Any, TextIO

from ..core.visible import visible_lines

COLOURS = {
    "ready": "32", "failed": "31;1", "blocked": "31", "waiting": "33", "building": "36", "pending": "33",
    "excluded": "2", "ok": "32", "warning": "33", "stale": "33", "fail": "31;1", "title": "1",
}  # fmt: skip


#: Begins our own control sequences until the Door has written them; text of others cannot contain it.
_OURS = f"\0{os.urandom(8).hex()}["


class Door:
    """A stream that writes control characters as escapes; only sequences made by steer pass. Else as the stream itself.

    bare: the stream itself, for text that is to stay as it is.
    """

    def __init__(self, bare: TextIO) -> None:
        self.bare = bare

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        self.bare.write(visible_lines(text).replace(visible_lines(_OURS), "\x1b["))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)


def open_doors() -> None:
    """Have all that is printed go through doors."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Door):
            setattr(sys, name, Door(stream))


def write_bare(text: str) -> None:
    """Write a text to stdout as it is; it must not be a terminal."""
    getattr(sys.stdout, "bare", sys.stdout).write(text)


def steer(sequence: str) -> str:
    """Return a control sequence (ECMA-48, without its introducer) that passes the door."""
    return _OURS + sequence


def is_terminal() -> bool:
    """Tell whether stdout is a terminal."""
    return sys.stdout.isatty()


def has_colours() -> bool:
    """Tell whether stdout is a terminal with colours, and NO_COLOR does not switch them off (no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, verdict: str) -> str:
    """Return a text in a verdict's colour, or as it is where there are none."""
    colour = COLOURS.get(verdict)
    return f"{steer(f'{colour}m')}{text}{steer('0m')}" if colour and has_colours() else text


def width() -> int:
    """Return the columns to use: the terminal's where there is one, else 80."""
    return max(40, shutil.get_terminal_size((80, 24)).columns) if is_terminal() else 80


def wrap(first: str, text: str, most: int = 0) -> str:
    """Return a text wrapped behind a first word, whose width (without colours) is the indent; most: of lines."""
    indent = len(first)
    lines = textwrap.wrap(text, max(24, width() - indent), break_long_words=False, break_on_hyphens=False) or [""]
    if most and len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]} …"]
    return f"\n{'':<{indent}}".join([f"{first}{lines[0]}".rstrip(), *lines[1:]])


def clip(text: str, columns: int) -> str:
    """Return a text that fits, its middle left out where it does not."""
    if len(text) <= columns:
        return text
    left = (columns - 1) // 2
    return f"{text[:left]}…{text[len(text) - (columns - 1 - left) :]}"


def clean(text: str) -> str:
    """Return a text as the Door would write it, for code that measures it or passes it on."""
    return visible_lines(text)


def moment(stamp: float) -> str:
    """Return seconds since the epoch as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp))


def span(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
