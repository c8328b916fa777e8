"""What the kernel's loader refuses in an object itself, before it resolves what the object needs.

Sources: elf_validity_check() and its successors, simplify_symbols(), percpu_modalloc() and mod_sysfs_init() of
kernel/module, module_enforce_rwx_sections(), apply_relocate_add() of arch/x86/kernel/module.c; struct module of
include/linux/module.h. What a damaged object would make the kernel do besides refusing it is found as far as indices,
offsets, types and ranges tell. Pure. Must not: read symbols of others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional

from ..core import versions
from ..core.model import Fault
from . import elf

THIS_MODULE = ".gnu.linkonce.this_module"
NAME_AT, NAME_ROOM = 24, 56  # of struct module's name: behind its state and list; MODULE_NAME_LEN of a 64-bit kernel
PERCPU, RESERVE = ".data..percpu", 8 << 10  # PERCPU_MODULE_RESERVE
SIZE_SINCE = "6.4"  # struct module's size is compared
STRICT_SINCE = "6.12"  # sections that must be there once, and the kinds of tables of names, are checked
LONGEST_TEXT = 256  # bytes of a name that is pointed to
X86_64 = 62
#: Of a relocation on x86-64: type -> bytes that it writes. All others are refused.
WIDTHS = {0: 0, 1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}
NONE, ABSOLUTE_32, SIGNED_32 = 0, 10, 11
RELATIVE, REACH = (2, 4), 1 << 31  # the kernel does not check whether those overflow
#: Between which addresses, as signed numbers, code and data of the kernel and of its modules lie.
KERNEL = (-(1 << 31), -(1 << 24))
HINT = "remove the file and run kmoddctl sync; if it is built so again, its source or the compiler is at fault"


@dataclass(frozen=True)
class Reference:
    """What one of the kernel's own modules tells of all: vermagic, machine, struct module and its entry points."""

    magic: str = ""
    machine: int = 0
    module_size: int = 0
    entries: frozenset[int] = frozenset()  # offsets in struct module that init and exit functions are written to


@dataclass(frozen=True)
class Shape:
    """An object parsed as far as its tables hold together. name: the one that the kernel lists it by."""

    machine: int
    order: str
    sections: Sequence[elf.Section]
    names: bytes  # of symbols
    symbols: Sequence[elf.Symbol]
    module: Optional[elf.Section]

    def summary(self) -> Shape:
        """Return what tells its names alone, so that the object's bytes need not be held."""
        kept = {".modinfo", THIS_MODULE}
        sections = [s._replace(data=memoryview(bytes(s.data if s.name in kept else b""))) for s in self.sections]
        module = next((section for section in sections if section.name == THIS_MODULE), None)
        return replace(self, sections=sections, symbols=(), names=b"", module=module)

    @property
    def name(self) -> str:
        """Return the name in struct module, "" where there is none."""
        data = bytes(self.module.data[NAME_AT : NAME_AT + NAME_ROOM]) if self.module else b""
        return elf.text_at(data + b"\0", 0)

    @property
    def info_name(self) -> str:
        """Return the name in .modinfo, which the kernel compares with module_blacklist; "" where there is none."""
        data = next((bytes(section.data) for section in self.sections if section.name == ".modinfo"), b"")
        found = next((entry for entry in data.split(b"\0") if entry.startswith(b"name=")), b"")
        return found[len(b"name=") :].decode(errors="replace")

    def entries(self) -> dict[int, int]:
        """Return what is written into struct module: offset -> number of the symbol."""
        return {
            item.offset: item.symbol
            for section in self.sections
            if section.kind == elf.RELA and self._target(section) is self.module and self.module is not None
            for item in elf.relocations(section, self.order)
        }

    def _target(self, section: elf.Section) -> Optional[elf.Section]:
        return self.sections[section.info] if section.info < len(self.sections) else None

    def init_names(self) -> frozenset[str]:
        """Return what the kernel calls the init function by: the first symbol of all at its place."""
        entry = next((symbol for symbol in self.symbols if symbol.name == "init_module" and symbol.section), None)
        if entry is None:
            return frozenset()
        place = (entry.section, entry.value)
        first = next(s for s in self.symbols if s.name and s.section and (s.section, s.value) == place)
        return frozenset({first.name})


class Place(NamedTuple):
    """Where a pointer leads: a symbol of others, or an offset in a section of the object."""

    symbol: str
    section: Optional[elf.Section] = None
    offset: int = 0


class Pointers:
    """Follows the pointers in an object's data, which are relocations until it is loaded."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._known: dict[int, dict[int, Place]] = {}  # number of the section -> offset

    def follow(self, section: elf.Section, offset: int) -> Optional[Place]:
        """Return where the pointer at an offset of a section leads, None where there is none."""
        number = next((n for n, other in enumerate(self.shape.sections) if other is section), -1)
        if number not in self._known:
            self._known[number] = dict(self._places(number))
        return self._known[number].get(offset)

    def _places(self, number: int) -> Iterator[tuple[int, Place]]:
        shape = self.shape
        for section in shape.sections:
            if section.kind != elf.RELA or section.info != number:
                continue
            for item in elf.relocations(section, shape.order):
                if item.symbol < len(shape.symbols):
                    symbol = shape.symbols[item.symbol]
                    inside = 0 < symbol.section < len(shape.sections)
                    where = shape.sections[symbol.section] if inside else None
                    yield item.offset, Place(symbol.name, where, symbol.value + item.addend)

    def text(self, section: elf.Section, offset: int) -> Optional[str]:
        """Return the text that a pointer leads to."""
        place = self.follow(section, offset)
        if place is None or place.section is None:
            return None
        return elf.text_at(bytes(place.section.data[place.offset : place.offset + LONGEST_TEXT]) + b"\0", 0)

    def number(self, section: elf.Section, offset: int) -> int:
        """Return the unsigned int of 32 bits at an offset of a section, 0 where there is none."""
        data = bytes(section.data[offset : offset + 4]).ljust(4, b"\0")
        return int(struct.unpack(f"{self.shape.order}I", data)[0])


def take_apart(data: elf.Buffer) -> Shape:
    """Return the parts of an uncompressed object without its signature. Raises ValueError."""
    order = elf.byte_order(data)
    sections = elf.read_sections(data, order)
    table = next((section for section in sections if section.kind == elf.SYMTAB), None)
    if table is None or not 0 < table.link < len(sections):
        raise ValueError("it has no symbol table")
    names = bytes(sections[table.link].data)
    module = next((section for section in sections if section.name == THIS_MODULE), None)
    (machine,) = struct.unpack_from(f"{order}H", data, 18)
    return Shape(machine, order, sections, names, list(elf.symbols(table, names, order)), module)


def refer(shape: Shape, magic: str) -> Reference:
    """Return what one of the kernel's own objects tells of all."""
    size = shape.module.size if shape.module else 0
    return Reference(magic, shape.machine, size, frozenset(shape.entries()))


def check(name: str, shape: Shape, reference: Reference, release: str) -> tuple[list[Fault], list[Fault]]:
    """Return what makes the kernel refuse an object, or would crash it, and what only may.

    reference: empty where the kernel has no module of its own to compare with.
    """
    faults = [
        Fault("object-refused", f"{name} would not load: {text}", HINT)
        for texts in (_sections(shape, release), _symbols(shape), _percpu(shape))
        for text in texts
    ]
    doubts: list[Fault] = []
    for text, certain in _relocations(shape):
        if certain:
            faults.append(Fault("object-refused", f"{name} would not load: {text}", HINT))
        else:
            doubts.append(Fault("object-refused", f"whether {name} works cannot be determined: {text}", HINT))
    for text, certain in _against(shape, reference, release):
        target = faults if certain else doubts
        target.append(Fault("object-refused", f"{name} {'would' if certain else 'may'} not load: {text}", HINT))
    return faults, doubts


def _sections(shape: Shape, release: str) -> Iterator[str]:
    first = shape.sections[0]
    if first.kind or first.size:
        yield "its first section is not empty"
    if shape.module is None:
        yield f"it has no section {THIS_MODULE}"
    elif not shape.name:
        yield "it has no name"
    if any(section.flags & elf.WRITE and section.flags & elf.EXECUTE for section in shape.sections):
        yield "a section is writable and executable"
    if any(s.kind == elf.SYMTAB and not 0 < s.link < len(shape.sections) for s in shape.sections):
        yield "the names of its symbols are in a section that there is not"
    if versions.compare(release, STRICT_SINCE) < 0:
        return
    for once in (THIS_MODULE, ".modinfo"):
        if sum(section.name == once for section in shape.sections) > 1:
            yield f"it has more than one section {once}"
    tables = [section for section in shape.sections if section.kind == elf.SYMTAB]
    if len(tables) != 1:
        yield "it has more than one symbol table"
    elif shape.sections[tables[0].link].kind != elf.STRTAB:
        yield "the names of its symbols are in no table of strings"


def _against(shape: Shape, reference: Reference, release: str) -> Iterator[tuple[str, bool]]:
    """Yield in what an object differs from the kernel's own, and whether that is certainly refused."""
    if not reference.machine:
        return
    if shape.machine != reference.machine:
        yield f"it is for machine {shape.machine} instead of {reference.machine} (e_machine of elf.h)", True
    if shape.module is None or not reference.module_size:
        return
    if shape.module.size != reference.module_size:
        compared = versions.compare(release, SIZE_SINCE) >= 0
        yield f"its struct module has {shape.module.size} bytes instead of {reference.module_size}", compared
    elif reference.entries and not shape.entries().keys() <= reference.entries:
        yield "its init or exit function is not where this kernel looks for it", False


def _symbols(shape: Shape) -> Iterator[str]:
    special = {0, elf.ABSOLUTE, elf.COMMON, elf.LIVEPATCH}
    for symbol in shape.symbols[1:]:
        if symbol.place >= len(shape.names) and symbol.place:
            yield f"the name of a symbol lies {symbol.place - len(shape.names) + 1} bytes beyond the table of names"
            return
        if symbol.section == elf.COMMON and not symbol.name.startswith("__gnu_lto"):
            yield f"{symbol.name} is a common symbol: it was not compiled with -fno-common"
            return
        if symbol.section not in special and symbol.section >= len(shape.sections):
            yield f"symbol {symbol.name} is in section {symbol.section}, which there is not"
            return
        if symbol.section not in special and symbol.value > shape.sections[symbol.section].size:
            yield f"symbol {symbol.name} lies beyond the end of {shape.sections[symbol.section].name}"
            return


def _percpu(shape: Shape) -> Iterator[str]:
    size = sum(section.size for section in shape.sections if section.name == PERCPU)
    if size > RESERVE:
        yield f"it wants {size} bytes of data for each processor, and all modules together have {RESERVE}"


def _relocations(shape: Shape) -> Iterator[tuple[str, bool]]:
    """Yield what is wrong with relocations, and whether that is certainly refused: of each kind the first."""
    told = False
    if shape.machine != X86_64:
        return
    for section in shape.sections:
        if section.kind == elf.RELA and section.info >= len(shape.sections):
            yield f"{section.name} is about section {section.info}, which there is not", True
            return
        target = shape.sections[section.info] if section.kind == elf.RELA else shape.sections[0]
        if section.kind == elf.RELA and target.flags & elf.ALLOC:
            for text, certain in _of_section(shape, section, target):
                if certain or not told:
                    yield f"a relocation of {target.name} {text}", certain
                told = True
                if certain:
                    return


def _of_section(shape: Shape, section: elf.Section, target: elf.Section) -> Iterator[tuple[str, bool]]:
    content = target.data
    for offset, kind, number, addend in elf.relocations(section, shape.order):
        width = WIDTHS.get(kind)
        if width is None:
            yield f"has the type {kind}, which no kernel knows", True
        elif number >= len(shape.symbols):
            yield f"is of symbol {number}, which there is not", True
        elif offset + width > target.size:
            yield f"lies at {offset:#x}, beyond its end", True
        elif width and target.kind != elf.NOBITS and any(content[offset : offset + width]):
            yield f"lies at {offset:#x}, where there is something already", True
        elif kind in (ABSOLUTE_32, SIGNED_32) and _overflows(kind, shape.symbols[number], addend):
            yield f"overflows at {offset:#x}", True
        elif kind in RELATIVE and not -REACH <= addend < REACH:
            yield f"at {offset:#x} has more than 32 bits, of which the kernel cuts off the rest", False


def _overflows(kind: int, symbol: elf.Symbol, addend: int) -> bool:
    """Tell whether a value of 32 bits certainly cannot hold a symbol's address and an addend."""
    if symbol.section == elf.ABSOLUTE:
        least = greatest = symbol.value + addend
    else:
        value = symbol.value if symbol.section else 0
        least, greatest = KERNEL[0] + value + addend, KERNEL[1] + value + addend
    if kind == ABSOLUTE_32:
        return greatest < 0 or least >= 1 << 32
    return greatest < -(1 << 31) or least >= 1 << 31
