"""Kernel modules made by hand: small relocatable ELF files whose every table a test may spoil."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kmodd.verify import elf, loader

MODULE_SIZE = 1280  # of struct module
MODULE = 2  # number of the section that is struct module
TEXT = 1
INIT_AT = 312


@dataclass(frozen=True)
class Part:
    """A section as its header has it; size counts where it is not that of data."""

    name: str
    kind: int = 1
    flags: int = elf.ALLOC
    data: bytes = b""
    link: int = 0
    info: int = 0
    size: int = -1


@dataclass(frozen=True)
class Made:
    """An object to be; symbols and parts are numbered from 1, as 0 is empty."""

    name: bytes = b"one"
    machine: int = loader.X86_64
    module_size: int = MODULE_SIZE
    symbols: Sequence[tuple[str, int, int]] = (("one_init", TEXT, 0), ("init_module", TEXT, 0))  # section, value
    places: Sequence[tuple[int, int, int, int]] = ((INIT_AT, 1, 2, 0),)  # offset, kind, symbol, addend in MODULE
    parts: Sequence[Part] = field(default_factory=tuple)  # more of them, behind the first six

    def bytes(self) -> bytes:
        names, table = b"\0", bytes(24)
        for name, section, value in self.symbols:
            table += struct.pack("<IBBHQQ", len(names), 0x12, 0, section, value, 0)
            names += name.encode() + b"\0"
        module = bytes(loader.NAME_AT) + self.name.ljust(loader.NAME_ROOM, b"\0")
        rela = b"".join(struct.pack("<QQq", at, number << 32 | kind, add) for at, kind, number, add in self.places)
        parts = [
            Part("", 0, 0),
            Part(".text", 1, elf.ALLOC | elf.EXECUTE, bytes(64)),
            Part(loader.THIS_MODULE, 1, elf.ALLOC | elf.WRITE, module.ljust(self.module_size, b"\0")),
            Part(".symtab", elf.SYMTAB, 0, table, link=4),
            Part(".strtab", elf.STRTAB, 0, names),
            Part(".rela" + loader.THIS_MODULE, elf.RELA, 0, rela, link=3, info=MODULE),
            Part(".modinfo", 1, elf.ALLOC, b"name=" + self.name + b"\0license=GPL\0"),
            *self.parts,
        ]
        return _lay(parts, self.machine)


def _lay(parts: Sequence[Part], machine: int) -> bytes:
    strings = b"\0" + b"".join(part.name.encode() + b"\0" for part in parts) + b".shstrtab\0"
    parts = [*parts, Part(".shstrtab", elf.STRTAB, 0, strings)]
    body, heads = b"", b""
    for part in parts:
        size = part.size if part.size >= 0 else len(part.data)
        at = strings.find(b"\0" + part.name.encode() + b"\0") + 1 if part.name else 0
        heads += struct.pack(
            "<IIQQQQIIQQ", at, part.kind, part.flags, 0, 64 + len(body), size, part.link, part.info, 8, 0
        )
        body += part.data
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", 1, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(parts), len(parts) - 1
    )
    return head + body + heads


def changed(**what: object) -> Made:
    """Return an object that differs from a good one in some fields."""
    return replace(Made(), **what)  # type: ignore[arg-type]
