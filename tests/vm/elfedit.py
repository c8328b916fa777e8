"""Changing a module's file byte by byte, as no compiler would leave it: elf(5), 64 bit, little endian.

It works on what is whole, and does not care what comes of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

UNDEFINED, ABSOLUTE, COMMON = 0, 0xFFF1, 0xFFF2
PROGBITS, SYMTAB, RELA = 1, 2, 4
ALLOC, EXECUTE = 2, 4
#: Offset in the ELF header and format of its fields.
HEADER = {"class": (4, "B"), "type": (16, "H"), "machine": (18, "H"), "shoff": (40, "Q"), "shentsize": (58, "H"),
          "shnum": (60, "H"), "shstrndx": (62, "H")}  # fmt: skip
#: The same of an entry of the section header table, the symbol table, and a relocation section.
SECTION = {"name": (0, "I"), "type": (4, "I"), "flags": (8, "Q"), "addr": (16, "Q"), "offset": (24, "Q"),
           "size": (32, "Q"), "link": (40, "I"), "info": (44, "I"), "align": (48, "Q"),
           "entsize": (56, "Q")}  # fmt: skip
SYMBOL = {"name": (0, "I"), "info": (4, "B"), "other": (5, "B"), "shndx": (6, "H"), "value": (8, "Q"),
          "size": (16, "Q")}  # fmt: skip
RELOCATION = {"offset": (0, "Q"), "type": (8, "I"), "symbol": (12, "I"), "addend": (16, "q")}
THIS_MODULE = ".gnu.linkonce.this_module"
VERSION = 64  # bytes of a struct modversion_info


@dataclass(frozen=True)
class Part:
    """One structure in the file: where it begins, what it is called, and its fields."""

    data: bytearray
    at: int
    fields: dict[str, tuple[int, str]]
    label: str = ""

    def __getitem__(self, name: str) -> int:
        offset, form = self.fields[name]
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at + offset)
        return int(value)

    def __setitem__(self, name: str, value: int) -> None:
        offset, form = self.fields[name]
        struct.pack_into(f"<{form}", self.data, self.at + offset, value)

    def bits(self, name: str) -> int:
        """Return how many bits a field has."""
        return 8 * struct.calcsize(self.fields[name][1])


class Object:
    """A module's file; bytes(x) is what it became."""

    def __init__(self, content: bytes) -> None:
        self.data = bytearray(content)

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    @property
    def header(self) -> Part:
        return Part(self.data, 0, HEADER)

    # -- sections ------------------------------------------------------------------------------------------------------
    def sections(self) -> list[Part]:
        """Return the entries of the section header table; label is the section's name."""
        head = self.header
        found = [Part(self.data, head["shoff"] + 64 * i, SECTION) for i in range(head["shnum"])]
        names = found[head["shstrndx"]]["offset"]
        return [Part(self.data, part.at, SECTION, self._text(names + part["name"])) for part in found]

    def section(self, name: str) -> Part:
        """Return the first section of a name. Raises LookupError."""
        for part in self.sections():
            if part.label == name:
                return part
        raise LookupError(name)

    def content(self, section: Part) -> bytes:
        return bytes(self.data[section["offset"] : section["offset"] + section["size"]])

    def replace(self, section: Part, content: bytes) -> None:
        """Give a section another content: behind the end of the file, where the old one has no room for it."""
        if len(content) > section["size"]:
            self.data += b"\0" * (-len(self.data) % 64)
            section["offset"] = len(self.data)
            self.data += content
        else:
            self.data[section["offset"] : section["offset"] + len(content)] = content
        section["size"] = len(content)

    # -- symbols and relocations ---------------------------------------------------------------------------------------
    def symbols(self) -> list[Part]:
        """Return the symbol table's entries but the first; label is the symbol's name."""
        table = next(part for part in self.sections() if part["type"] == SYMTAB)
        names = self.sections()[table["link"]]["offset"]
        places = range(table["offset"] + 24, table["offset"] + table["size"], 24)
        parts = (Part(self.data, at, SYMBOL) for at in places)
        return [Part(self.data, part.at, SYMBOL, self._text(names + part["name"])) for part in parts]

    def symbol(self, name: str) -> Part:
        """Return a symbol. Raises LookupError."""
        for part in self.symbols():
            if part.label == name:
                return part
        raise LookupError(name)

    def undefined(self) -> list[Part]:
        """Return the symbols that others are to provide."""
        return [part for part in self.symbols() if part["shndx"] == UNDEFINED and part.label]

    def relocations(self, section: str = "") -> list[Part]:
        """Return the relocations of the sections that get memory, or of one; label is the name of that section."""
        every = self.sections()
        return [
            Part(self.data, at, RELOCATION, every[part["info"]].label)
            for part in every
            if part["type"] == RELA and every[part["info"]]["flags"] & ALLOC
            for at in range(part["offset"], part["offset"] + part["size"], 24)
            if section in ("", every[part["info"]].label)
        ]

    # -- .modinfo and __versions ---------------------------------------------------------------------------------------
    def info(self) -> list[bytes]:
        """Return the lines of .modinfo."""
        return [line for line in self.content(self.section(".modinfo")).split(b"\0") if line]

    def set_info(self, lines: list[bytes]) -> None:
        self.replace(self.section(".modinfo"), b"".join(line + b"\0" for line in lines))

    def change_info(self, key: str, value: str) -> None:
        """Change a key of .modinfo, or add it; the first of several only."""
        lines, start = self.info(), f"{key}=".encode()
        at = next((i for i, line in enumerate(lines) if line.startswith(start)), len(lines))
        lines[at : at + 1] = [start + value.encode()]
        self.set_info(lines)

    def versions(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield the symbols of __versions, the CRC of each, and its whole entry."""
        table = self.content(self.section("__versions"))
        for at in range(0, len(table), VERSION):
            entry = table[at : at + VERSION]
            yield entry[8:].split(b"\0")[0].decode(), int.from_bytes(entry[:8], "little"), entry

    def rename(self, old: str, new: str) -> None:
        """Give the module another name inside: in struct module, and in .modinfo."""
        section = self.section(THIS_MODULE)
        content = self.content(section)
        at = content.index(old.encode() + b"\0")
        room = new.encode().ljust(max(len(old), len(new)) + 1, b"\0")
        self.data[section["offset"] + at : section["offset"] + at + len(room)] = room
        self.change_info("name", new)

    def _text(self, at: int) -> str:
        return self.data[at : self.data.find(b"\0", at)].decode(errors="replace")
