"""What a dkms.conf said: the answer that bash prints, parsed as the hostile input that it may be. Pure.

Whatever a conf does to the shell that reads it, what comes out is only data, and only about itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

LARGEST_ANSWER = 1 << 20  # bytes, with all that the conf prints
MOST_ELEMENTS = 1000  # of an array
MOST_VALUES = 10_000  # of all directives together
LONGEST_VALUE = 64 << 10  # characters
ARRAYS = (
    "BUILT_MODULE_NAME", "BUILT_MODULE_LOCATION", "DEST_MODULE_NAME", "DEST_MODULE_LOCATION", "STRIP", "MAKE",
    "MAKE_MATCH", "PATCH", "PATCH_MATCH", "BUILD_DEPENDS",
)  # fmt: skip
SCALARS = (
    "PACKAGE_NAME", "PACKAGE_VERSION", "PRE_BUILD", "POST_BUILD", "PRE_INSTALL", "POST_INSTALL", "POST_ADD",
    "POST_REMOVE", "BUILD_EXCLUSIVE_KERNEL", "BUILD_EXCLUSIVE_KERNEL_MIN", "BUILD_EXCLUSIVE_KERNEL_MAX",
    "BUILD_EXCLUSIVE_ARCH", "BUILD_EXCLUSIVE_CONFIG", "OBSOLETE_BY", "AUTOINSTALL", "build_exclude", "patch_array",
)  # fmt: skip
#: Directives that are regular expressions, and what they are matched with.
PATTERNS = {
    "MAKE_MATCH": "kernel", "PATCH_MATCH": "kernel", "BUILD_EXCLUSIVE_KERNEL": "kernel", "BUILD_EXCLUSIVE_ARCH": "arch",
}  # fmt: skip
SETTER = "DKMS_DIRECTIVE"  # variables whose names begin so hold NAME=VALUE of a directive
TAMPERED = "!"  # stands for a directive where the reader tells what the conf did to it
DIRECTIVES = frozenset((*ARRAYS, *SCALARS, SETTER))
SPACE = re.compile(r"[ \t\n]+")


@dataclass(frozen=True)
class Answer:
    """values: directive -> index -> value. matches: regular expression -> index -> whether it matches, None if bad.

    said: what the conf printed as errors. tampered: what it changed of the shell that read it, "" for nothing.
    """

    values: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    matches: Mapping[str, Mapping[int, Optional[bool]]] = field(default_factory=dict)
    said: str = ""
    tampered: str = ""

    def array(self, name: str) -> Mapping[int, str]:
        return self.values.get(name, {})

    def text(self, name: str) -> str:
        """Return a directive's element 0, which a plain variable is."""
        return self.array(name).get(0, "")

    def matched(self, name: str, index: int = 0) -> Optional[bool]:
        return self.matches.get(name, {}).get(index)


def parse(printed: bytes, mark: str) -> Answer:
    """Return what is between the marks. Raises ValueError, with the end of what was printed where there are none."""
    sign = b"\0" + mark.encode() + b"\0"
    said, found, rest = printed.partition(sign)
    errors = "".join(c for c in said.decode(errors="replace") if c.isprintable() or c == "\n").strip()
    if len(printed) >= LARGEST_ANSWER:
        raise ValueError(f"it prints more than {LARGEST_ANSWER >> 20} MiB")
    if not found or not rest.endswith(b"\0end\0"):
        last = errors.splitlines()[-1:]
        raise ValueError("it ends the shell that reads it" + (f": {last[0][:300]}" if last else ""))
    try:
        fields = rest[: -len(b"\0end\0")].decode().split("\0")[:-1]
    except UnicodeDecodeError:
        raise ValueError("it says something that is not UTF-8") from None
    if len(fields) % 3:
        raise ValueError("what it says is garbled; it changes the shell that reads it")
    if len(fields) > 3 * MOST_VALUES:
        raise ValueError(f"it sets more than {MOST_VALUES} values")
    values: dict[str, dict[int, str]] = {}
    matches: dict[str, dict[int, Optional[bool]]] = {}
    tampered = ""
    for name, index, value in zip(*[iter(fields)] * 3):
        if name == TAMPERED:
            tampered = value.strip()
            continue
        directive = name[1:] if name.startswith("~") else name
        if directive not in (PATTERNS if directive != name else DIRECTIVES):
            raise ValueError("what it says is garbled; it changes the shell that reads it")
        if not re.fullmatch(r"[0-9]{1,6}", index):
            raise ValueError(f"{directive}[{index[:40]}]: an index must be a number")
        if int(index) >= MOST_ELEMENTS:
            raise ValueError(f"{directive}[{index}]: there may be {MOST_ELEMENTS} elements")
        if len(value) > LONGEST_VALUE:
            raise ValueError(f"{directive}[{index}]: is longer than {LONGEST_VALUE} characters")
        if directive != name:
            matches.setdefault(directive, {})[int(index)] = {"0": True, "1": False}.get(value)
        else:
            values.setdefault(directive, {})[int(index)] = SPACE.sub(" ", value)
    return Answer(values, matches, errors, tampered)
