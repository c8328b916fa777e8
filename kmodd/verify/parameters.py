"""Whether a module would take the options that modprobe gives it.

Sources: parse_args() and next_arg() of kernel/params.c and lib/cmdline.c, kstrtox.c, and the `parmtype` entries that
module_param() leaves in .modinfo. What cannot be known, such as an array's length or a type of the module's own, is
taken for good. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

from ..model import Fault
from .elf import Contents

#: type -> the least and the greatest value (of a 64-bit kernel).
RANGES = {
    "byte": (0, 2**8 - 1),
    "short": (-(2**15), 2**15 - 1),
    "ushort": (0, 2**16 - 1),
    "int": (-(2**31), 2**31 - 1),
    "uint": (0, 2**32 - 1),
    "hexint": (0, 2**32 - 1),
    "long": (-(2**63), 2**63 - 1),
    "ulong": (0, 2**64 - 1),
    "ullong": (0, 2**64 - 1),
}
BOOLEAN = re.compile(r"[yYtT1nNfF0]|[oO][nNfF]")  # how kstrtobool() begins; t and f since 6.4
NUMBER = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))\n?")  # kstrtoull() of base 0
WITHOUT_VALUE = ("bool", "bint")  # KERNEL_PARAM_OPS_FL_NOARG
LONGEST = 1024  # characters of a charp
SPECIAL = frozenset({"dyndbg", "async_probe"})  # taken by load_module() itself


def split(options: str) -> Iterator[tuple[str, Optional[str]]]:
    """Yield parameters, with underscores, and their values, None where there is no "="; quotes keep blanks."""
    for word in re.findall(r'(?:[^\s"]|"[^"]*(?:"|$))+', options):
        if word == "--":
            return
        if word.startswith('"'):
            word = word[1:].removesuffix('"')
        name, equals, value = word.partition("=")
        if value.startswith('"'):
            value = value[1:].removesuffix('"')
        yield name.replace("-", "_"), value if equals else None


def is_refused(kind: str, value: Optional[str]) -> bool:
    """Tell whether a parameter's type certainly refuses a value."""
    array = kind.startswith("array of ")
    if array:
        kind = kind[len("array of ") :]
    if kind not in RANGES and kind not in ("bool", "bint", "invbool", "charp"):
        return False
    if value is None:
        return array or kind not in WITHOUT_VALUE
    if array:
        return any(is_refused(kind, part) for part in value.split(","))
    if kind == "charp":
        return len(value) > LONGEST
    if kind not in RANGES:
        return not BOOLEAN.match(value)
    found = NUMBER.fullmatch(value)
    if not found:
        return True
    least, greatest = RANGES[kind]
    if found[1] == "-" and least == 0:
        return True
    number = int(found[2], 16) if found[2] else int(found[3], 8) if found[3] else int(found[4])
    return not least <= (-number if found[1] == "-" else number) <= greatest


def check(name: str, contents: Contents, options: str) -> tuple[list[Fault], list[Fault]]:
    """Return what makes a load fail, and what the kernel only warns about. options: as modprobe passes them."""
    kinds = {}
    for entry in contents.info.get("parmtype", ()):
        parameter, _, kind = entry.partition(":")
        kinds[parameter.replace("-", "_")] = kind
    known = {*kinds, *contents.parameters, *(e.partition(":")[0] for e in contents.info.get("parm", ())), *SPECIAL}
    refused, unknown = [], []
    hint = f"modinfo -p {name} lists its parameters; correct load.options, or the file of modprobe.d that has it"
    for parameter, value in split(options):
        if parameter not in known:
            text = f"{name} has no parameter {parameter}, so that the kernel passes over it"
            unknown.append(Fault("parameter-unknown", text, hint))
        elif parameter in kinds and is_refused(kinds[parameter], value):
            given = f"{parameter}={value}" if value is not None else f"{parameter} without a value"
            text = f"{name} would not load with the option {given}: it takes {kinds[parameter]}"
            refused.append(Fault("parameter-invalid", text, hint))
    return refused, unknown
