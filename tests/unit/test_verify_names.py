"""Names that are taken, and what the kernel's command line does to a module."""

from __future__ import annotations

from pathlib import Path

import pytest
from objects import Made

from kmodd.core.model import Kernel
from kmodd.verify import bootline, loader
from kmodd.verify.names import Taken, check, read_names

TAKEN = Taken(frozenset({"loop", "crc32"}), frozenset({"printk", "loop"}), frozenset({"ghes"}))


@pytest.mark.parametrize(
    ("file", "inner", "faults", "doubts"),
    [
        ("one", "one", [], []),
        ("one_two", "one-two", [], []),
        ("loop", "loop", ["object-built-in"], []),
        ("printk", "printk", ["name-taken"], []),
        ("one", "printk", ["name-taken"], []),
        ("one", "crc32", ["name-taken"], []),
        ("one", "ext4", ["name-taken"], []),
        ("one", "other", [], ["name-differs"]),
        ("ghes", "ghes", [], ["name-taken"]),
    ],
)
def test_name_is_free_or_taken(file: str, inner: str, faults: list[str], doubts: list[str]) -> None:
    found = check(file, inner, TAKEN, {"ext4", "xfs"})
    assert ([f.problem for f in found[0]], [f.problem for f in found[1]]) == (faults, doubts)


def test_taken_names_are_read(tmp_path: Path) -> None:
    assert read_names(tmp_path) == Taken(shown=frozenset({"kernel"}))
    (tmp_path / "modules.builtin").write_text("kernel/drivers/block/loop.ko\nkernel/lib/crc-t10.ko\n")
    entries = (b"loop.license=GPL", b"printk.parmtype=time:bool", b"e1000.version=7", b"x.license=a.parmtype=b")
    (tmp_path / "modules.builtin.modinfo").write_bytes(b"\0".join(entries) + b"\0")
    taken = Taken(frozenset({"loop", "crc_t10"}), frozenset({"kernel", "e1000"}), frozenset({"printk"}))
    assert read_names(tmp_path) == taken


@pytest.mark.parametrize(
    ("lines", "at_boot", "outcome", "problem"),
    [
        (("ro",), True, "passed", ""),
        (("module_blacklist=one",), False, "failed", "kernel-blacklisted"),
        (("initcall_blacklist=one_init",), False, "failed", "initcall-blacklisted"),
        (("initcall_blacklist=init_module",), False, "passed", ""),
        (("sysctl.kernel.modules_disabled=1",), False, "failed", "modules-disabled"),
        (("modprobe.blacklist=one",), True, "failed", "blacklisted"),
        (("modprobe.blacklist=one",), False, "passed", ""),
        (("ro", "module_blacklist=one"), False, "untold", "command-line-unknown"),
    ],
)
def test_command_line_keeps_a_module_out(lines: tuple[str, ...], at_boot: bool, outcome: str, problem: str) -> None:
    kernel = Kernel("6.1", command_lines=lines)
    shape = loader.take_apart(Made().bytes())
    (found,) = bootline.check(kernel, "one", shape, at_boot)
    assert (found.outcome, found.problem) == (outcome, problem)
    assert bool(bootline.refusals(kernel, "one", shape)) == (outcome == "failed" and problem != "blacklisted")


def test_command_line_that_cannot_be_told_is_said_to_be_so() -> None:
    kernel = Kernel("6.1", command_line_unknown="x has two values")
    (found,) = bootline.check(kernel, "one", loader.take_apart(Made().bytes()), False)
    assert (found.outcome, found.problem) == ("untold", "command-line-unknown")


@pytest.mark.parametrize(
    ("lines", "given", "own", "options"),
    [
        (("ro",), "a=1", "", ["a=1"]),
        (("one.b=2",), "a=1", "", ["a=1 b=2"]),
        (("ro",), "a=1 b=3", "one.b=3", ["a=1"]),  # the running kernel's line is not that of this one
        (("one.b=2", "ro"), "a=1", "", ["a=1 b=2", "a=1"]),
    ],
)
def test_options_of_the_command_line_come_behind(
    lines: tuple[str, ...], given: str, own: str, options: list[str]
) -> None:
    assert bootline.options(Kernel("6.1", command_lines=lines), "one", given, own) == options
