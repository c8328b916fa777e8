"""What is read of a kernel's memory: from files of the shape that /proc and /sys have on Linux 6.1."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kmodd.core.model import Loaded, Presence, Target
from kmodd.core.sysroot import Sysroot
from kmodd.host.loaded import UNSEEN, Identity, LoadedReader, read_identity

T = Target("m", "6.1.0")
HEADER = bytes.fromhex("040000001400000003000000474e5500")  # of the note: sizes, type, "GNU"
CODE = """\
__asm__(".section .note.gnu.build-id,\\"a\\"\\n.long 4, 20, 3\\n.asciz \\"GNU\\"\\n.fill 20, 1, {number}\\n.previous");
static const char said[] __attribute__((section(".modinfo"), used)) = "license=GPL\\0srcversion={srcversion}\\0name=m";
"""


def compile_object(path: Path, number: int, srcversion: str = "S", *flags: str) -> Path:
    """Make a relocatable ELF file with the sections that a module has."""
    text = CODE.format(number=number, srcversion=srcversion)
    subprocess.run(["gcc", *flags, "-c", "-x", "c", "-o", path, "-"], input=text, text=True, check=True)
    return path


class Kernel:
    """A root with a kernel's view of its memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines: list[str] = []
        (root / "proc").mkdir()
        self.reader = LoadedReader(Sysroot(root))

    def load(self, name: str, usage: str = "0 -", number: int = 0, srcversion: str = "", state: str = "Live") -> None:
        """Load a module. usage: references and holders as /proc/modules has them; number: of its build ID, 0: none."""
        self.lines.append(f"{name} 16384 {usage} {state} 0x0000000000000000 (OE)\n")
        (self.root / "proc/modules").write_text("".join(self.lines))
        directory = self.root / "sys/module" / name
        (directory / "notes").mkdir(parents=True)
        if number:
            (directory / "notes/.note.gnu.build-id").write_bytes(HEADER + bytes([number]) * 20)
        if srcversion:
            (directory / "srcversion").write_text(f"{srcversion}\n")

    def interface(self, name: str, driver: str, flags: int, view: str = "proc/1/root/sys") -> None:
        directory = self.root / view / "class/net" / name
        (directory / "device/driver").mkdir(parents=True)
        (directory / "device/driver/module").symlink_to(f"../../../../module/{driver}")
        (directory / "flags").write_text(f"0x{flags:x}\n")

    def look(self, name: str, path: Path) -> Loaded:
        ((found,),) = self.reader.read({T: {name: path}}).values()
        return found


@pytest.fixture
def running(tmp_path: Path) -> Kernel:
    (tmp_path / "root").mkdir()
    return Kernel(tmp_path / "root")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    return compile_object(tmp_path / "m.ko", 1)


CASES = [
    ("the same build", 1, "S", Presence.CURRENT),
    ("another build of the same source", 2, "S", Presence.STALE),
    ("another build, no srcversion", 2, "", Presence.STALE),
    ("the same source, no build ID", 0, "S", Presence.CURRENT),
    ("another source, no build ID", 0, "other", Presence.STALE),
    ("nothing to compare", 0, "", Presence.UNKNOWN),
]


@pytest.mark.parametrize(("number", "srcversion", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_objects_are_compared(
    running: Kernel, installed: Path, number: int, srcversion: str, expected: Presence
) -> None:
    running.load("m", number=number, srcversion=srcversion)
    assert running.look("m", installed) == Loaded("m", expected)


USAGE = [
    ("0 -", Loaded("m", Presence.STALE)),
    ("2 -", Loaded("m", Presence.STALE, users=2)),
    ("2 b,a,", Loaded("m", Presence.STALE, holders=("a", "b"))),
    ("3 b,a,", Loaded("m", Presence.STALE, holders=("a", "b"), users=1)),
    ("0 [permanent],", Loaded("m", Presence.STALE, permanent=True)),
    ("1 a,[permanent],", Loaded("m", Presence.STALE, holders=("a",), permanent=True)),
    ("- -", Loaded("m", Presence.STALE, permanent=True)),
]


@pytest.mark.parametrize(("usage", "expected"), USAGE, ids=[usage for usage, _ in USAGE])
def test_usage_is_told(running: Kernel, installed: Path, usage: str, expected: Loaded) -> None:
    running.load("m", usage, number=9)
    assert running.look("m", installed) == expected


@pytest.mark.parametrize("state", ["Loading", "Unloading"])
def test_what_comes_or_goes_is_absent(running: Kernel, installed: Path, state: str) -> None:
    running.load("m", state=state)
    assert running.look("m", installed).presence is Presence.ABSENT


def test_what_is_not_loaded_is_absent_even_without_proc(running: Kernel, installed: Path) -> None:
    assert running.look("m", installed).presence is Presence.ABSENT
    running.load("other")
    assert running.look("m", installed).presence is Presence.ABSENT


def test_name_is_that_of_the_kernel(running: Kernel, installed: Path) -> None:
    running.load("a_b", number=1)
    assert running.look("a-b", installed) == Loaded("a_b", Presence.CURRENT)


def test_interfaces_that_are_up_are_told(running: Kernel, installed: Path) -> None:
    running.load("m", number=9)
    running.interface("eth0", "m", 0x1003)
    running.interface("eth1", "m", 0x1002)
    running.interface("eth2", "other_m", 0x1003)
    running.interface("eth3", "m", 0x1003, view="sys")
    running.interface("eth0", "m", 0x1003, view="sys")
    assert running.look("m", installed).interfaces == ("eth0", "eth3")


UNIT = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""


@pytest.mark.parametrize(
    ("unit", "interfaces"), [(UNIT, ("eth1",)), ("#!/bin/sh\nexit 1\n", (UNSEEN,)), (None, ())], ids=str
)
def test_interfaces_that_are_hidden_are_asked_of_another_unit(
    running: Kernel, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, interfaces: object
) -> None:
    """As in kmodd.service, which sees nothing of pid 1: systemd-run is a script here, what it runs is not."""
    running.load("m", number=9)
    running.interface("eth1", "m", 0x1003, view="sys")
    running.interface("eth2", "m", 0x1002, view="sys")
    running.interface("eth3", "other", 0x1003, view="sys")
    found = {T: tuple(replace(item, interfaces=()) for item in running.reader.read({T: {"m": installed}})[T])}
    if unit is not None:
        (tmp_path / "systemd-run").write_text(unit)
        (tmp_path / "systemd-run").chmod(0o755)
        monkeypatch.setenv("KMODD_PROGRAM_PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr("kmodd.host.loaded.SYSTEMD_RUNS", tmp_path)
        monkeypatch.setattr("os.geteuid", lambda: 0)
    (item,) = asyncio.run(running.reader.complete(found, [T]))[T]
    assert item.interfaces == interfaces
    (item,) = asyncio.run(running.reader.complete(found, []))[T]
    assert item.interfaces == ()


def test_object_without_its_stored_file_is_unknown(running: Kernel, tmp_path: Path) -> None:
    running.load("m", number=1)
    assert running.look("m", tmp_path / "gone.ko").presence is Presence.UNKNOWN
    assert running.reader.read({T: {"m": None}}) == {T: (Loaded("m", Presence.UNKNOWN),)}


def test_unchanged_object_is_read_once(running: Kernel, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running.load("m", number=1)
    read: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), real(path))[1])
    for _ in range(3):
        running.look("m", installed)
    assert read.count(installed) == 1
    compile_object(installed, 2)
    assert running.look("m", installed).presence is Presence.STALE


def test_boot_is_told_apart(running: Kernel) -> None:
    assert running.reader.boot() == ""
    path = running.root / "proc/sys/kernel/random/boot_id"
    path.parent.mkdir(parents=True)
    path.write_text("abc\n")
    assert running.reader.boot() == "abc"


def test_strip_and_appended_signature_change_no_identity(tmp_path: Path) -> None:
    path = compile_object(tmp_path / "m.ko", 7, "ABC", "-g")
    before = read_identity(path.read_bytes())
    assert before == Identity((HEADER + bytes([7]) * 20).hex(), "ABC")
    subprocess.run(["strip", "--strip-debug", path], check=True)
    assert read_identity(path.read_bytes() + b"~Module signature appended~\n") == before


BAD = [b"", b"\x7fELF", b"text " * 99, b"\x7fELF\x02\x01" + b"\xff" * 200]


@pytest.mark.parametrize("content", BAD)
def test_what_is_no_object_has_no_identity(content: bytes) -> None:
    assert read_identity(content) == Identity()


def test_object_that_was_cut_off_anywhere_has_some_identity(installed: Path) -> None:
    content = installed.read_bytes()
    for end in range(0, len(content), 7):
        read_identity(content[:end])
