"""What the boot loader's and the guard's files of a root say, in one reading. Nothing is changed, or started.

Sources: as in bootloader; newc in cpio(5), and the magic numbers of the compressions that dracut(8) knows.
Must not: judge a kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Optional

from ..core.booting import GRUB, GRUB_CFG, SYSTEMD_BOOT, BootEntry, Booting, Hold
from ..core.errors import Problem
from ..core.fault import Fault
from ..core.grubenv import is_whole, parse
from ..core.sysroot import Sysroot
from ..system.files import list_names, read_own
from .bootloader import CONFIGURATIONS, GRUBENVS, PARTITIONS, BootReader, Entry

LARGEST_GUARD = 1 << 16  # bytes of a file of the guard's that are read
#: How an initramfs begins: cpio, or what it is compressed by.
BEGINNINGS = (
    b"070701", b"070702", b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b"\x04\x22\x4d\x18",
    b"BZh", b"\x89LZO", b"\x5d\0\0", b"\0\0\0\0",
)  # fmt: skip
PLUGIN = "05-kmodd.install"


class BootStateReader:
    """Reads what is known of booting one root."""

    def __init__(self, sysroot: Sysroot, boot: BootReader) -> None:
        self.sysroot = sysroot
        self.boot = boot

    def read(self, releases: Collection[str]) -> Booting:
        """Return what boots, as far as it can be read. releases: the installed kernels."""
        try:
            seen = self._grub(releases) if self.boot.has_grub() else self._others(releases)
        except (OSError, UnicodeDecodeError, Problem) as error:  # mostly: not readable by this user
            seen = Booting(unknown=f"the boot loader's files cannot be read: {error}")
        guards, masked = self._plugin()
        return replace(
            seen,
            guard=self._text(self.sysroot.guard),
            kept=self._text(self.sysroot.kept),
            held=self._held(),
            system=self._system(),
            here=self.sysroot.is_host,
            guards=guards,
            masked=masked,
        )

    # -- the boot loader -------------------------------------------------------------------------------------------
    def _grub(self, releases: Collection[str]) -> Booting:
        if not self.boot.uses_entries():
            return self._by_configuration()
        entries = self.boot.menu()
        if not entries:
            return self._by_configuration()
        env = next((path for path in GRUBENVS if self.sysroot.resolve(path).exists()), GRUBENVS[0])
        text = self.boot.text(env)
        variables = parse(text)
        wanted = self.boot.grub_default()
        saved = variables.get("saved_entry", "") if wanted == "saved" else wanted
        faults = [*self._damaged(env, text), *self._dangling(saved, entries, wanted == "saved")]
        once = variables.get("next_entry", "")
        if once and self._is_left(env):
            message = f"GRUB's environment has next_entry={once} still, which was for this boot or an earlier one"
            hint = f"grub2-editenv {env} unset next_entry; GRUB cannot write there (lvm, RAID or btrfs)"
            faults.append(Fault("oneshot-left", message, hint))
        return Booting(
            loader=GRUB,
            entries=tuple(self._told(entry, "/boot", releases) for entry in entries),
            default=self.boot.choose(entries).name,
            saved=saved,
            once=once,
            pinnable="saved_entry" if wanted == "saved" else "next_entry",
            variables=env,
            faults=tuple(faults),
            directories=("/boot/loader/entries",),
        )

    def _others(self, releases: Collection[str]) -> Booting:
        for partition in PARTITIONS:
            entries = self.boot.entries(partition, counts=True)
            if not entries or not self.boot.text(f"{partition}/loader/loader.conf"):
                continue
            chosen = self.boot.chosen()
            return Booting(
                loader=SYSTEMD_BOOT,
                entries=tuple(self._told(entry, partition, releases) for entry in entries),
                default=chosen.name if chosen else "",
                saved=self.boot.saved_pattern(partition),
                once=self.boot.variable("LoaderEntryOneShot"),
                directories=(f"{partition}/loader/entries",),
            )
        return self._by_configuration()

    def _by_configuration(self) -> Booting:
        """Return what a grub.cfg that names kernels itself comes to: what it boots is not told by any file."""
        found = next((path for path in CONFIGURATIONS if self.boot.text(path)), "")
        if not found:
            return Booting(unknown="no boot loader is known here whose entries are files")
        why = f"{found} names the kernels itself, and what a script boots cannot be determined"
        return Booting(loader=GRUB_CFG, unknown=why)

    def _damaged(self, env: str, text: str) -> list[Fault]:
        if not self.sysroot.resolve(env).exists() or is_whole(text):
            return []
        message = f"{env} is no whole environment block of GRUB, which then boots the entry of the highest version"
        return [Fault("grubenv-damaged", message, f"grub2-editenv {env} create; then set the default anew")]

    def _dangling(self, saved: str, entries: list[Entry], is_saved: bool) -> list[Fault]:
        known = {entry.name for entry in entries} | {entry.fields.get("title", "") for entry in entries}
        if not saved or saved in known or (saved.isdigit() and int(saved) < len(entries)):
            return []
        where = "saved_entry" if is_saved else "GRUB_DEFAULT"
        message = f"{where} is {saved}, of which there is no entry: GRUB boots the entry of the highest version"
        return [Fault("default-dangling", message, "grubby --set-default=/boot/vmlinuz-RELEASE")]

    def _is_left(self, env: str) -> bool:
        """Tell whether GRUB's environment is as it was before this boot, so that GRUB failed to take something back."""
        if not self.sysroot.is_host:
            return False
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = self.sysroot.processor_times.read_text().splitlines()
            began = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
            return self.sysroot.resolve(env).stat().st_mtime < began
        return False

    # -- an entry --------------------------------------------------------------------------------------------------
    def _told(self, entry: Entry, partition: str, releases: Collection[str]) -> BootEntry:
        initrds = [word for value in entry.initrds for word in value.split() if "$" not in word]
        image = entry.fields.get("linux", "")
        places = [self._place(partition, name) for name in (image, *initrds) if name]
        fault = next((found for place in places if (found := self._lack(entry, place, place == places[0]))), None)
        return BootEntry(
            name=entry.name,
            file=entry.file,
            title=entry.fields.get("title", ""),
            release=entry.release(releases),
            image=places[0] if image else "",
            initrds=tuple(places[1 if image else 0 :]),
            fault=fault,
            left=entry.left,
        )

    def _place(self, partition: str, name: str) -> str:
        """Return the in-root path of a file that an entry names: from its partition's top, or from the root's."""
        name = "/" + name.lstrip("/")
        below = f"{partition}{name}"
        return name if name.startswith(f"{partition}/") and not self._exists(below) else below

    def _exists(self, path: str) -> bool:
        return self.sysroot.resolve(path).exists()

    def _lack(self, entry: Entry, path: str, is_image: bool) -> Optional[Fault]:
        """Return what keeps a file of an entry from being booted, as far as its size and beginning tell."""
        again = "kmoddctl boot release RELEASE --force writes it anew"
        try:
            start = self._beginning(path)
        except PermissionError:
            return None  # only root may read an initramfs
        except OSError as error:
            text = f"the entry {entry.name} names {path}, which cannot be read: {error.strerror}"
            return Fault("entry-broken", text, again)
        if not start:
            return Fault("entry-broken", f"the entry {entry.name} names {path}, which is empty", again)
        if not is_image and not start.startswith(BEGINNINGS):
            return Fault("entry-broken", f"{path}, which the entry {entry.name} names, is no initramfs", again)
        return None

    def _beginning(self, path: str) -> bytes:
        """Return the first bytes of a plain file. Raises OSError."""
        descriptor = os.open(self.sysroot.resolve(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(22, "is not a plain file", path)
            return os.read(descriptor, 8)
        finally:
            os.close(descriptor)

    # -- the guard -------------------------------------------------------------------------------------------------
    def _text(self, path: Path) -> Optional[str]:
        with contextlib.suppress(OSError):
            return read_own(path, LARGEST_GUARD).decode(errors="replace")
        return None

    def _held(self) -> dict[str, Hold]:
        """Return which kernels are held: each has a file of its name, empty until its release begins."""
        found: dict[str, Hold] = {}
        with contextlib.suppress(OSError, Problem):
            for name in list_names(self.sysroot.held):
                if not name.startswith("."):
                    found[name] = read_hold(self.sysroot.held / name)
        return found

    def _system(self) -> str:
        """Return ID and major version of os-release(5), by which a release upgrade is distinguished from an update."""
        values = {"ID": "", "VERSION_ID": ""}
        with contextlib.suppress(OSError, Problem):
            for line in self.boot.text("/etc/os-release").splitlines():
                key, _, value = line.partition("=")
                if key in values:
                    values[key] = value.strip().strip("\"'")
        return f"{values['ID']} {values['VERSION_ID'].partition('.')[0]}".strip()

    def _plugin(self) -> tuple[bool, bool]:
        """Tell whether kernel-install(8) runs the guard's plugin here, and whether an administrator masked it."""
        ours, theirs = self.sysroot.install_plugins
        masked = os.path.lexists(theirs / PLUGIN) and not os.access(theirs / PLUGIN, os.X_OK)
        masked = masked or ((theirs / PLUGIN).is_symlink() and os.readlink(theirs / PLUGIN) == os.devnull)
        return self.sysroot.is_host and (ours / PLUGIN).exists() and not masked, masked


def read_hold(path: Path) -> Hold:
    """Return what the file of a held kernel says; the plugin leaves it empty, and its time is when it was held."""
    since = 0.0
    with contextlib.suppress(OSError):
        since = path.lstat().st_mtime
        text = read_own(path, LARGEST_GUARD)
        with contextlib.suppress(ValueError, TypeError, LookupError):
            said = json.loads(text)
            return Hold(float(said["since"]), True, str(said["was"]))
    return Hold(since)
