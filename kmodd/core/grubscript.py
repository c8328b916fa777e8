"""What a line of GRUB's script language comes to: words, quotes and variables; and which kernels a grub.cfg names.

Sources: "Shell-like scripting" in GRUB's manual, grub_create_loader_cmdline() (how words become the kernel's command
line), blscfg.c of the EL family (the fields of a boot entry run through the same script engine). Pure; nothing is
executed: conditions are not evaluated. Must not: read files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_ASSIGNMENT = re.compile(r"^\s*(?:set\s+|export\s+)?([A-Za-z_]\w*)=(.*)$", re.ASCII)
_LINUX = re.compile(r"^\s*linux(?:16|efi)?\s+(\S.*)$")
_NAME = re.compile(r"\{(\w+)\}|(\w+)", re.ASCII)
#: What a script does with these words is not a matter of words alone.
_OPERATORS = frozenset(";|&<>`")


class Unclear(ValueError):
    """The value of a line cannot be determined."""


@dataclass(frozen=True)
class Loaded:
    """A kernel that a grub.cfg loads: the path of its image as it stands there, and the rest of the line."""

    image: str
    rest: str


def command_line(text: str, variables: Mapping[str, str]) -> str:
    """Return the kernel's command line that GRUB makes of the words of a line. Raises Unclear."""
    return " ".join(_quote(word) for word in words(text, variables))


def _quote(word: str) -> str:
    """Return a word as GRUB hands it on: quoted as a whole where there is a space in it, special signs escaped."""
    escaped = re.sub(r"([\\'\"])", r"\\\1", word)
    return f'"{escaped}"' if " " in word else escaped


def words(text: str, variables: Mapping[str, str]) -> list[str]:
    """Return the words of a line. An unset variable is empty, as in GRUB. Raises Unclear."""
    found: list[str] = []
    word, begun, quote, at = "", False, "", 0
    while at < len(text):
        sign = text[at]
        at += 1
        if quote == "'":
            quote, word = ("", word) if sign == "'" else (quote, word + sign)
        elif sign == "\\" and at < len(text) and (not quote or text[at] in '$"\\'):
            word, begun, at = word + text[at], True, at + 1
        elif sign == "$":
            name = _NAME.match(text, at)
            if name is None:
                word, begun = word + sign, True
                continue
            at = name.end()
            value = variables.get(name[1] or name[2], "")
            if quote:
                word += value
            else:  # spaces in it separate words
                first, *more = re.split(r"\s+", value) if value else [""]
                word, begun = word + first, begun or bool(first)
                for part in more:
                    found += [word] if begun else []
                    word, begun = part, bool(part)
        elif sign in "\"'" and (not quote or quote == sign):
            quote, begun = "" if quote else sign, True
        elif not quote and sign.isspace():
            found += [word] if begun else []
            word, begun = "", False
        elif not quote and (sign in _OPERATORS or (sign == "#" and not begun)):
            if sign == "#":
                return found
            raise Unclear(f"there is a {sign} in it")
        else:
            word, begun = word + sign, True
    if quote:
        raise Unclear("a quote does not end")
    return [*found, word] if begun else found


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Return a field of a boot entry with its $NAME replaced, as blscfg does before the script engine sees it."""
    return re.sub(r"\$(\w+)", lambda name: variables.get(name[1], ""), text, flags=re.ASCII)


def assignments(text: str) -> dict[str, set[str]]:
    """Return every value that the lines of a configuration may give to each variable, as written."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        match = _ASSIGNMENT.match(line)
        if match:
            found.setdefault(match[1], set()).add(match[2].strip())
    return found


def loaded(text: str) -> Iterator[Loaded]:
    """Yield the kernels that a configuration loads, in its order."""
    for line in text.splitlines():
        match = _LINUX.match(line)
        if match:
            image, _, rest = match[1].partition(" ")
            yield Loaded(image.strip("\"'"), rest.strip())


def used(text: str) -> set[str]:
    """Return the names of the variables in a text."""
    return {name[1] or name[2] for at in re.finditer(r"\$", text) if (name := _NAME.match(text, at.end()))}
