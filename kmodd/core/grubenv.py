"""GRUB's environment block: its variables, and a block of some (grub-core/lib/envblk.c, util/grub-editenv.c). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import Problem

SIGNATURE = "# GRUB Environment Block\n"
BLOCK = 1024  # bytes of a block, filled up with #
_SPECIAL = re.compile(r"([\\\n])")


def parse(text: str) -> dict[str, str]:
    """Return the variables of a block, in which a backslash stands before signs (grub_envblk_iterate)."""
    found = re.findall(r"^([^#=\s][^=\n]*)=((?:\\.|[^\\\n])*)$", text, re.MULTILINE | re.DOTALL)
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, value in found}


def render(variables: Mapping[str, str]) -> bytes:
    """Return a block that holds variables. Raises Problem boot-unwritable where there is too little space for them."""
    lines = [f"{name}={_SPECIAL.sub(_escaped, value)}\n" for name, value in variables.items()]
    data = (SIGNATURE + "".join(lines)).encode(errors="replace")
    if len(data) > BLOCK:
        raise Problem("boot-unwritable", "GRUB's environment block is full", "grub2-editenv - list; unset some of it")
    return data.ljust(BLOCK, b"#")


def is_whole(text: str) -> bool:
    """Tell whether GRUB takes a text for an environment block that was not cut short."""
    return text.startswith(SIGNATURE) and len(text.encode(errors="replace")) >= BLOCK


def _escaped(match: re.Match[str]) -> str:
    return "\\" + match[1]
