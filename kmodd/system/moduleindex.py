"""What depmod(8) writes into a kernel's directory: whether it is whole, and what a killed depmod left beside it.

libkmod answers from the .bin files alone, so an empty or cut one makes modprobe find nothing. Formats and names: kmod
25 to 35, tools/depmod.c and libkmod/libkmod-index.c. Must not: run depmod.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Optional

from ..core.modulefile import object_name
from ..core.record import Depmod
from ..core.sysroot import DEPMOD_OUTPUTS, PROCESSES, Sysroot
from .files import list_names, look_up, stat_signature, sync_directory

#: Name -> size in bytes and mtime in ns, of each output that is there.
State = dict[str, tuple[int, int]]

#: Written by every depmod since kmod 25, never empty; modules.devname and modules.builtin.alias.bin may be.
NEEDED = (
    "modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.softdep", "modules.symbols",
    "modules.symbols.bin",
)  # fmt: skip
MAGIC = struct.pack(">II", 0xB007F457, 0x00020001)  # INDEX_MAGIC, INDEX_VERSION
PREFIX, VALUES, CHILDREN = 0x80000000, 0x40000000, 0x20000000  # flags of a node's offset, what it has
OFFSET = 0x0FFFFFFF
#: More zeros than any index holds in a row (the children of a node: 127 words): pages that never reached the disk.
HOLE = bytes(1024)

#: kmod 26 to 34 name the temporary file of an output OUTPUT.PID.USEC.SEC, kmod 25 OUTPUT.tmp, kmod 35 by mkstemp(3).
_TEMPORARY = re.compile(r"(modules\.[a-z]+(?:\.[a-z]+)*)\.(?:tmp|\d+\.\d+\.\d+)")
_MKSTEMP = re.compile(r"tmpfile[A-Za-z0-9]{6}")
#: How what depmod writes begins: an index, a comment, a line of modules.dep.
_BEGINNING = re.compile(rb"\Z|\xb0\x07\xf4\x57|# (?:Aliases|Soft dep|Weak dep|Device nodes)|[^\s:]+\.ko[^\s:]*:")


# -- what is whole ---------------------------------------------------------------------------------------------------
def read_state(directory: Path) -> State:
    """Return the sizes and times of depmod's outputs. Raises OSError where they could not be determined."""
    found = {}
    for name in sorted(DEPMOD_OUTPUTS):
        stat = look_up(directory / name)
        if stat is not None:
            found[name] = (stat.st_size, stat.st_mtime_ns)
    return found


def find_flaw(directory: Path, known: Mapping[str, tuple[int, int]]) -> str:
    """Return in which way depmod's outputs are not whole, "" where they are. Raises OSError.

    known: outputs as they were when they were known to be whole and on the disk; those that did not change since are
    not read. What another depmod wrote is read, and found empty, cut, or with holes; where it lost its content
    otherwise cannot be determined.
    """
    state = read_state(directory)
    builtin = look_up(directory / "modules.builtin")
    needed = {*NEEDED, *(["modules.builtin.bin"] if builtin and builtin.st_size else [])}
    for name in sorted(DEPMOD_OUTPUTS):
        if name not in state:
            if name in needed:
                return f"{name} is missing"
            continue
        before = known.get(name)
        if before is not None and tuple(before) == state[name]:
            continue
        if before is not None and before[1] == state[name][1]:
            return f"{name} has {state[name][0]} of {before[0]} bytes"
        data = (directory / name).read_bytes()
        if not data:
            if name in needed:
                return f"{name} is empty"
        elif not (_is_index(data) if name.endswith(".bin") else data.endswith(b"\n") and b"\0" not in data):
            return f"{name} is cut or damaged"
    return ""


def _is_index(data: bytes) -> bool:
    """Tell whether an index ends where its last node does, and has no holes."""
    if data[: len(MAGIC)] != MAGIC or HOLE in data:
        return False
    try:
        (place,) = struct.unpack_from(">I", data, len(MAGIC))
        end = last = place & OFFSET
        while place:
            end, children = _read_node(data, place)
            # kmod writes a node behind its children, and from version 35 on before them
            place = max((child for child in children if child & OFFSET > last), key=lambda c: c & OFFSET, default=0)
            last = place & OFFSET
    except (struct.error, ValueError):
        return False
    return bool(end == len(data))


def _read_node(data: bytes, place: int) -> tuple[int, tuple[int, ...]]:
    """Return where a node ends, and the places of its children. Raises ValueError and struct.error."""
    at = place & OFFSET
    children: tuple[int, ...] = ()
    if place & PREFIX:
        at = data.index(b"\0", at) + 1
    if place & CHILDREN:
        first, last = struct.unpack_from("BB", data, at)
        children = struct.unpack_from(f">{max(last - first + 1, 0)}I", data, at + 2)
        at += 2 + 4 * len(children)
    if place & VALUES:
        (count,) = struct.unpack_from(">I", data, at)
        at += 4
        for _ in range(min(count, len(data))):
            at = data.index(b"\0", at + 4) + 1
    return at, children


def sync_outputs(directory: Path) -> State:
    """Bring depmod's outputs to the disk, which it does not do itself; returns their state. Raises OSError."""
    for name in sorted(DEPMOD_OUTPUTS):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_directory(directory)
    return read_state(directory)


# -- what is up to date ----------------------------------------------------------------------------------------------
def identify(installed: Mapping[str, str], configuration: str) -> str:
    """Return what identifies the work of a depmod, as far as kmodd has a hand in it.

    installed: our objects' paths relative to the kernel's directory, and their sha256. configuration: the state of
    depmod.d. No time of a clock is part of it but those of files, which a copy of a root keeps.
    """
    return hashlib.sha256(json.dumps([sorted(installed.items()), configuration]).encode()).hexdigest()


def read_configuration(sysroot: Sysroot) -> tuple[str, float]:
    """Return what changes when a file of depmod.d does, and when one of ours last did (ctime). Raises OSError."""
    found: list[tuple[str, int, int]] = []
    newest = 0.0
    for directory in sysroot.depmod_directories:
        for name in list_names(directory, ".conf"):
            path = directory / f"{name}.conf"
            stat = look_up(path)
            if stat is not None:
                found.append((sysroot.inside(path), stat.st_size, stat.st_mtime_ns))
                newest = max(newest, stat.st_ctime) if name.startswith("kmodd-") else newest
    return repr(found), newest


class IndexReader:
    """Tells of kernels whether depmod is due; what did not change is not read again."""

    def __init__(self) -> None:
        self._listed: dict[Path, tuple[object, dict[str, str]]] = {}
        self._whole: dict[Path, tuple[object, str]] = {}

    def listed(self, directory: Path) -> dict[str, str]:
        """Return the files that modules.dep lists, by the canonical name of their module. Raises OSError."""
        path = directory / "modules.dep"
        key, known = stat_signature(path), self._listed.get(path)
        if known is None or known[0] != key:
            with path.open(errors="replace") as stream:
                names = [line.partition(":")[0] for line in stream]
            known = self._listed[path] = (key, {object_name(name): name for name in names})
        return known[1]

    def _flaw(self, directory: Path, last: Optional[Depmod]) -> str:
        key, known = read_state(directory), self._whole.get(directory)
        if known is None or known[0] != key:
            known = self._whole[directory] = (key, find_flaw(directory, last.outputs if last else {}))
        return known[1]

    def find_omitted(self, directory: Path, installed: Collection[str]) -> State:
        """Return which of our objects modules.dep does not list although they are there. Raises OSError.

        Where another file of that name is listed, verify says so.
        """
        listed, found = self.listed(directory), {}
        for name in sorted(installed):
            if object_name(name) not in listed:
                stat = look_up(directory / name)
                if stat is not None:  # what is gone is its own module's fault alone
                    found[name] = (stat.st_size, stat.st_mtime_ns)
        return found

    def find_stale(
        self, directory: Path, installed: Mapping[str, str], configuration: tuple[str, float], last: Optional[Depmod]
    ) -> tuple[str, frozenset[str]]:
        """Return why depmod is due, or "", and which of our objects it was found not to list. Raises OSError.

        installed: as identify's. configuration: as read_configuration returns it.
        """
        try:
            listed = self.listed(directory)
        except FileNotFoundError:
            return "modules.dep is missing" if installed else "", frozenset()
        for name in sorted(listed.values()):
            if name.startswith("extra/") and not os.path.lexists(directory / name):
                return f"modules.dep lists {name}, which is gone", frozenset()
        if not installed:
            return "", frozenset()
        flaw = self._flaw(directory, last)
        if flaw:
            return flaw, frozenset()
        omitted = self.find_omitted(directory, installed)
        same = last is not None and last.inputs == identify(installed, configuration[0])
        for name, state in omitted.items():
            if not same or last is None or tuple(last.omitted.get(name, ())) != state:
                return f"modules.dep does not list {name}", frozenset()
        if same or (last is None and not _is_older(directory, installed, configuration[1])):
            return "", frozenset(omitted)
        return "files changed since it last ran", frozenset()


def _is_older(directory: Path, installed: Collection[str], changed: float) -> bool:
    """Tell whether modules.dep is older than what it was made from, by their times: for want of a record."""
    for name in installed:
        stat = look_up(directory / name)
        changed = max(changed, stat.st_ctime) if stat else changed
    return changed > (directory / "modules.dep").stat().st_mtime


# -- what is left over -----------------------------------------------------------------------------------------------
def find_temporary(directory: Path) -> list[Path]:
    """Return the temporary files of depmod in a kernel's directory, none while a depmod runs."""
    found = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and _is_temporary(entry):
                found.append(Path(entry.path))
    return found if found and not _is_running() else []


def _is_temporary(entry: os.DirEntry[str]) -> bool:
    named = _TEMPORARY.fullmatch(entry.name)
    if named:
        return named[1] in DEPMOD_OUTPUTS
    if not _MKSTEMP.fullmatch(entry.name):  # others may name their files so: those of depmod have its content
        return False
    with contextlib.suppress(OSError), open(entry.path, "rb") as stream:
        return _BEGINNING.match(stream.read(256)) is not None
    return False


def _is_running() -> bool:
    """Tell whether a depmod runs that may go on with its temporary files."""
    for stat in PROCESSES.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text(errors="replace").partition("(")[2].rpartition(")")
            if name == "depmod" and rest.split()[:1] not in (["Z"], ["X"]):
                return True
    return False


def is_depmods_own(directory: Path, names: Collection[str]) -> bool:
    """Tell whether depmod alone left some files of a kernel's directory."""
    temporary = {path.name for path in find_temporary(directory)}
    return set(names) <= DEPMOD_OUTPUTS | temporary
