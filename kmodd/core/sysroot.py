"""The only module that knows absolute paths.

A Sysroot maps paths as they are written in configuration, links and rpm packages (absolute, seen from inside the
root) to paths of this host, resolving symbolic links inside the root as chroot(2) would, without entering it.
Must not: create, change or delete anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .errors import Problem

SOURCE_LINKS = ("build", "source")  # of a kernel's directory; depmod passes them over
MAX_LINKS = 40  # as the kernel's own limit, MAXSYMLINKS in include/linux/namei.h

#: Everything depmod(8) writes; rpm owns them as %ghost, so only a kernel that is gone leaves them to us.
DEPMOD_OUTPUTS = frozenset(
    "modules." + name
    for name in (
        "dep", "dep.bin", "alias", "alias.bin", "symbols", "symbols.bin", "softdep", "weakdep", "devname",
        "builtin.bin", "builtin.alias.bin",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Sysroot:
    """One root directory, "/" for the running system, and the places in it that kmodd knows."""

    root: Path = Path("/")

    @classmethod
    def at(cls, path: str) -> Sysroot:
        """Return the Sysroot of an existing directory; raises Problem root-missing otherwise."""
        root = Path(path).resolve()
        if not root.is_dir():
            raise Problem("root-missing", f"{path} is not a directory", "give an existing directory to --root")
        return cls(root)

    @property
    def is_host(self) -> bool:
        """Tell whether this is the running system itself."""
        return self.root == Path("/")

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        """Return the host path of an absolute in-root path, all links followed inside the root.

        A missing last part is not an error. Raises Problem symlink-loop.
        """
        return self._follow([], path)

    def below(self, directory: Path, *parts: str) -> Path:
        """Return the host path of something below a directory that is resolved already, likewise.

        Every part may be a link, to wherever in the root it leads. Raises Problem symlink-loop.
        """
        return self._follow(self.inside(directory).split("/")[1:], os.path.join(*parts))

    def entry(self, path: str | os.PathLike[str]) -> Path:
        """Return the host path of an absolute in-root path, the last part of which is not followed if it is a link.

        It is for what is to be deleted or replaced. Raises Problem symlink-loop.
        """
        place = Path(path)
        return self.resolve(place.parent) / place.name

    def find_astray(self, directory: Path) -> Optional[Path]:
        """Return what of a kernel's directory, or of its extra/, is a link that leads out; None on the host.

        kmod's tools know of no root there: they follow links as the kernel does. The directory is one that is resolved.
        Links to plain files that kmodd alone reads, such as symvers.gz, do not count, nor do those to sources.
        Raises OSError and Problem symlink-loop.
        """
        if self.is_host:
            return None
        for place in (directory, directory / "extra"):
            for entry in sorted(os.scandir(place), key=lambda e: e.name) if place.is_dir() else ():
                if not entry.is_symlink() or entry.name in SOURCE_LINKS:
                    continue
                path, meant = Path(entry.path), self.below(place, entry.name)
                read = entry.name.startswith("modules.") or entry.name == "extra" or meant.is_dir() or path.is_dir()
                if read and os.path.realpath(path) != str(meant):
                    return path
        return None

    def _follow(self, current: list[str], path: str | os.PathLike[str]) -> Path:
        """Return the host path of a path that begins where the parts in `current` lead, all links followed.

        Plain strings: a pass over many modules asks for thousands of paths.
        """
        top = str(self.root).rstrip("/")
        pending = os.fspath(path).split("/")[::-1]
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                current[-1:] = []
                continue
            try:
                link = os.readlink("/".join((top, *current, part)))
            except OSError:
                current.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise Problem("symlink-loop", f"{path}: too many levels of symbolic links", path=str(path))
            if link.startswith("/"):
                current = []
            pending += link.split("/")[::-1]
        return Path("/".join((top, *current)) or "/")

    def inside(self, path: Path) -> str:
        """Return the absolute path, as seen from inside the root, of a host path below it."""
        return "/" + str(path.relative_to(self.root)) if path != self.root else "/"

    # -- kernels ---------------------------------------------------------------------------------------------------
    @property
    def modules(self) -> Path:
        return self.resolve("/lib/modules")

    def kernel(self, release: str) -> Path:
        return self.below(self.modules, release)

    def extra(self, release: str, module: str) -> Path:
        return self.below(self.modules, release, "extra", module)

    @property
    def kernel_trees(self) -> Path:
        return self.resolve("/usr/src/kernels")

    # -- configuration ---------------------------------------------------------------------------------------------
    @property
    def configuration(self) -> Path:
        return self.resolve("/etc/kmodd/kmodd.toml")

    @property
    def registries(self) -> tuple[Path, Path]:
        """Return the module file directories, the one that wins first."""
        return self.resolve("/etc/kmodd/modules.d"), self.resolve("/usr/lib/kmodd/modules.d")

    @property
    def dkms_overrides(self) -> Path:
        return self.resolve("/etc/dkms")

    @property
    def keys(self) -> Path:
        return self.resolve("/etc/kmodd/keys")

    def dropin(self, kind: str, module: str) -> Path:
        """Return the path of a generated file, as entry does; kind is modules-load, modprobe or depmod."""
        return self.dropin_directory(kind) / f"kmodd-{module}.conf"

    def dropin_directory(self, kind: str) -> Path:
        return self.resolve(f"/etc/{kind}.d")

    @property
    def depmod_directories(self) -> list[Path]:
        """Return where depmod's configuration is, the directory that wins first."""
        names = ("/etc/depmod.d", "/run/depmod.d", "/usr/local/lib/depmod.d", "/usr/lib/depmod.d")
        return [self.resolve(name) for name in names]

    # -- state -----------------------------------------------------------------------------------------------------
    @property
    def state(self) -> Path:
        return self.resolve("/var/lib/kmodd")

    @property
    def dkms_copies(self) -> Path:
        """Return where objects that DKMS had installed are kept: below it, release and path."""
        return self.resolve("/var/lib/kmodd/dkms")

    @property
    def cache(self) -> Path:
        return self.resolve("/var/cache/kmodd")

    @property
    def scratch(self) -> Path:
        return self.resolve("/var/cache/kmodd/build")

    @property
    def kernel_sources(self) -> Path:
        return self.resolve("/var/cache/kmodd/kernel-source")

    @property
    def logs(self) -> Path:
        return self.resolve("/var/log/kmodd")

    def log_directory(self, module: str, release: str) -> Path:
        """Return where the logs of a target's builds are."""
        return self.below(self.logs, module, release)

    @property
    def groups(self) -> Path:
        return self.resolve("/etc/group")

    @property
    def runtime(self) -> Path:
        return self.resolve("/run/kmodd")

    @property
    def ostree(self) -> Path:
        """Return the file that ostree makes when it boots a deployment (ostree-prepare-root(1))."""
        return self.resolve("/run/ostree-booted")

    @property
    def lock(self) -> Path:
        return self.resolve("/var/lib/kmodd/lock")

    @property
    def progress(self) -> Path:
        return self.runtime / "progress.json"

    @property
    def ring(self) -> Path:
        """Return the file that a package's trigger writes to so that the daemon makes a pass."""
        return self.runtime / "ring"

    @property
    def guard(self) -> Path:
        """Return the file that tells kernel-install's plugin whether a new kernel is to be held."""
        return self.resolve("/var/lib/kmodd/boot") / "guard"

    @property
    def kept(self) -> Path:
        """Return the file that tells dnf's plugin which kernel is to stay installed."""
        return self.resolve("/var/lib/kmodd/boot") / "dnf.json"

    @property
    def held(self) -> Path:
        """Return the directory that has a file for each kernel that is held."""
        return self.resolve("/var/lib/kmodd/boot/held")

    @property
    def releasing(self) -> Path:
        """Return the file that is there while a kernel is released."""
        return self.runtime / "releasing"

    @property
    def hurry(self) -> Path:
        """Return the file that ends the waiting of a reboot."""
        return self.runtime / "hurry"

    @property
    def failed(self) -> Path:
        """Return the file that is there when kmodd.service failed and has not started since."""
        return self.runtime / "failed"

    @property
    def motd(self) -> Path:
        return self.resolve("/run/motd.d") / "kmodd"

    @property
    def socket(self) -> Path:
        return self.runtime / "io.kmodd.Manager"

    # -- rpm -------------------------------------------------------------------------------------------------------
    @property
    def rpm_database(self) -> str:
        """Return the in-root path of the rpm database: EL10 and Fedora, else EL8 and EL9.

        Chosen by what is there, not by asking rpm: the macro speaks of the host, not of the root, and Debian's
        rpm puts it into the user's home.
        """
        for path in ("/usr/lib/sysimage/rpm", "/var/lib/rpm"):
            where = self.resolve(path)
            if any((where / name).exists() for name in ("rpmdb.sqlite", "Packages", "Packages.db")):
                return path
        return "/var/lib/rpm"

    @property
    def rpm_lock(self) -> Path:
        return self.resolve(self.rpm_database) / ".rpm.lock"

    # -- the running kernel, where the root is the booted one --------------------------------------------------------
    @property
    def loaded_modules(self) -> Path:
        return self.resolve("/proc/modules")

    def loaded_module(self, name: str) -> Path:
        return self.resolve("/sys/module") / name

    @property
    def network_interfaces(self) -> tuple[Path, Path]:
        """Return the directory of network interfaces as pid 1 sees it, and as kmodd does, in a network of its own."""
        return self.root / "proc/1/root/sys/class/net", self.resolve("/sys/class/net")

    @property
    def boot_id(self) -> Path:
        return self.resolve("/proc/sys/kernel/random/boot_id")

    @property
    def processor_times(self) -> Path:
        return self.resolve("/proc/stat")

    # -- the boot loader -------------------------------------------------------------------------------------------
    @property
    def boot(self) -> Path:
        return self.resolve("/boot")

    @property
    def boot_entries(self) -> Path:
        return self.resolve("/boot/loader/entries")

    @property
    def install_plugins(self) -> tuple[Path, Path]:
        """Return where packages' plugins of kernel-install(8) are, and where administrators override them."""
        return self.resolve("/usr/lib/kernel/install.d"), self.resolve("/etc/kernel/install.d")

    # -- the host's tools, never the root's ------------------------------------------------------------------------
    @property
    def efivars(self) -> Path:
        return self.resolve("/sys/firmware/efi/efivars")


#: Where programs are searched; the environment's PATH is not trusted by a root daemon.
PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: The processes of this host: proc(5).
PROCESSES = Path("/proc")

#: Where everybody sees what is said at a shutdown.
CONSOLE = Path("/dev/console")

#: What is mounted where, as this process sees it: proc(5).
MOUNTS = Path("/proc/self/mounts")
#: How likely a process is killed when memory runs out: proc(5).
OOM_SCORE = Path("/proc/self/oom_score_adj")
#: The descriptors that a process has open.
OPEN_FILES = Path("/proc/self/fd")

#: There where the kernel filters system calls: seccomp(2).
SECCOMP = Path("/proc/sys/kernel/seccomp/actions_avail")

#: Where the journal receives native entries.
JOURNAL_SOCKET = "/run/systemd/journal/socket"

#: gcc toolsets of the EL family (Software Collections).
TOOLSETS = "/opt/rh"

#: rpm's own configuration on this host, such as %dist on EL8.
RPM_CONFIGURATION = Path("/etc/rpm")

#: There where systemd is the running system's manager: sd_booted(3).
SYSTEMD_RUNS = Path("/run/systemd/system")

#: Loads what modules-load.d says: systemd-modules-load.service(8).
MODULES_LOAD = Path("/usr/lib/systemd/systemd-modules-load")

#: Where packages put sources with a dkms.conf.
DKMS_SOURCES = "/usr/src"
