"""Faults of class D, and what looks like them: the object's bytes, its signature, its compression.

Sources: elf_validity_check(), layout_and_allocate(), simplify_symbols() of kernel/module/main.c,
apply_relocate_add() of arch/x86/kernel/module.c, mod_check_sig() of kernel/module_signature.c, version.c.
"""

from __future__ import annotations

from typing import Callable

from elfedit import ABSOLUTE, COMMON, SYMTAB, THIS_MODULE, Object, Part
from fault import Fault, Place, Spoil, of, pack
from kinds import Kind
from server import SIGNATURE, read_object

Change = Callable[[Object, Place], None]
TRAILER = 12  # struct module_signature: algo, hash, id_type, signer_len, key_id_len, pad[3], sig_len
ID_TYPE = 2


def edit(change: Change) -> Spoil:
    """Return the spoiling of the object before it is signed."""
    return lambda place: place.edit(change)


# -- signature ---------------------------------------------------------------------------------------------------------
def _flip_trailer(places: tuple[int, ...]) -> Spoil:
    def change(content: bytearray, place: Place) -> None:
        at, bit = place.random.choice(places), place.random.randrange(8)
        place.note(f"byte {at} of the trailer, bit {bit}")
        content[len(content) - len(SIGNATURE) - TRAILER + at] ^= 1 << bit

    return lambda place: place.edit_signed(change)


damage_trailer = _flip_trailer((0, 1, 3, 4, 5, 6, 7))


def flip_size(content: bytearray, place: Place) -> None:
    """Change the length of the signature, the most significant bits, too."""
    at, bit = place.random.randrange(8, 12), place.random.randrange(8)
    place.note(f"byte {at} of the trailer, bit {bit}")
    content[len(content) - len(SIGNATURE) - TRAILER + at] ^= 1 << bit


def flip_signature(content: bytearray, place: Place) -> None:
    end = len(content) - len(SIGNATURE) - TRAILER
    length = int.from_bytes(content[end + 8 : end + 12], "big")
    content[end - place.random.randrange(1, length)] ^= 1 << place.random.randrange(8)


def flip_magic(content: bytearray, place: Place) -> None:
    content[-place.random.randrange(1, len(SIGNATURE))] ^= 1 << place.random.randrange(8)


def cut_signed(content: bytearray, place: Place) -> None:
    del content[-place.random.randrange(1, len(content) - 64) :]


def signed_twice(place: Place) -> None:
    place.put(place.server.sign(place.built[place.case.name]))


# -- cut off before it is signed ---------------------------------------------------------------------------------------
def cut(place: Place) -> None:
    content = place.built[place.case.name]
    count = place.random.choice((1, 8, 64, 65, 200, 600, len(content) // 2))
    place.note(f"{count} bytes")
    place.put(content[:-count])


def cut_section(place: Place) -> None:
    """Cut off the last bytes of a section that lies behind the section headers."""
    made = Object(place.built[place.case.name])
    made.set_info([*made.info(), b"local=" + b"x" * 300])
    place.put(bytes(made)[: -place.random.randrange(1, 250)])


# -- ELF header and sections -------------------------------------------------------------------------------------------
def set_header(field: str, *values: int) -> Spoil:
    def change(made: Object, place: Place) -> None:
        made.header[field] = value = place.random.choice(values)
        place.note(f"{field}={value:#x}")

    return edit(change)


def set_section(name: str, field: str, *values: int) -> Spoil:
    def change(made: Object, place: Place) -> None:
        made.section(name)[field] = value = place.random.choice(values)
        place.note(f"{field}={value:#x}")

    return edit(change)


def flip_section(made: Object, place: Place) -> None:
    """Let a section lie elsewhere, be greater, or have another name, by far."""
    part = place.random.choice([section for section in made.sections() if section.label])
    field, least = place.random.choice((("offset", 24), ("size", 24), ("name", 20)))
    bit = place.random.randrange(least, part.bits(field))
    place.note(f"bit {bit} of {field} of {part.label}")
    part[field] ^= 1 << bit


def lose_section(name: str) -> Spoil:
    """Return the spoiling by which the loader does not find a section under its name."""

    def change(made: Object, _: Place) -> None:
        table = made.sections()[made.header["shstrndx"]]
        at = made.content(table).index(name.encode() + b"\0") + table["offset"]
        made.data[at + 1] ^= 0x20

    return edit(change)


def resize_this_module(made: Object, place: Place) -> None:
    """Let it be greater: one that is smaller has relocations beyond its end, and what comes of that is chance."""
    section = made.section(THIS_MODULE)
    by = place.random.choice((64, 192))
    place.note(f"{by:+d}")
    section["size"] += by


def empty_name(made: Object, place: Place) -> None:
    section = made.section(THIS_MODULE)
    at = section["offset"] + made.content(section).index(place.case.name.encode())
    made.data[at : at + len(place.case.name)] = bytes(len(place.case.name))


# -- symbols and relocations -------------------------------------------------------------------------------------------
def _a_symbol(made: Object, place: Place) -> Part:
    return place.random.choice([part for part in made.symbols() if part.label and part["shndx"] not in (0, ABSOLUTE)])


def common(made: Object, place: Place) -> None:
    symbol = made.symbol(place.choose(part.label for part in made.undefined()))
    symbol["shndx"], symbol["value"], symbol["size"] = COMMON, 8, 8


def far_section(made: Object, place: Place) -> None:
    symbol = _a_symbol(made, place)
    symbol["shndx"] = place.random.choice((0x1000, 0x7FFF, made.header["shnum"], 0xFF00))
    place.note(f"{symbol.label} in section {symbol['shndx']}")


def far_name(made: Object, place: Place) -> None:
    symbol = _a_symbol(made, place)
    symbol["name"] |= 1 << place.random.randrange(24, 32)


def far_value(made: Object, place: Place) -> None:
    """Let the loader call a function that lies far behind the end of its section."""
    symbol = made.symbol("init_module")
    symbol["value"] ^= 1 << place.random.randrange(28, 46)
    place.note(f"{symbol.label} at {symbol['value']:#x}")


def strange_type(made: Object, place: Place) -> None:
    relocation = place.random.choice(made.relocations())
    relocation["type"] = place.random.choice((5, 9, 16, 23, 37, 99, 0x80000002))
    place.note(f"type {relocation['type']:#x} in {relocation.label}")


def overflow(made: Object, place: Place) -> None:
    """Let a relocation of 32 bits come to more."""
    every = [part for part in made.relocations() if part["type"] in (2, 4, 11)]
    relocation = place.random.choice(every)
    relocation["addend"] = place.random.choice((1 << 40, -(1 << 45)))
    place.note(f"type {relocation['type']} in {relocation.label}")


def absolute_32(made: Object, place: Place) -> None:
    """Let a 32-bit relocation hold an address that only fits sign-extended."""
    relocation = place.random.choice([part for part in made.relocations(".text") if part["type"] in (2, 4)])
    relocation["type"] = 10


def far_place(made: Object, place: Place) -> None:
    relocation = place.random.choice(made.relocations())
    relocation["offset"] ^= 1 << place.random.randrange(32, 46)
    place.note(f"offset {relocation['offset']:#x} in {relocation.label}")


def far_symbol(made: Object, place: Place) -> None:
    relocation = place.random.choice(made.relocations())
    relocation["symbol"] ^= 1 << place.random.randrange(20, 31)
    place.note(f"symbol {relocation['symbol']} in {relocation.label}")


def not_zero(made: Object, place: Place) -> None:
    """Let a relocated place hold something already, which the loader takes for a second relocation."""
    relocation = place.random.choice(made.relocations(THIS_MODULE))
    section = made.section(relocation.label)
    made.data[section["offset"] + relocation["offset"]] = 1


# -- vermagic and versions ---------------------------------------------------------------------------------------------
def _magic(made: Object) -> str:
    return next(line for line in made.info() if line.startswith(b"vermagic=")).decode()[len("vermagic=") :]


def set_magic(place: Place) -> None:
    """Change the part of vermagic that counts even with symbol versions."""
    edit(lambda made, _: made.change_info("vermagic", _magic(made).replace(" mod_unload", "")))(place)


def other_release(made: Object, _: Place) -> None:
    made.change_info("vermagic", " ".join(["9.9.9-other", *_magic(made).split()[1:]]) + " ")


def no_magic(made: Object, _: Place) -> None:
    made.set_info([line for line in made.info() if not line.startswith(b"vermagic=")])


def _set_versions(made: Object, entries: list[bytes]) -> None:
    made.replace(made.section("__versions"), b"".join(entries))


def change_crc(place: Place) -> None:
    """Change the CRC with which an object was built for one symbol that it uses."""

    def change(made: Object, place: Place) -> None:
        entries = list(made.versions())
        at = place.random.randrange(len(entries))
        place.note(entries[at][0])
        changed = [entry for _, _, entry in entries]
        changed[at] = bytes([changed[at][0] ^ 0x10]) + changed[at][1:]
        _set_versions(made, changed)

    place.edit(change)


def drop_version(made: Object, place: Place) -> None:
    """Leave the CRC of one symbol out."""
    entries = list(made.versions())
    used = {part.label for part in made.undefined()}
    lost = place.choose(name for name, _, _ in entries if name in used)
    _set_versions(made, [entry for name, _, entry in entries if name != lost])


def drop_layout(made: Object, _: Place) -> None:
    _set_versions(made, [entry for name, _, entry in made.versions() if name != "module_layout"])


def remove_symbol(place: Place) -> None:
    """Let an object need what nothing exports."""
    content = place.built[place.case.name]
    assert content.count(b"_printk\0") >= 1
    place.put(content.replace(b"_printk\0", b"_prinkt\0"))


# -- compression -------------------------------------------------------------------------------------------------------
def belie(place: Place) -> None:
    """Compress an installed object otherwise than its suffix says, or not at all."""
    path = place.installed()
    content = read_object(path)
    form = place.choose({"", ".xz", ".zst"} - {path.suffix})
    place.server.replace(place.case.name, pack(content, form), place.case.release)


def has_init(kind: Kind) -> bool:
    return bool(kind.start) and not kind.special


def printing(kind: Kind) -> bool:
    return kind.name in ("plain", "provider", "consumer", "machine", "middle", "checksum", "scalars")


FAULTS = (
    Fault("D12", "trailer: one bit", damage_trailer),
    Fault("D12", "trailer: the signature's length", lambda place: place.edit_signed(flip_size)),
    Fault("D12", "signature: one bit", lambda place: place.edit_signed(flip_signature), foreign=True),
    Fault("D12", "signature: one bit of its magic", lambda place: place.edit_signed(flip_magic)),
    Fault("D12", "signed twice", signed_twice),
    Fault("D13", "cut off, then signed", cut, late=True),
    Fault("D13", "a section cut off, then signed", cut_section, late=True),
    Fault("O", "cut off when signed", lambda place: place.edit_signed(cut_signed)),
    Fault("D14", "e_machine", set_header("machine", 3, 40, 183, 243), late=True),
    Fault("D14", "e_type", set_header("type", 2, 3, 4), late=True),
    Fault("D14", "ELF class", set_header("class", 1, 0), late=True),
    Fault("D14", "e_shentsize", set_header("shentsize", 0, 40, 65), late=True),
    Fault("D14", "e_shstrndx", set_header("shstrndx", 0, 0xFFFF, 0x100), late=True),
    Fault("D14", "e_shoff", set_header("shoff", 0, 1 << 40, (1 << 64) - 64), late=True),
    Fault("D14", "e_shnum", set_header("shnum", 0, 1, 0xFFFF), late=True),
    Fault("D14", "a section's header, one bit", edit(flip_section), late=True),
    Fault("D14", "no symbol table", set_section(".symtab", "type", 1), late=True),
    Fault("D14", "two symbol tables", set_section(".strtab", "type", SYMTAB), late=True),
    Fault("D14", "the symbol table's strings elsewhere", set_section(".symtab", "link", 0, 0x1000, 0x7FFFFFFF),
          late=True),
    Fault("D14", "relocations of a section that is not there",
          set_section(".rela.init.text", "info", 0x1000, 0x7FFFFFFF), of("plain", "consumer", "machine", "chardev"),
          late=True),
    Fault("D14", "SHN_COMMON", edit(common), late=True),
    Fault("D14", "this_module under another name", lose_section(THIS_MODULE), late=True),
    Fault("D14", "this_module of another size", edit(resize_this_module), late=True),
    Fault("D14", "empty name inside", edit(empty_name), late=True),
    Fault("D14", "modinfo under another name", lose_section(".modinfo"), late=True, nameless=True),
    Fault("D14", "relocation of an unknown type", edit(strange_type), late=True),
    Fault("D14", "relocation that overflows", edit(overflow),
          of("plain", "consumer", "machine", "chardev", "pcidriver"), late=True),
    Fault("D14", "relocation that takes no sign", edit(absolute_32),
          of("consumer", "machine", "chardev", "middle"), late=True),
    Fault("D14", "relocation of a place that is not zero", edit(not_zero), has_init, late=True),
    # what crashes a kernel unless it looks
    Fault("D16+", "symbol in a section that is not there", edit(far_section), risky=True, late=True),
    Fault("D16+", "symbol with a name beyond the strings", edit(far_name), risky=True, late=True),
    Fault("D16+", "init beyond its section", edit(far_value), has_init, risky=True, late=True),
    Fault("D16+", "relocation beyond its section", edit(far_place), risky=True, late=True),
    Fault("D16+", "relocation to a symbol that is not there", edit(far_symbol), risky=True, late=True),
    Fault("D15", "no version of one symbol", edit(drop_version)),
    Fault("D15", "no version of module_layout", edit(drop_layout)),
    Fault("D16", "per-cpu data beyond the reserve", fits=of("percpu")),
    Fault("O", "another release in vermagic", edit(other_release)),
    Fault("O", "another vermagic", set_magic),
    Fault("O", "another CRC", change_crc),
    Fault("O", "a symbol that nothing exports", remove_symbol, printing),
    Fault("FA1", "no vermagic", edit(no_magic)),
    Fault("FA1", "no versions", lose_section("__versions")),
    Fault("FA3", "compressed otherwise than the suffix says", belie),
    Fault("FA5", "id_type of the trailer", _flip_trailer((ID_TYPE,))),
)  # fmt: skip
