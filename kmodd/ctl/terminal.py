"""How text is put on a terminal: colours that repeat what the words say, and the width there is.

Imports nothing heavy; must not know what a document holds beyond a verdict's name.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time

COLOURS = {
    "ready": "32", "failed": "31;1", "blocked": "31", "waiting": "33", "building": "36", "excluded": "2",
    "ok": "32", "warning": "33", "stale": "33", "fail": "31;1", "title": "1",
}  # fmt: skip


def is_terminal() -> bool:
    """Tell whether stdout is a terminal."""
    return sys.stdout.isatty()


def has_colours() -> bool:
    """Tell whether stdout is a terminal that takes colours, and nobody asked for none (no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, verdict: str) -> str:
    """Return a text in a verdict's colour, or as it is where there are none."""
    colour = COLOURS.get(verdict)
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and has_colours() else text


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


def clip(text: str, room: int) -> str:
    """Return a text that fits, its middle left out where it does not."""
    if len(text) <= room:
        return text
    left = (room - 1) // 2
    return f"{text[:left]}…{text[len(text) - (room - 1 - left) :]}"


def clean(text: str) -> str:
    """Return a text without what would steer a terminal: it may come from a compiler that quotes code of others."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


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
