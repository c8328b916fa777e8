"""Whether what depmod wrote is whole, told of what the real one writes; and what a killed one left."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import wait_until

from kmodd.core.sysroot import Sysroot
from kmodd.deploy.install import Installation
from kmodd.system import moduleindex
from kmodd.system.moduleindex import (
    CHILDREN,
    DEPMOD_OUTPUTS,
    HOLE,
    MAGIC,
    PREFIX,
    VALUES,
    _is_index,
    find_flaw,
    find_temporary,
    is_depmods_own,
    read_state,
    sync_outputs,
)
from kmodd.system.run import find_program

R = "6.1.0-1.el9.x86_64"
INDEX = "modules.builtin.bin"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A kernel's directory as the real depmod leaves it; without modules, but with many that are built in."""
    found = tmp_path / "lib/modules" / R
    found.mkdir(parents=True)
    names = [f"{random.Random(number).randbytes(4).hex()}_{number}" for number in range(300)]
    (found / "modules.order").write_text("")
    (found / "modules.builtin").write_text("".join(f"kernel/x/m{name}.ko\n" for name in names))
    program = find_program("depmod")
    assert program
    subprocess.run([program, "-b", tmp_path, R], check=True)
    (found / "modules.dep").write_text("kernel/a.ko:\n")
    return found


def test_what_depmod_writes_is_whole(directory: Path) -> None:
    assert find_flaw(directory, {}) == ""
    assert (directory / INDEX).stat().st_size > 4096


@pytest.mark.parametrize("name", ["dep", "dep.bin", "alias", "alias.bin", "symbols", "symbols.bin", "softdep"])
def test_what_is_missing_or_empty_is_found(directory: Path, name: str) -> None:
    (directory / f"modules.{name}").write_bytes(b"")
    assert find_flaw(directory, {}) == f"modules.{name} is empty"
    (directory / f"modules.{name}").unlink()
    assert find_flaw(directory, {}) == f"modules.{name} is missing"


def test_what_may_be_empty_is_whole(directory: Path) -> None:
    for name in ("modules.devname", "modules.builtin.alias.bin"):
        (directory / name).write_bytes(b"")
    assert find_flaw(directory, {}) == ""
    for name in ("modules.devname", "modules.builtin.alias.bin"):
        (directory / name).unlink()
    assert find_flaw(directory, {}) == ""


def test_every_cut_of_an_index_is_found(directory: Path) -> None:
    whole = (directory / INDEX).read_bytes()
    assert _is_index(whole)
    assert [size for size in range(len(whole)) if _is_index(whole[:size])] == []
    assert not _is_index(whole + b"\0")


def test_page_that_never_reached_the_disk_is_found(directory: Path) -> None:
    whole = bytearray((directory / INDEX).read_bytes())
    whole[1024 : 1024 + len(HOLE)] = HOLE
    (directory / INDEX).write_bytes(whole)
    assert find_flaw(directory, {}) == f"{INDEX} is cut or damaged"


@pytest.mark.parametrize("data", [b"# Aliases\nalias a", b"# Aliases\nalias\0a\n", bytes(4096)])
def test_cut_text_is_found(directory: Path, data: bytes) -> None:
    (directory / "modules.alias").write_bytes(data)
    assert find_flaw(directory, {}) == "modules.alias is cut or damaged"


def test_what_was_recorded_is_not_read_again_unless_it_changed(directory: Path) -> None:
    known = sync_outputs(directory)
    assert known == read_state(directory)
    (directory / INDEX).write_bytes(b"other")  # is read: its state is another
    assert find_flaw(directory, known) == f"{INDEX} is cut or damaged"
    assert find_flaw(directory, {**known, INDEX: read_state(directory)[INDEX]}) == ""
    size, time = read_state(directory)["modules.alias"]
    assert find_flaw(directory, {**known, "modules.alias": (size + 1, time)}) == (
        f"modules.alias has {size} of {size + 1} bytes"
    )


# -- both orders of nodes --------------------------------------------------------------------------------------------
Node = dict[str, Any]
NODES = st.recursive(st.just({}), lambda below: st.dictionaries(st.sampled_from("abxyz"), below, max_size=3))


def write(node: Node, offset: int, first: bool) -> tuple[bytes, int, int]:
    """Return a trie's bytes, the place of its root, and its end, as kmod writes it from 35 on (first) or before."""
    keys = sorted(node)
    places = dict.fromkeys(range(ord(keys[0]), ord(keys[-1]) + 1), 0) if keys else {}
    size = 2 + (2 + 4 * len(places) if places else 0) + 4 + 4 + 2
    below, at = b"", offset + (size if first else 0)
    for key in keys:
        data, place, at = write(node[key], at, first)
        places[ord(key)], below = place, below + data
    own = b"p\0"
    if places:
        own += bytes([min(places), max(places)]) + struct.pack(f">{len(places)}I", *places.values())
    own += struct.pack(">II", 1, 0) + b"v\0"
    flags = PREFIX | VALUES | (CHILDREN if places else 0)
    return (own + below, offset | flags, at) if first else (below + own, at | flags, at + size)


@given(NODES, st.booleans(), st.data())
def test_index_of_every_kmod_is_whole_and_its_cuts_are_found(trie: Node, first: bool, data: st.DataObject) -> None:
    nodes, root, _ = write(trie, 12, first)
    whole = MAGIC + struct.pack(">I", root) + nodes
    assert _is_index(whole)
    assert not _is_index(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=200))
def test_hostile_index_is_answered(data: bytes) -> None:
    _is_index(data)
    _is_index(MAGIC + data)


# -- leftovers -------------------------------------------------------------------------------------------------------
LEFT = {
    "modules.dep.bin.1234.567.1700000000": b"half",  # kmod 26 to 34
    "modules.builtin.alias.bin.1.2.3": b"",
    "modules.alias.tmp": b"half",  # kmod 25
    "tmpfileAb3dEf": MAGIC,  # kmod 35
    "tmpfile00000z": b"# Aliases extracted from modules themselves.\nal",
    "tmpfileYYYYYY": b"kernel/fs/a.ko.xz: kernel/fs/b.ko\n",
    "tmpfileZZZZZZ": b"",
}
FOREIGN = {
    "modules.mine.1.2.3": b"", "modules.dep.old": b"", "modules.dep.1.2": b"", "modules.dep.bin.1.2.3.orig": b"",
    "modules.order": b"", "tmpfileAb3dE": b"", "tmpfileFOREIG": b"#!/bin/sh\n", "xmodules.dep.1.2.3": b"",
}  # fmt: skip


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No depmod runs, whatever else this machine does."""
    monkeypatch.setattr(moduleindex, "PROCESSES", tmp_path / "none")


@pytest.mark.usefixtures("idle")
def test_leftovers_are_deleted_at_the_start(tmp_path: Path) -> None:
    """Also where depmod does not run again."""
    directory = tmp_path / "lib/modules/6.1.0-1"
    directory.mkdir(parents=True)
    for name, data in {**LEFT, **FOREIGN}.items():
        (directory / name).write_bytes(data)
    Installation(Sysroot(tmp_path)).heal()
    assert {path.name for path in directory.iterdir()} == set(FOREIGN)


def test_what_depmod_wrote_is_synced_with_its_names(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), real(descriptor)))
    sync_outputs(directory)
    written = {(directory / name).stat().st_ino for name in DEPMOD_OUTPUTS if (directory / name).exists()}
    assert written and written <= {*synced[:-1]} and synced[-1] == directory.stat().st_ino


@pytest.mark.usefixtures("idle")
def test_leftovers_of_every_kmod_are_found_and_nothing_else(tmp_path: Path) -> None:
    for name, data in {**LEFT, **FOREIGN}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "modules.symbols.1.2.3").mkdir()
    (tmp_path / "modules.softdep.1.2.3").symlink_to("modules.order")
    assert {path.name for path in find_temporary(tmp_path)} == set(LEFT)
    assert is_depmods_own(tmp_path, [*LEFT, *DEPMOD_OUTPUTS])
    assert not is_depmods_own(tmp_path, [*LEFT, "modules.order"])


def test_leftovers_are_left_alone_while_a_depmod_runs(tmp_path: Path) -> None:
    (tmp_path / "modules.dep.1.2.3").touch()
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b'depmod'); print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdin
        assert child.stdout.readline() == b"up\n"
        assert find_temporary(tmp_path) == []
        child.stdin.write(b"\n")
        child.stdin.close()
        child.wait()
    wait_until(lambda: [path.name for path in find_temporary(tmp_path)] == ["modules.dep.1.2.3"], "no depmod to run")
