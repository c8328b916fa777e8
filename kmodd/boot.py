"""Which installed kernel boots next, as the boot loader's own files say; nothing is started or guessed.

Sources: blscfg.c of the EL and Fedora grub2 (order of the entries, what saved_entry may be), its 00_header.in
(next_entry before saved_entry), the Boot Loader Specification (fields, file names, order), loader.conf(5) and "The Boot
Loader Interface" of systemd. Not seen: what a person chooses in the menu, a grub.cfg that names kernels itself (as
Debian's does), greenboot's boot counting, other boot loaders. Must not: change the choice.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from . import versions
from .paths import Sysroot

#: Where systemd-boot's partitions are mounted; the first that has loader.conf counts.
PARTITIONS = ("/boot", "/efi", "/boot/efi")
VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # of the Boot Loader Interface's EFI variables
_COUNTED = re.compile(r"(.+)\+(\d+)(?:-\d+)?")  # NAME+LEFT-DONE, automatic boot assessment


@dataclass(frozen=True)
class Entry:
    """A boot loader entry; name is its file's without .conf and boot counts."""

    name: str
    fields: dict[str, str]
    exhausted: bool = False  # no tries left

    def release(self, releases: Collection[str]) -> str:
        """Return which of some kernel releases it boots, "" where none of them."""
        if self.fields.get("version") in releases:
            return self.fields["version"]
        parts = self.fields.get("linux", "").split("/")
        return next((r for r in sorted(releases) if r in parts or parts[-1] == f"vmlinuz-{r}"), "")


class BootReader:
    """Reads the boot loader's files of one root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot

    def default(self, releases: Collection[str]) -> Optional[str]:
        """Return the release that boots next, "" where it is none of these, None where it cannot be told."""
        try:
            entry = self._grub() if self._has_grub() else self._systemd_boot()
        except (OSError, UnicodeDecodeError):  # mostly: not readable by this user
            return None
        return entry.release(releases) if entry else None

    def _read(self, path: str) -> str:
        """Return a file's text, "" where there is none. Raises OSError."""
        try:
            return self.sysroot.resolve(path).read_text(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _entries(self, partition: str, counts: bool = False) -> list[Entry]:
        """Return the entries of a boot partition, unordered. counts: their names may hold those. Raises OSError."""
        directory = self.sysroot.resolve(f"{partition}/loader/entries")
        found = []
        for path in sorted(directory.iterdir()) if directory.exists() else []:
            if path.suffix != ".conf" or path.name.startswith("."):
                continue
            counted = _COUNTED.fullmatch(path.stem) if counts else None
            name, exhausted = (counted[1], int(counted[2]) == 0) if counted else (path.stem, False)
            found.append(Entry(name, _pairs(path.read_text(errors="replace")), exhausted))
        return found

    # -- grub ------------------------------------------------------------------------------------------------------
    def _has_grub(self) -> bool:
        return self.sysroot.resolve("/boot/grub2").is_dir()

    def _grub(self) -> Optional[Entry]:
        settings = _assignments(self._read("/etc/default/grub"))
        if settings.get("GRUB_ENABLE_BLSCFG", "true").lower() != "true":
            return None
        entries = self._entries("/boot")
        if not entries:
            return None
        entries.sort(key=functools.cmp_to_key(lambda a, b: -_compare_names(a.name, b.name)))
        variables = _assignments(self._read("/boot/grub2/grubenv"))
        chosen = settings.get("GRUB_DEFAULT", "saved")
        if chosen == "saved":
            chosen = variables.get("saved_entry", "")
        return _choose(variables.get("next_entry") or chosen, entries)

    # -- systemd-boot ----------------------------------------------------------------------------------------------
    def _systemd_boot(self) -> Optional[Entry]:
        for partition in PARTITIONS:
            text = self._read(f"{partition}/loader/loader.conf")
            entries = self._entries(partition, counts=True)
            if not text or not entries:
                continue
            entries.sort(key=functools.cmp_to_key(_compare_entries))
            once, saved = self._variable("LoaderEntryOneShot"), self._variable("LoaderEntryDefault")
            for pattern in (once, saved, _pairs(text).get("default", "")):
                found = _match(self._variable("LoaderEntryLastBooted") if pattern == "@saved" else pattern, entries)
                if found:
                    return found
            return entries[0]
        return None

    def _variable(self, name: str) -> str:
        """Return an EFI variable of this machine: four bytes of attributes, then UTF-16 (efivarfs)."""
        if not self.sysroot.is_host:
            return ""
        try:
            data = (self.sysroot.efivars / f"{name}-{VENDOR}").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        return data[4:].decode("utf-16-le").rstrip("\0")


def _pairs(text: str) -> dict[str, str]:
    """Return lines of a key, white space and a value; the first of equal keys counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, *value = line.split(None, 1) if line.strip() else [""]
        if value and not key.startswith("#"):
            found.setdefault(key, value[0].strip())
    return found


def _assignments(text: str) -> dict[str, str]:
    """Return the NAME=VALUE lines of a grubenv or of /etc/default/grub; the last counts."""
    found = re.findall(r"^\s*(\w+)=(.*)$", text, re.MULTILINE)
    return {name: value.strip().strip("\"'") for name, value in found}


def _choose(chosen: str, entries: Sequence[Entry]) -> Optional[Entry]:
    """Return the entry that grub takes by a name, title or index; the first where it finds none."""
    tests: tuple[Callable[[int, Entry], bool], ...] = (
        lambda _, entry: entry.name == chosen,
        lambda _, entry: entry.fields.get("title") == chosen,
        lambda index, _: chosen == str(index),
    )
    for test in tests:
        for index, entry in enumerate(entries):
            if test(index, entry):
                return entry
    return entries[0]


def _split(name: str) -> tuple[str, str, str]:
    """Return name, version and release of an entry's name, as blscfg takes it apart."""
    parts = name.rsplit("-", 2)
    return (parts[0], *parts[1:], "", "")[:3]  # type: ignore[return-value]


def _compare_names(left: str, right: str) -> int:
    pairs = zip(_split(left), _split(right))
    return next((order for a, b in pairs if (order := versions.compare(a, b))), 0)


def _compare_entries(left: Entry, right: Entry) -> int:
    """Order entries as systemd-boot's menu does, the default first (Boot Loader Specification, "Sorting")."""
    if left.exhausted != right.exhausted:
        return 1 if left.exhausted else -1
    a, b = left.fields, right.fields
    if ("sort-key" in a) != ("sort-key" in b):
        return -1 if "sort-key" in a else 1
    if "sort-key" in a:
        for key in ("sort-key", "machine-id"):
            if a.get(key, "") != b.get(key, ""):
                return -1 if a.get(key, "") < b.get(key, "") else 1
        order = versions.compare(b.get("version", ""), a.get("version", ""))
        if order:
            return order
    return versions.compare(right.name, left.name)


def _match(pattern: str, entries: Sequence[Entry]) -> Optional[Entry]:
    """Return the first entry whose file name a glob matches; .conf may be left out."""
    names = (pattern, pattern[: -len(".conf")] if pattern.endswith(".conf") else pattern)
    return next((e for e in entries if pattern and any(fnmatch.fnmatchcase(e.name, p) for p in names)), None)
