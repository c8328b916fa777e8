"""Which installed kernel boots next, and with which command line each would, as the boot loader's own files say.

Nothing is started or guessed: where the files do not settle it, that is the answer.

Sources: blscfg.c of the EL and Fedora grub2 (order of the entries, what saved_entry may be), its 00_header.in
(next_entry before saved_entry), the Boot Loader Specification (fields, file names, order), loader.conf(5) and "The Boot
Loader Interface" of systemd. Not seen: what a person chooses in the menu, a grub.cfg that names kernels itself (as
Debian's does), greenboot's boot counting, other boot loaders. Must not: change the choice.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import os
import re
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from ..core import grubscript, versions
from ..core.grubenv import parse
from ..core.sysroot import Sysroot

#: Where systemd-boot's partitions are mounted; the first that has loader.conf counts.
PARTITIONS = ("/boot", "/efi", "/boot/efi")
VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # of the Boot Loader Interface's EFI variables
#: Where kernel-install takes the command line of an entry to come from.
TO_COME = ("/etc/kernel/cmdline", "/usr/lib/kernel/cmdline")
#: What sets variables of GRUB beside its grubenv; the first two also name kernels, where there are no entries.
CONFIGURATIONS = ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg")
SNIPPETS = ("/boot/grub2/custom.cfg", "/boot/grub2/user.cfg", "/boot/grub/custom.cfg")
GRUBENVS = ("/boot/grub2/grubenv", "/boot/grub/grubenv")
MOST = 500  # entries that are read
LARGEST = 1 << 20  # bytes of a file of the boot loader's that are read
_COUNTED = re.compile(r"(.+)\+(\d+)(?:-\d+)?")  # NAME+LEFT-DONE, automatic boot assessment


@dataclass(frozen=True)
class Entry:
    """A boot loader entry; name is its file's without .conf and boot counts."""

    name: str
    fields: dict[str, str]
    exhausted: bool = False  # no tries left
    options: str = ""  # all lines of them, joined
    file: str = ""  # in-root
    initrds: tuple[str, ...] = ()  # what its lines of that say
    left: Optional[int] = None  # tries, where they are counted

    def release(self, releases: Collection[str]) -> str:
        """Return which of some kernel releases it boots, "" where none of them."""
        if self.fields.get("version") in releases:
            return self.fields["version"]
        parts = self.fields.get("linux", "").split("/")
        return next((r for r in sorted(releases) if r in parts or parts[-1] == f"vmlinuz-{r}"), "")


@dataclass(frozen=True)
class CommandLines:
    """The command lines that a kernel may get: one, or those between which the files do not settle.

    unknown: why there may be others, "" where these are all.
    """

    texts: tuple[str, ...] = ("",)
    unknown: str = ""


class BootReader:
    """Reads the boot loader's files of one root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot

    def default(self, releases: Collection[str]) -> Optional[str]:
        """Return the release that boots next, "" where it is none of these, None where it cannot be determined."""
        try:
            entry = self.chosen()
        except (OSError, UnicodeDecodeError):  # mostly: not readable by this user
            return None
        return entry.release(releases) if entry else None

    def chosen(self) -> Optional[Entry]:
        """Return the entry that boots next, None where that is not known. Raises OSError and UnicodeDecodeError."""
        return self._grub() if self.has_grub() else self._systemd_boot()

    def text(self, path: str) -> str:
        """Return a file's text, "" where there is none. Raises OSError."""
        try:
            descriptor = os.open(self.sysroot.resolve(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return ""  # a pipe would be waited for
                return stream.read(LARGEST).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    # -- command lines ---------------------------------------------------------------------------------------------
    def command_lines(self, release: str, running: bool = False) -> CommandLines:
        """Return the kernel command lines that a release may get, of the running kernel the one that it has.

        The entry that boots next settles between several of one release. A release that has no entry yet will get
        what kernel-install(8) would write.
        """
        try:
            if running:
                return CommandLines((self.text("/proc/cmdline").strip(),))
            return self._of_entries(release) or self._of_grub_cfg(release) or CommandLines((self._to_come(),))
        except (OSError, UnicodeDecodeError) as error:
            return CommandLines(unknown=f"the boot loader's files cannot be read: {error}")

    def _of_entries(self, release: str) -> Optional[CommandLines]:
        grub = self.has_grub()
        if grub and not self.uses_entries():
            return None
        partitions = ("/boot",) if grub else PARTITIONS
        found = [e for p in partitions for e in self.entries(p, counts=not grub) if e.release([release])]
        chosen = self.chosen()
        if chosen is not None and chosen.release([release]):
            found = [chosen]
        if not found:
            return None
        if not grub:
            return CommandLines(tuple(dict.fromkeys(entry.options for entry in found)))
        return self._resolved([entry.options for entry in found], fields=True)

    def _of_grub_cfg(self, release: str) -> Optional[CommandLines]:
        """Return what a grub.cfg that names kernels itself says; it does not say which of several entries boots."""
        names = {f"vmlinuz-{release}", f"vmlinux-{release}", f"kernel-{release}"}
        text = "".join(self.text(path) for path in CONFIGURATIONS)
        found = [item.rest for item in grubscript.loaded(text) if item.image.rpartition("/")[2] in names]
        return self._resolved(found) if found else None

    def _resolved(self, lines: Collection[str], fields: bool = False) -> CommandLines:
        """Return what GRUB makes of the arguments of a kernel, its variables replaced. Raises OSError.

        fields: they are those of boot entries, not of a script.
        """
        variables, unclear = self._variables(set().union(*(grubscript.used(line) for line in lines)))
        texts, unknown = [], f"grub.cfg gives {' and '.join(sorted(unclear))} more than one value" if unclear else ""
        for line in lines:
            try:
                script = grubscript.substitute(line, variables) if fields else line
                texts.append(grubscript.command_line(script, variables))
            except grubscript.Unclear as error:
                texts.append(line)
                unknown = unknown or f"what GRUB makes of {line!r} cannot be determined: {error}"
        return CommandLines(tuple(dict.fromkeys(texts)), unknown)

    def _variables(self, names: set[str]) -> tuple[dict[str, str], set[str]]:
        """Return the values of some of GRUB's variables, and those of which there is more than one. Raises OSError."""
        values, unclear = {}, set()
        if names:
            set_by = grubscript.assignments("\n".join(self.text(path) for path in (*CONFIGURATIONS, *SNIPPETS)))
            for name in names & set_by.keys():
                written = sorted(set_by[name])
                with contextlib.suppress(grubscript.Unclear):
                    values[name] = " ".join(grubscript.words(written[-1], {}))
                if len(written) > 1 or grubscript.used(written[-1]) or name not in values:
                    unclear.add(name)
            for path in GRUBENVS:
                saved = parse(self.text(path))
                for name in names & saved.keys():
                    values[name] = saved[name]
                    unclear.discard(name)
        return values, unclear

    def _to_come(self) -> str:
        """Return what kernel-install would give an entry: its configuration, else what the running kernel has."""
        for path in TO_COME:
            text = self.text(path)
            if text.strip():
                return " ".join(text.split())
        if not self.sysroot.is_host:
            return ""
        words = self.text("/proc/cmdline").split()
        return " ".join(word for word in words if not word.startswith(("BOOT_IMAGE=", "initrd=")))

    def entries(self, partition: str, counts: bool = False) -> list[Entry]:
        """Return the entries of a boot partition, unordered. counts: their names may hold those. Raises OSError."""
        directory = self.sysroot.resolve(f"{partition}/loader/entries")
        found = []
        for path in sorted(directory.iterdir()) if directory.exists() else []:
            if path.suffix != ".conf" or path.name.startswith("."):
                continue
            counted = _COUNTED.fullmatch(path.stem) if counts else None
            name, exhausted = (counted[1], int(counted[2]) == 0) if counted else (path.stem, False)
            text = self.text(self.sysroot.inside(path))
            options, left = " ".join(_values(text, "options")), int(counted[2]) if counted else None
            inside, initrds = self.sysroot.inside(path), tuple(_values(text, "initrd"))
            found.append(Entry(name, _pairs(text), exhausted, options, inside, initrds, left))
            if len(found) == MOST:
                break
        return found

    # -- grub ------------------------------------------------------------------------------------------------------
    def has_grub(self) -> bool:
        return self.sysroot.resolve("/boot/grub2").is_dir()

    def uses_entries(self) -> bool:
        settings = _assignments(self.text("/etc/default/grub"))
        return settings.get("GRUB_ENABLE_BLSCFG", "true").lower() == "true"

    def _grub(self) -> Optional[Entry]:
        entries = self.menu() if self.uses_entries() else []
        return self.choose(entries) if entries else None

    def choose(self, entries: Sequence[Entry]) -> Entry:
        """Return which entry of GRUB's menu, which is not empty, boots next. Raises OSError."""
        variables = _assignments(self.text("/boot/grub2/grubenv"))
        chosen = self.grub_default()
        if chosen == "saved":
            chosen = variables.get("saved_entry", "")
        return _choose(variables.get("next_entry") or chosen, entries)

    def menu(self) -> list[Entry]:
        """Return the entries of /boot in the order of GRUB's menu. Raises OSError."""
        order = functools.cmp_to_key(_compare_names)
        return sorted(self.entries("/boot"), key=lambda entry: order(entry.name), reverse=True)

    def grub_default(self) -> str:
        """Return which entry is the default by GRUB's settings: saved, a name, title or index. Raises OSError."""
        return _assignments(self.text("/etc/default/grub")).get("GRUB_DEFAULT", "saved")

    # -- systemd-boot ----------------------------------------------------------------------------------------------
    def _systemd_boot(self) -> Optional[Entry]:
        for partition in PARTITIONS:
            text = self.text(f"{partition}/loader/loader.conf")
            entries = self.entries(partition, counts=True)
            if not text or not entries:
                continue
            entries.sort(key=functools.cmp_to_key(_compare_entries))
            for pattern in (self.variable("LoaderEntryOneShot"), *self._defaults(partition)):
                found = _match(self.variable("LoaderEntryLastBooted") if pattern == "@saved" else pattern, entries)
                if found:
                    return found
            return entries[0]
        return None

    def _defaults(self, partition: str) -> tuple[str, str]:
        configured = _pairs(self.text(f"{partition}/loader/loader.conf")).get("default", "")
        return self.variable("LoaderEntryDefault"), configured

    def saved_pattern(self, partition: str) -> str:
        """Return the pattern by which systemd-boot chooses its default, "" where it has none. Raises OSError."""
        return next(filter(None, self._defaults(partition)), "")

    def variable(self, name: str) -> str:
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


def _values(text: str, key: str) -> list[str]:
    """Return the values of all lines of a key."""
    lines = (line.split(None, 1) for line in text.splitlines())
    return [words[1].strip() for words in lines if len(words) == 2 and words[0] == key]


def _assignments(text: str) -> dict[str, str]:
    """Return the NAME=VALUE lines of a grubenv or of /etc/default/grub; the last counts."""
    found = re.findall(r"^\s*(\w+)=(.*)$", text, re.MULTILINE)
    return {name: value.strip().strip("\"'") for name, value in found}


def _choose(chosen: str, entries: Sequence[Entry]) -> Entry:
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
