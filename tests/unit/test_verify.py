"""Judging a module by what was read of it: options, symbols, vermagic, and looking symbols up in a symvers."""

from __future__ import annotations

import struct
from typing import Optional

import pytest

from kmodd.verify import elf, loader, parameters, symbols

TYPES = (
    "flag:bool", "turned:invbool", "either:bint", "number:int", "count:uint", "small:byte", "big:ullong",
    "word:charp", "list:array of int", "words:array of charp", "own:frobnicator", "with_dash:int",
)  # fmt: skip


def refusals(options: str) -> list[str]:
    refused, _ = parameters.check("one", elf.Contents(info={"parmtype": TYPES}), options)
    assert {fault.problem for fault in refused} <= {"parameter-invalid"}
    return [fault.message.partition("option ")[2].partition(": it takes")[0] for fault in refused]


@pytest.mark.parametrize(
    "options",
    [
        "", "flag", "flag=1", "flag=Yes", "flag=on", "flag=off", "either", "turned=n", "number=-1", "number=+7",
        "number=0x7f", "number=017", "number=2147483647", "number=-2147483648", "count=4294967295", "small=255",
        "big=18446744073709551615", "word=", 'word="a number=x b"', '"word=a number=x"', "list=1,-2,0x3", "words=a,,b",
        "own=whatever", "own", "with-dash=1", "flag=true", "-- number=x", f"word={'x' * 1024}", "dyndbg=+p",
    ],
)  # fmt: skip
def test_options_that_a_kernel_takes_are_no_fault(options: str) -> None:
    assert refusals(options) == []


@pytest.mark.parametrize(
    "options",
    [
        "number=", "number=many", "number=1x", "number=2147483648", "number=-2147483649", "number=08", "number=0x",
        "number=1k", "number=--1", "count=-1", "count=4294967296", "small=256", "big=18446744073709551616", "flag=",
        "flag=maybe", "flag=o", "either=2", "list=1,,2", "list=1,x", "turned=x", f"word={'x' * 1025}", "with-dash=x",
    ],
)  # fmt: skip
def test_options_that_a_kernel_refuses_are_faults(options: str) -> None:
    assert refusals(options) == [options.replace("-dash", "_dash")]


@pytest.mark.parametrize("name", ["number", "word", "turned", "list"])
def test_parameter_without_its_value_is_refused(name: str) -> None:
    assert refusals(name) == [f"{name} without a value"]


def test_parameters_of_whatever_kind_are_known_and_others_warned_of() -> None:
    contents = elf.Contents(
        info={"parmtype": ("typed:int",), "parm": ("described:what it is",)}, parameters=frozenset({"untyped"})
    )
    refused, unknown = parameters.check("one", contents, "typed=1 described=x untyped=y async_probe other=z")
    untold = ["parameter-untold", "parameter-untold"]
    assert (refused, [fault.problem for fault in unknown]) == ([], [*untold, "parameter-unknown"])
    assert "no parameter other" in unknown[-1].message


# -- symbols -----------------------------------------------------------------------------------------------------------
SYMVERS = b"""\
0x00000001\tprintk\tvmlinux\tEXPORT_SYMBOL\t
0x00000009\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t
0x00000002\tfree\tdrivers/a/a-b\tEXPORT_SYMBOL_GPL\tSPACE
0x00000003\tvmlinux\tvmlinux\tEXPORT_SYMBOL\t
0x00000004\told\tvmlinux\tEXPORT_SYMBOL
broken\tbad\tvmlinux\tEXPORT_SYMBOL\t
0x00000005\tlast\tvmlinux\tEXPORT_SYMBOL\t"""
EXPORTED = {
    "printk": elf.Export(1, "vmlinux"),
    "module_layout": elf.Export(9, "vmlinux"),
    "free": elf.Export(2, "a_b", True, "SPACE"),
    "vmlinux": elf.Export(3, "vmlinux"),
    "old": elf.Export(4, "vmlinux"),
    "last": elf.Export(5, "vmlinux"),
}


@pytest.mark.parametrize("more", [0, 100], ids=["few", "many"])
def test_symvers_is_searched_for_whole_names_only(more: int) -> None:
    wanted = {*EXPORTED, "print", "rintk", "bad", "EXPORT_SYMBOL", *(f"absent{number}" for number in range(more))}
    assert symbols.look_up(symbols.Symvers(SYMVERS), wanted) == EXPORTED
    assert symbols.look_up(symbols.Symvers(b""), wanted) == {}
    assert symbols.look_up(None, wanted) == {}


FORCIBLE = {"CONFIG_MODULE_FORCE_LOAD": "y"}
VERSIONED, PLAIN = {"CONFIG_MODVERSIONS": "y"}, {"CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS": "y"}
CRCS = {"printk": 1, "free": 2, "old": 4, "module_layout": 9}


def faults(
    needs: str,
    config: Optional[dict[str, str]] = None,
    license: str = "GPL",
    first: tuple[str, ...] = ("a_b",),
    crcs: Optional[dict[str, int]] = None,
    imports: tuple[str, ...] = ("SPACE",),
    depends: str = "",
    forcible: bool = False,
) -> list[str]:
    """Return the problems of an object that needs some symbols; weak ones end in "?"."""
    contents = elf.Contents(
        info={"license": (license,), "import_ns": imports, "depends": (depends,)},
        needs={word.rstrip("?"): word.endswith("?") for word in needs.split()},
        crcs=CRCS if crcs is None else crcs,
        versioned=crcs != {},
    )
    return [
        f.problem
        for f in symbols.check_symbols(
            "one", contents, EXPORTED, first, {**(config or {}), **FORCIBLE} if forcible else config or {}
        )
    ]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (faults("printk free", VERSIONED), []),
        (faults("printk", VERSIONED, crcs={}), ["symbol-versions-missing"]),
        (faults("printk", VERSIONED, crcs={**CRCS, "printk": 7}), ["symbol-version-mismatch"]),
        (faults("printk?", VERSIONED, crcs={**CRCS, "printk": 7}), ["symbol-version-mismatch"]),
        (faults("printk", VERSIONED, crcs={}, forcible=True), []),
        (faults("printk", VERSIONED, crcs={**CRCS, "old": 7}), []),  # what is used counts, not what is listed
        (faults("printk", VERSIONED, crcs={"module_layout": 9}), ["symbol-versions-missing"]),
        (faults("printk", VERSIONED, crcs={"printk": 1}), ["symbol-versions-missing"]),
        (faults("printk", VERSIONED, crcs={"printk": 1, "module_layout": 8}), ["symbol-version-mismatch"]),
        (faults("printk", crcs={"printk": 7}), []),
        (faults("printk", crcs={}), []),
        (faults("absent", VERSIONED), ["symbol-unknown"]),
        (faults("absent", crcs={}), ["symbol-unknown"]),
        (faults("absent?", crcs={}), []),
        (faults("absent", depends="a-b,lost-one"), ["dependency-missing"]),
        (faults("absent", depends="a-b"), ["symbol-unknown"]),
        (faults("free", first=()), ["dependency-missing"]),
        (faults("free?", first=()), []),
        (faults("free", license="Proprietary"), ["symbol-gpl-only"]),
        (faults("free", license=""), ["symbol-gpl-only"]),
        (faults("free?", license="Proprietary"), []),
        (faults("free", license="Dual MIT/GPL"), []),
        (faults("printk old", license="Proprietary"), []),
        (faults("free", imports=()), ["symbol-namespace"]),
        (faults("free", PLAIN, imports=()), []),
        (faults("free", imports=("OTHER", "SPACE")), []),
    ],
)
def test_symbols_are_judged_as_the_kernel_resolves_them(found: list[str], wanted: list[str]) -> None:
    assert found == wanted


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(90), b"\x7fELF\x02\x01" + bytes(90)])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"ELF|cut off"):
        elf.read(data, "one")


def sections(named: int, link: int) -> bytes:
    """Return an object of three sections. named: where the last one's name begins. link: its table of strings."""
    heads = [(0,) * 10, (1, 3, 0, 0, 64, 9, 0, 0, 1, 0), (named, elf.SYMTAB, 0, 0, 73, 24, link, 0, 8, 24)]
    body = b"\0.strings".ljust(8, b"s")[:8] + b"\0" + bytes(24)
    table = b"".join(struct.pack("<IIQQQQIIQQ", *head) for head in heads)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 3, 1) + body + table


def test_names_of_sections_lie_in_their_table() -> None:
    assert [section.kind for section in elf.read_sections(sections(1, 1), "<")] == [0, 3, elf.SYMTAB]
    with pytest.raises(ValueError, match="name of a section"):
        elf.read_sections(sections(1 << 23, 1), "<")


def test_what_lies_beyond_its_section_or_is_about_none_is_refused() -> None:
    text = elf.Section(".text", 1, memoryview(b"x" * 8), 0, 0, 6, 8)
    about = elf.Section(".rela.text", elf.RELA, memoryview(b""), 0, 2, 0, 0)
    null = elf.Section("", 0, memoryview(b""), 0, 0, 0, 0)

    def said(value: int, info: int) -> set[str]:
        symbols = [elf.Symbol(0, "", 0, 0, 0), elf.Symbol(1, "start", 0, 1, value)]
        shape = loader.Shape(62, "<", [null, text, about._replace(info=info)], b"\0start\0", symbols, None)
        faults, _ = loader.check("one", shape, loader.Reference(), "6.1.0")
        return {fault.message.partition(": ")[2] for fault in faults} - {"it has no section .gnu.linkonce.this_module"}

    assert said(8, 1) == set()
    assert said(9, 1) == {"symbol start lies beyond the end of .text"}
    assert said(8, 9) == {".rela.text is about section 9, which there is not"}


@pytest.mark.parametrize(("link", "refused"), [(1, False), (0, True), (3, True)])
def test_every_symbol_table_has_a_table_of_names(link: int, refused: bool) -> None:
    found = elf.read_sections(sections(1, link), "<")
    shape = loader.Shape(62, "<", found, b"", [], None)
    faults, _ = loader.check("one", shape, loader.Reference(), "6.1.0-56-rt-amd64")
    assert any("in a section that there is not" in fault.message for fault in faults) == refused
