"""What the running kernel has in memory of our objects, and whether that is what is installed.

Two objects are the same if their linker's build IDs are, which the kernel shows in /sys/module/NAME/notes; where one
has none, if their srcversions are. A build ID covers options of the compiler, too. Signature and compression change
neither, so that the unsigned object in the store stands for the installed one. Sources: proc(5), elf(5),
Documentation/ABI/testing/sysfs-module. Must not: be asked about another root than the booted one, or load and unload.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Loaded, Presence, Target
from ..core.modulefile import canonical
from ..core.sysroot import SYSTEMD_RUNS, Sysroot
from ..system.files import stat_signature
from ..system.run import TRANSIENT_UNIT, run

BUILD_ID = ".note.gnu.build-id"
PERMANENT = "[permanent]"  # in place of a holder: has no exit function (kernel/module/procfs.c)
IFF_UP = 1  # <linux/if.h>
UNSEEN = "an interface that cannot be seen"
#: Prints the network interfaces that a driver has: name, flags and module.
SCRIPT = """\
for interface in "$1"/*; do
    module=$(readlink "$interface/device/driver/module") || continue
    echo "${interface##*/} $(cat "$interface/flags") ${module##*/}"
done
"""


@dataclass(frozen=True)
class Identity:
    """What tells one build of a module from another; "" where it has none."""

    build_id: str = ""  # hexadecimal, the note with its header
    srcversion: str = ""

    def compare(self, other: Identity) -> Presence:
        """Return CURRENT, STALE or, where nothing can be compared, UNKNOWN."""
        for mine, theirs in ((self.build_id, other.build_id), (self.srcversion, other.srcversion)):
            if mine and theirs:
                return Presence.CURRENT if mine == theirs else Presence.STALE
        return Presence.UNKNOWN


class LoadedReader:
    """Reads the booted root's /proc and /sys; files that did not change are not read again."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self._known: dict[Path, tuple[object, Identity]] = {}

    def boot(self) -> str:
        """Return what tells this boot from any other, "" where the kernel does not say."""
        return self._read(self.sysroot.boot_id)

    def read(self, objects: Mapping[Target, Mapping[str, Optional[Path]]]) -> dict[Target, tuple[Loaded, ...]]:
        """Return what is in memory of targets' objects.

        objects: name -> file with the installed content, unsigned and uncompressed; None where there is no such file.
        """
        if not objects:
            return {}
        there = self._modules()
        found = {
            target: [self._compare(canonical(name), path, there) for name, path in sorted(files.items())]
            for target, files in objects.items()
        }
        if any(item.presence is Presence.STALE for items in found.values() for item in items):  # else nobody asks
            drivers = self._interfaces()
            found = {t: [replace(i, interfaces=drivers.get(i.name, ())) for i in items] for t, items in found.items()}
        return {target: tuple(items) for target, items in found.items()}

    async def complete(
        self, found: Mapping[Target, tuple[Loaded, ...]], asked: Collection[Target]
    ) -> dict[Target, tuple[Loaded, ...]]:
        """Return what `read` found, with the network interfaces that are hidden from this process.

        A unit that has a network of its own sees them only by pid 1, and without CAP_SYS_PTRACE not even so; another
        unit is asked then. Where that fails, what is stale counts as in use. asked: targets that may be reloaded.
        """
        stale = any(item.presence is Presence.STALE for target in asked for item in found.get(target, ()))
        if not stale or self._sees_all():
            return dict(found)
        place = self.sysroot.network_interfaces[1]
        drivers: Optional[dict[str, set[str]]] = None
        with contextlib.suppress(Problem, OSError, ValueError):
            done = await run([*TRANSIENT_UNIT, "sh", "-c", SCRIPT, "sh", place], timeout=20)
            drivers = {}
            for name, flags, module in (line.split() for line in done.text.splitlines()):
                if int(flags, 16) & IFF_UP:
                    drivers.setdefault(module, set()).add(name)

        def add(item: Loaded) -> Loaded:
            if item.presence is not Presence.STALE:
                return item
            more = {UNSEEN} if drivers is None else drivers.get(item.name, set())
            return replace(item, interfaces=tuple(sorted({*item.interfaces, *more})))

        return {target: tuple(map(add, items)) for target, items in found.items()}

    def _sees_all(self) -> bool:
        """Tell whether this process sees the machine's network interfaces, or need not ask others."""
        if not SYSTEMD_RUNS.is_dir() or os.geteuid() != 0:
            return True
        try:
            os.listdir(self.sysroot.network_interfaces[0])
        except OSError:
            return False
        return True

    def _compare(self, name: str, path: Optional[Path], there: Mapping[str, tuple[int, tuple[str, ...]]]) -> Loaded:
        if name not in there:
            return Loaded(name, Presence.ABSENT)
        references, words = there[name]
        holders = tuple(sorted({*words} - {PERMANENT}))
        installed = self._installed(path) if path is not None else Identity()
        return Loaded(
            name,
            self._in_memory(name).compare(installed),
            holders=holders,
            users=max(0, references - len(holders)),
            permanent=references < 0 or PERMANENT in words,
        )

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(errors="replace").strip()
        except OSError:
            return ""

    def _modules(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Return name -> references and holders; -1 references where the kernel cannot unload anything."""
        found: dict[str, tuple[int, tuple[str, ...]]] = {}
        for line in self._read(self.sysroot.loaded_modules).splitlines():
            words = line.split()  # name, size, references, holders, state, address
            if len(words) >= 5 and words[4] == "Live":
                holders = tuple(word for word in words[3].split(",") if word and word != "-")
                found[words[0]] = (int(words[2]) if words[2].isdigit() else -1, holders)
        return found

    def _in_memory(self, name: str) -> Identity:
        directory = self.sysroot.loaded_module(name)
        build_id = ""
        with contextlib.suppress(OSError):
            build_id = (directory / "notes" / BUILD_ID).read_bytes().hex()
        return Identity(build_id, self._read(directory / "srcversion"))

    def _installed(self, path: Path) -> Identity:
        try:
            key = stat_signature(path)
            known = self._known.get(path)
            if not known or known[0] != key:
                known = self._known[path] = (key, read_identity(path.read_bytes()))
        except OSError:
            return Identity()
        return known[1]

    def _interfaces(self) -> dict[str, tuple[str, ...]]:
        """Return module -> the network interfaces that are up on its devices: they count as no reference."""
        found: dict[str, set[str]] = {}
        for directory in self.sysroot.network_interfaces:
            with contextlib.suppress(OSError):
                for name in os.listdir(directory):
                    with contextlib.suppress(OSError, ValueError):
                        module = os.readlink(directory / name / "device/driver/module").rpartition("/")[2]
                        if int(self._read(directory / name / "flags"), 16) & IFF_UP:
                            found.setdefault(module, set()).add(name)
        return {module: tuple(sorted(names)) for module, names in found.items()}


def read_identity(content: bytes) -> Identity:
    """Return the identity of an uncompressed object; an empty one where it is no ELF file."""
    try:
        sections = dict(_sections(content))
    except (struct.error, IndexError, ValueError, OverflowError):
        return Identity()
    said = dict(item.split(b"=", 1) for item in sections.get(".modinfo", b"").split(b"\0") if b"=" in item)
    srcversion = said.get(b"srcversion", b"").decode(errors="replace")
    return Identity(sections.get(BUILD_ID, b"").hex(), srcversion)


def _sections(content: bytes) -> Iterable[tuple[str, bytes]]:
    """Yield the sections of a 64-bit ELF file by name (elf(5): Elf64_Ehdr, Elf64_Shdr)."""
    if content[:5] != b"\x7fELF\x02":
        raise ValueError("no 64-bit ELF file")
    order = "<" if content[5] == 1 else ">"
    (start,) = struct.unpack_from(order + "Q", content, 40)  # e_shoff
    size, count, names = struct.unpack_from(order + "HHH", content, 58)  # e_shentsize, e_shnum, e_shstrndx
    headers = [struct.unpack_from(order + "IIQQQQ", content, start + size * n) for n in range(count)]
    base = headers[names][4]
    for name, _, _, _, offset, length in headers:
        end = content.index(b"\0", base + name)
        yield content[base + name : end].decode(errors="replace"), content[offset : offset + length]
