"""Text of others made fit to be shown: what would steer a terminal, or not be seen on it, stands there as an escape.

Whatever comes from outside may hold it: names of files, what a compiler quotes, what an object says of itself.
Imports nothing heavy; must not: know where the text goes.
"""

from __future__ import annotations

import re

#: Controls (C0 but tab and line feed, DEL, C1), bidirectional controls, what has no width, and lone surrogates.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
#: The same and what ends a line or a column, for text that has one line.
STEERING = re.compile(f"[\t\n]|{UNSEEN.pattern}")


_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def visible(text: str) -> str:
    """Return one line of text in which every character is seen, such as \\x1b or \\u202e."""
    return text if text.isascii() and text.isprintable() else STEERING.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Return text of many lines likewise; line feeds and tabs stay."""
    return text if text.isascii() and text.isprintable() else UNSEEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    if found[0] in _NAMED:
        return _NAMED[found[0]]
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python keeps it (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
