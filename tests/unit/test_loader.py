"""What the kernel's loader refuses in an object itself."""

from __future__ import annotations

import struct

import pytest
from objects import INIT_AT, MODULE, MODULE_SIZE, TEXT, Made, Part, changed

from kmodd.verify import elf, loader, parameters

REFERENCE = loader.refer(loader.take_apart(Made().bytes()), "6.12 SMP ")
OLD, NEW = "5.14.0-427.el9.x86_64", "6.12.117"


def judged(made: Made, release: str = NEW) -> tuple[list[str], list[str]]:
    faults, doubts = loader.check("one", loader.take_apart(made.bytes()), REFERENCE, release)
    return [fault.message for fault in faults], [doubt.message for doubt in doubts]


def test_good_object_is_taken() -> None:
    assert judged(Made()) == ([], [])
    assert loader.Reference("6.12 SMP ", loader.X86_64, MODULE_SIZE, frozenset({INIT_AT})) == REFERENCE


def test_names_are_those_that_the_kernel_uses() -> None:
    shape = loader.take_apart(Made().bytes())
    assert (shape.name, shape.info_name, shape.init_names()) == ("one", "one", frozenset({"one_init"}))


REL = ".rela.text"


def relocated(offset: int, kind: int, symbol: int = 1, addend: int = 0) -> Made:
    data = struct.pack("<QQq", offset, symbol << 32 | kind, addend)
    return changed(parts=[Part(REL, elf.RELA, 0, data, link=3, info=TEXT)])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (changed(machine=183), "machine 183"),
        (changed(name=b""), "has no name"),
        (changed(module_size=896), "896 bytes instead of 1280"),
        (changed(symbols=[*Made().symbols, ("shared", 0xFFF2, 4)]), "shared is a common symbol"),
        (changed(symbols=[*Made().symbols, ("lost", 99, 0)]), "section 99"),
        (changed(parts=[Part("both", 1, elf.ALLOC | elf.WRITE | elf.EXECUTE)]), "writable and executable"),
        (changed(parts=[Part(".data..percpu", 8, elf.ALLOC, size=8193)]), "8193 bytes of data for each processor"),
        (changed(parts=[Part(loader.THIS_MODULE)]), "more than one section"),
        (changed(parts=[Part(".modinfo")]), "more than one section"),
        (changed(parts=[Part("more", elf.SYMTAB, 0, bytes(24), link=4)]), "more than one symbol table"),
        (relocated(0, 99), "type 99"),
        (relocated(0, 5), "type 5"),
        (relocated(0, 1, 77), "symbol 77"),
        (relocated(57, 1), "beyond its end"),
        (relocated(61, 2), "beyond its end"),
        (relocated(0, 10), "overflows"),
        (relocated(0, 11, addend=1 << 33), "overflows"),
        (relocated(0, 11, addend=-(1 << 33)), "overflows"),
        # The kernel passes over it: what it was about is not relocated, and crashes.
        (changed(parts=[Part(REL, elf.RELA, 0, b"\xff" * 24, link=3, info=99)]), "about section 99"),
    ],
)
def test_loader_refuses(made: Made, said: str) -> None:
    faults, doubts = judged(made)
    assert said in faults[0] and not doubts


@pytest.mark.parametrize("kind", [2, 4])
@pytest.mark.parametrize("addend", [1 << 31, 1 << 40, -(1 << 31) - 1])
def test_relocation_that_the_kernel_cuts_off_cannot_be_told(kind: int, addend: int) -> None:
    faults, doubts = judged(relocated(0, kind, addend=addend))
    assert not faults and "cannot be determined: a relocation of .text at 0x0 has more than 32 bits" in doubts[0]
    assert judged(relocated(0, kind, addend=-(1 << 31))) == judged(relocated(0, kind, addend=(1 << 31) - 1)) == ([], [])


@pytest.mark.parametrize(
    "made",
    [
        relocated(56, 1), relocated(60, 2), relocated(60, 4), relocated(60, 11), relocated(64, 0),
        relocated(0, 11, addend=-4),
        changed(symbols=[*Made().symbols, ("fixed", 0xFFF1, 4), ("patched", 0xFF20, 0), ("needed", 0, 0)]),
        changed(symbols=[*Made().symbols, ("__gnu_lto_v1", 0xFFF2, 4)]),
        changed(parts=[Part(".data..percpu", 8, elf.ALLOC, size=8192)]),
        changed(parts=[Part(REL, elf.RELA, 0, b"\xff" * 24, link=3, info=4)]),  # of a section that is not loaded
    ],
)  # fmt: skip
def test_loader_takes(made: Made) -> None:
    assert judged(made) == ([], [])


def test_relocation_of_a_place_that_is_not_empty_is_refused() -> None:
    data = struct.pack("<QQq", loader.NAME_AT, 2 << 32 | 1, 0)
    made = changed(parts=[Part(".rela.x", elf.RELA, 0, data, link=3, info=MODULE)])
    assert "something already" in judged(made)[0][0]


def test_what_older_kernels_do_not_look_at_is_no_fault_there() -> None:
    assert judged(changed(parts=[Part(".modinfo")]), OLD) == ([], [])
    faults, doubts = judged(changed(module_size=896), OLD)
    assert faults == [] and "may not load" in doubts[0]


def test_entry_point_at_another_place_is_a_doubt() -> None:
    faults, doubts = judged(changed(places=[(INIT_AT + 8, 1, 2, 0)]))
    assert faults == [] and "not where this kernel looks" in doubts[0]


@pytest.mark.parametrize("cut", range(0, 1200, 37))
def test_cut_off_object_is_refused(cut: int) -> None:
    data = Made().bytes()
    with pytest.raises(ValueError, match=r"cut off|no 64-bit|relocatable"):
        loader.take_apart(data[: len(data) - 1 - cut])


# -- the table of parameters ------------------------------------------------------------------------------------------
def with_parameters() -> Made:
    """An int, an array of four ints, a string of eight bytes, one by the kernel's function, and one by its own."""
    symbols = [
        *Made().symbols,
        ("param_ops_int", 0, 0), ("param_array_ops", 0, 0), ("param_ops_string", 0, 0), ("param_set_bool", 0, 0),
        ("names", 8, 0), ("arguments", 9, 0), ("own_ops", 10, 0), ("own_set", TEXT, 8),
    ]  # fmt: skip
    names = b"num\0list\0word\0flag\0own-one\0"
    arguments = struct.pack("<IIQQQ", 4, 4, 0, 0, 0) + struct.pack("<IIQ", 8, 0, 0)
    own = struct.pack("<IIQ", 1, 0, 0) + bytes(8) + struct.pack("<IIQ", 0, 0, 0) + bytes(8)
    rows = [(0, 3, 0), (4, 4, 0), (9, 5, 32), (14, 9, 0), (19, 9, 24)]
    places = []
    for number, (name, ops, where) in enumerate(rows):
        addend = where if ops == 9 else 0
        places += [(40 * number, 1, 7, name), (40 * number + 16, 1, ops, addend), (40 * number + 32, 1, 8, where % 48)]
    inner = [(16, 1, 3, 0)]

    def rela(items: list[tuple[int, int, int, int]]) -> bytes:
        return b"".join(struct.pack("<QQq", at, number << 32 | kind, add) for at, kind, number, add in items)

    return changed(
        symbols=symbols,
        parts=[
            Part("__param", 1, elf.ALLOC, bytes(40 * len(rows))),
            Part(".rodata.str", 1, elf.ALLOC, names),
            Part(".rodata", 1, elf.ALLOC, arguments),
            Part(".rodata.ops", 1, elf.ALLOC, own),
            Part(".rela__param", elf.RELA, 0, rela(places), link=3, info=7),
            Part(".rela.rodata", elf.RELA, 0, rela(inner), link=3, info=9),
            Part(".rela.ops", elf.RELA, 0, rela([(8, 1, 6, 0), (32, 1, 10, 0)]), link=3, info=10),
        ],
    )


def test_parameters_are_told_by_the_object_itself() -> None:
    assert parameters.read(loader.take_apart(with_parameters().bytes())) == {
        "num": parameters.Parameter("int", bare=False),
        "list": parameters.Parameter("array of int", 4, bare=False),
        "word": parameters.Parameter("string", 8, bare=False),
        "flag": parameters.Parameter("bool", bare=True),
        "own_one": parameters.Parameter("", bare=False),
    }


@pytest.mark.parametrize(
    ("options", "refused", "untold"),
    [
        ("num=1 list=1,2,3,4 word=1234567 flag", [], []),
        ("list=1,2,3,4,5", ["parameter-invalid"], []),
        ("list=1,x", ["parameter-invalid"], []),
        ("word=12345678", ["parameter-invalid"], []),
        ("word", ["parameter-invalid"], []),
        ("flag=maybe", ["parameter-invalid"], []),
        ("own-one", ["parameter-invalid"], []),
        ("own-one=x", [], ["parameter-untold"]),
        ("other=x", [], ["parameter-unknown"]),
        ("-- num=x", [], []),
    ],
)
def test_options_are_judged_by_the_table(options: str, refused: list[str], untold: list[str]) -> None:
    table = parameters.read(loader.take_apart(with_parameters().bytes()))
    faults, others = parameters.check("one", elf.Contents(), options, table)
    assert ([f.problem for f in faults], [f.problem for f in others]) == (refused, untold)
