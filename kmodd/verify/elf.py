"""What a kernel module's file says of itself: what it needs, what it exports, its .modinfo and its parameters.

Formats: elf(5), relocatable, 64 bit, either byte order; struct modversion_info of include/linux/module.h, and the
__version_ext_* sections of 6.14 and later; include/linux/export.h for __ksymtab_*, __crc_* and __kstrtabns_*. The
bounds that are checked are those of elf_validity_check() in kernel/module/main.c. Why no tool is asked:
docs/decisions/0003-verify-reads-objects.md. Must not: judge.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Union

RELOCATABLE, SYMTAB, STRTAB, RELA, NOBITS = 1, 2, 3, 4, 8  # ET_REL, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS
ABSOLUTE, COMMON, LIVEPATCH, WEAK = 0xFFF1, 0xFFF2, 0xFF20, 2  # SHN_ABS, SHN_COMMON, SHN_LIVEPATCH, STB_WEAK
WRITE, ALLOC, EXECUTE = 1, 2, 4  # SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR
VERSION = 64  # bytes of a struct modversion_info: the CRC in an unsigned long, the name in the rest
VERSIONS = frozenset({"__versions", "__version_ext_crcs"})  # sections of CRCs
LINKERS = frozenset({"_GLOBAL_OFFSET_TABLE_", ".TOC."})  # names that the kernel passes over (ignore_undef_symbol)


@dataclass(frozen=True)
class Export:
    """A symbol that something exports. crc: 0 without MODVERSIONS. provider: "vmlinux", or a module's name."""

    crc: int
    provider: str
    gpl: bool = False
    namespace: str = ""


@dataclass(frozen=True)
class Contents:
    """What was read of one object. needs: undefined symbol -> whether it is weak. crcs: those it was built with."""

    info: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: Mapping[str, bool] = field(default_factory=dict)
    crcs: Mapping[str, int] = field(default_factory=dict)
    exports: Mapping[str, Export] = field(default_factory=dict)
    versioned: bool = False  # it has a table of CRCs, whatever is in it
    parameters: frozenset[str] = frozenset()  # by their __param_str_* symbols, with or without a type in .modinfo

    def first(self, key: str) -> str:
        """Return the first value of a key of .modinfo, "" where it has none."""
        return next(iter(self.info.get(key, ())), "")


Buffer = Union[bytes, memoryview]


class Section(NamedTuple):
    """What is used of an Elf64_Shdr; data is empty for SHT_NOBITS, size is not."""

    name: str
    kind: int
    data: memoryview
    link: int
    flags: int
    info: int
    size: int


class Symbol(NamedTuple):
    """An Elf64_Sym; place is where its name stands in the string table."""

    place: int
    name: str
    bits: int
    section: int  # its number, or a special one
    value: int


class Relocation(NamedTuple):
    """An Elf64_Rela."""

    offset: int
    kind: int
    symbol: int
    addend: int


def byte_order(data: Buffer) -> str:
    """Return struct's sign for the byte order of an object. Raises ValueError."""
    if data[:4] != b"\x7fELF" or len(data) < 64 or data[5] not in (1, 2):
        raise ValueError("it is no ELF file")
    return "<" if data[5] == 1 else ">"


def symbols(table: Section, names: bytes, order: str) -> Iterator[Symbol]:
    """Yield a symbol table's entries, the empty first one included."""
    for place, bits, _, index, value, _ in struct.iter_unpack(
        f"{order}IBBHQQ", table.data[: len(table.data) // 24 * 24]
    ):
        yield Symbol(place, text_at(names, place), bits, index, value)


def relocations(section: Section, order: str) -> Iterator[Relocation]:
    """Yield the entries of a section of kind RELA."""
    for offset, info, addend in struct.iter_unpack(f"{order}QQq", section.data[: len(section.data) // 24 * 24]):
        yield Relocation(offset, info & 0xFFFFFFFF, info >> 32, addend)


def read(data: Buffer, provider: str) -> Contents:
    """Return what an uncompressed object says. provider: the name that its exports go by. Raises ValueError."""
    order = byte_order(data)
    sections = read_sections(data, order)
    named = {section.name: section.data for section in sections}
    info: dict[str, list[str]] = {}
    for line in bytes(named.get(".modinfo", b"")).split(b"\0"):
        key, equals, text = line.decode(errors="replace").partition("=")
        if equals:
            info.setdefault(key, []).append(text)
    needs: dict[str, bool] = {}
    exported: dict[str, bool] = {}
    crcs: dict[str, int] = {}
    namespaces: dict[str, str] = {}
    parameters = set()
    table = next((section for section in sections if section.kind == SYMTAB), None)
    if table is None or table.link >= len(sections) or len(table.data) % 24:
        raise ValueError("it has no symbol table")
    names = bytes(sections[table.link].data)
    byteorder: Literal["little", "big"] = "little" if order == "<" else "big"
    for _, name, bits, index, value in symbols(table, names, order):
        if index == 0:
            if name and name not in LINKERS:
                needs[name] = bits >> 4 == WEAK
        elif name.startswith("__ksymtab_") and index < len(sections):
            exported[name[len("__ksymtab_") :]] = "gpl" in sections[index].name
        elif name.startswith("__crc_"):
            if index != ABSOLUTE and index < len(sections):
                value = int.from_bytes(sections[index].data[value : value + 4], byteorder)
            crcs[name[len("__crc_") :]] = value & 0xFFFFFFFF
        elif name.startswith("__kstrtabns_") and index < len(sections):
            namespaces[name[len("__kstrtabns_") :]] = text_at(bytes(sections[index].data), value)
        elif name.startswith("__param_str_"):
            parameters.add(name[len("__param_str_") :])
    return Contents(
        info={key: tuple(values) for key, values in info.items()},
        needs=needs,
        crcs=_versions(named, order),
        versioned=not VERSIONS.isdisjoint(named),
        exports={n: Export(crcs.get(n, 0), provider, gpl, namespaces.get(n, "")) for n, gpl in exported.items()},
        parameters=frozenset(parameters),
    )


def text_at(data: bytes, at: int) -> str:
    """Return the text that begins at a place in a table of texts, up to its NUL."""
    return data[at : data.find(b"\0", at)].decode(errors="replace")


def read_sections(data: Buffer, order: str) -> list[Section]:
    """Return the sections of an object. Raises ValueError where it is cut off or no kernel module."""
    (kind,) = struct.unpack_from(f"{order}H", data, 16)
    (start,) = struct.unpack_from(f"{order}Q", data, 40)
    size, count, strings = struct.unpack_from(f"{order}HHH", data, 58)
    if kind != RELOCATABLE or size != 64 or count == 0 or strings >= count or start + size * count > len(data):
        raise ValueError("it is cut off, or no relocatable ELF file")
    view = memoryview(data)
    heads = list(struct.iter_unpack(f"{order}IIQQQQIIQQ", view[start : start + size * count]))
    if any(head[1] != NOBITS and head[4] + head[5] > len(data) for head in heads):
        raise ValueError("it is cut off: a section lies beyond its end")
    bodies = [view[:0] if head[1] == NOBITS else view[head[4] : head[4] + head[5]] for head in heads]
    names = bytes(bodies[strings])
    if not names.endswith(b"\0") or any(head[0] >= len(names) for head in heads):
        raise ValueError("the name of a section lies beyond the table of names")
    return [
        Section(text_at(names, head[0]), head[1], body, head[6], head[2], head[7], head[5])
        for head, body in zip(heads, bodies)
    ]


def _versions(named: Mapping[str, memoryview], order: str) -> dict[str, int]:
    """Return the CRCs that an object was built with, empty where it has none."""
    if "__version_ext_crcs" in named and "__version_ext_names" in named:
        crcs = named["__version_ext_crcs"]
        values = [crc for (crc,) in struct.iter_unpack(f"{order}I", crcs[: len(crcs) // 4 * 4])]
        texts = bytes(named["__version_ext_names"]).split(b"\0")
        return {text.decode(errors="replace"): value for text, value in zip(texts, values)}
    table = bytes(named.get("__versions", b""))
    found = {}
    for at in range(0, len(table) // VERSION * VERSION, VERSION):
        (value,) = struct.unpack_from(f"{order}Q", table, at)
        found[text_at(table[at + 8 : at + VERSION] + b"\0", 0)] = value & 0xFFFFFFFF
    return found
