"""What the boot loader and the guard of it are set to: one reading of them, and what follows for each kernel. Pure.

Held: installed, and kept from the boot loader until its required modules are ready. Fit: ready, bootable, and with a
whole image, so that the guard may fall back on it. Proven: fit, and booted once with its required modules live.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

from . import versions
from .fault import Fault

GRUB, GRUB_CFG, SYSTEMD_BOOT = "grub-bls", "grub-cfg", "systemd-boot"


@dataclass(frozen=True)
class BootEntry:
    """A boot loader entry. Paths are in-root.

    release: the installed kernel that it boots, "" for none of them. image and initrds: "" and none where they cannot
    be determined. left: tries that are left (automatic boot assessment), None where they are not counted.
    """

    name: str
    file: str = ""
    title: str = ""
    release: str = ""
    image: str = ""
    initrds: tuple[str, ...] = ()
    fault: Optional[Fault] = None  # why it would not boot
    left: Optional[int] = None


@dataclass(frozen=True)
class Hold:
    """That a kernel is held. since: seconds since the epoch.

    begun: its release began and did not end. was: the default that GRUB kept when it did.
    """

    since: float = 0.0
    begun: bool = False
    was: str = ""


@dataclass(frozen=True)
class Booting:
    """What boots, as the boot loader's files say, and what the guard's own files hold.

    entries: in the order of the menu. None where they cannot be read or, as with a grub.cfg that names kernels itself,
    do not settle what boots; then unknown tells why.
    """

    loader: str = ""  # one of the above, "" for none that is known
    unknown: str = ""
    entries: Optional[tuple[BootEntry, ...]] = None
    default: str = ""  # name of the entry that boots next, "" where that is none or cannot be determined
    saved: str = ""  # the default that the boot loader keeps: a name, title, index or pattern
    once: str = ""  # what only the next boot takes
    pinnable: str = ""  # GRUB's variable by which a default is set, "" where none is
    variables: str = ""  # in-root path of GRUB's environment block
    faults: tuple[Fault, ...] = ()
    guard: Optional[str] = None  # what the guard file says, None where there is none
    kept: Optional[str] = None  # what the file for dnf's plugin says, None where there is none
    held: Mapping[str, Hold] = field(default_factory=dict)  # by release
    live: Mapping[str, float] = field(default_factory=dict)  # release -> when it ran with its required modules live
    system: str = ""  # ID and major version of the distribution
    directories: tuple[str, ...] = ()  # in-root paths of where entries are
    here: bool = False  # this is the running system
    guards: bool = False  # and kmodd's plugin is where kernel-install(8) finds it
    masked: bool = False  # an administrator has the plugin switched off

    def of(self, release: str) -> Optional[BootEntry]:
        """Return the entry by which a kernel boots: the one that boots next, else the first that would boot."""
        mine = [entry for entry in self.entries or () if entry.release == release]
        ranked = sorted(mine, key=lambda entry: (entry.name != self.default, entry.fault is not None))
        return ranked[0] if ranked else None

    def bootable(self, release: str) -> Optional[bool]:
        """Tell whether a kernel has an entry; None where that cannot be determined."""
        return None if self.entries is None else self.of(release) is not None

    @property
    def boots_next(self) -> str:
        """Return the installed kernel that boots next, "" where that is none of them or cannot be determined."""
        return next((entry.release for entry in self.entries or () if entry.name == self.default), "")


@dataclass(frozen=True)
class Standing:
    """How a kernel stands with the boot loader. why: what keeps it from being fit, "" where it is."""

    release: str
    bootable: Optional[bool] = None
    held: Optional[Hold] = None
    fit: bool = False
    proven: bool = False
    why: str = ""


def newest(releases: list[str]) -> str:
    """Return the newest of some kernel releases, "" where there are none."""
    return max(releases, key=functools.cmp_to_key(versions.compare), default="")
