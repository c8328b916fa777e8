"""What is added, and what of it is installed, in DKMS's words; and the module files that stand for it.

Added is what has a link NAME/VERSION/source in DKMS's own tree, as scripts expect it, or is a registered and enabled
module with a dkms.conf. Of one name one version is kept built: the one that the module file refers to. Only files are
read, never rpm's database, so that it works in the midst of a transaction. Must not: print, or decide.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ...core.errors import Problem
from ...core.model import Kernel
from ...core.modulefile import NAME, Module
from ...core.recipe import DKMS_TREE
from ...core.record import TargetRecord
from ...core.sysroot import DKMS_SOURCES, Sysroot
from ...core.tomlfile import set_value
from ...core.versions import compare
from ...dkms.conffiles import adopt, identify, is_adopted
from ...host.kernels import LANDMARKS, KernelReader
from ...host.registry import RegistryReader, add, parse, remove
from ...host.settingsfile import read_settings
from ...host.store import Store
from ...system.deleting import remove_tree
from ...system.files import explained, make_link, remove_empty, remove_file, replace_file

#: What this command writes into module files.
WRITTEN = {"module": {"version", "enabled"}, "source": {"dkms"}, "kernels": {"exclude"}}
AUTOINSTALL = re.compile(r"""^\s*AUTOINSTALL=["']?([\w.+-]*)""", re.MULTILINE)


@dataclass(frozen=True, order=True)
class State:
    """A version of a module, on a kernel: state is added (no kernel), built or installed. note: what is wrong."""

    name: str
    version: str
    kernel: str = ""
    architecture: str = ""
    state: str = "added"
    note: str = ""

    def __str__(self) -> str:
        where = f", {self.kernel}, {self.architecture}" if self.kernel else ""
        return f"{self.name}/{self.version}{where}: {self.state}" + (f" ({self.note})" if self.note else "")


class Tree:
    """What is added in one root, read anew by every instance."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        registry = RegistryReader(sysroot).read()
        self.broken = {broken.name: broken.fault for broken in registry.broken}
        self.modules = dict(registry.modules)
        with contextlib.suppress(Problem):  # settings that cannot be read are reported by the daemon
            if read_settings(sysroot).dkms.adopt:
                self.modules |= adopt(sysroot, registry.modules, set(self.broken))
        self.records = Store(sysroot).records()
        links = {key: f"{source}/dkms.conf" for key, source in self._links()}
        self.confs = {  # of what is kept built, or would be if it was enabled
            key: conf for key, conf, enabled in self._registered() if enabled or key in links
        }
        self.added = {**links, **self.confs}

    def _registered(self) -> Iterator[tuple[tuple[str, str], str, bool]]:
        for name, module in sorted(self.modules.items()):
            conf = module.file.source.dkms
            if conf:
                key = (name, module.file.module.version or identify(self.sysroot, conf)[1])
                yield key, conf, module.enabled

    def _links(self) -> Iterator[tuple[tuple[str, str], str]]:
        for directory in sorted(self.sysroot.resolve(DKMS_TREE).glob("*/*")):
            link = directory / "source"
            if os.path.lexists(link):
                source = self.sysroot.resolve(self.sysroot.inside(link))
                yield (directory.parent.name, directory.name), self.sysroot.inside(source)

    # -- reading ---------------------------------------------------------------------------------------------------
    def kernels(self) -> dict[str, Kernel]:
        """Return the installed kernels."""
        found = KernelReader(self.sysroot).read((), (), {}, {}, {})
        return {release: kernel for release, kernel in found.items() if kernel.present}

    def has_kernel(self, release: str) -> bool:
        return any((self.sysroot.kernel(release) / name).exists() for name in LANDMARKS)

    def states(self, name: str = "", version: str = "", kernel: str = "", architecture: str = "") -> list[State]:
        """Return the lines of `dkms status`, of those that four globs choose; "" is all."""
        found: list[State] = []
        here = {release: k.architecture for release, k in self.kernels().items()}
        for key in sorted(self.added):
            if not all(fnmatch.fnmatchcase(part, glob or "*") for part, glob in zip(key, (name, version))):
                continue
            lines = [
                State(*key, target.kernel, here[target.kernel], *state)
                for target, record in sorted(self.records.items())
                if target.module == key[0] and target.kernel in here
                and fnmatch.fnmatchcase(target.kernel, kernel or "*")
                and fnmatch.fnmatchcase(here[target.kernel], architecture or "*")
                for state in [self._state(key[1], record)] if state
            ]  # fmt: skip
            found += lines or [State(*key)]
        return found

    def _state(self, version: str, record: TargetRecord) -> Optional[tuple[str, str]]:
        """Return the state of a version on a kernel and what is wrong with it; None where it is not even built."""
        kept = (record.module, version) in self.confs
        if record.built is None or record.built.version not in ((version, "") if kept else (version,)):
            return None
        built = {item.name: item.sha256 for item in record.built.objects}
        installed = {item.name: item.built for item in record.installed.objects} if record.installed else {}
        if record.installed is None or not installed or not installed.items() <= built.items():
            return "built", ""  # fewer are installed where some are left to the kernel's own
        gone = [i.path for i in record.installed.objects if not self.sysroot.resolve(i.path).is_file()]
        return "installed", "WARNING! Missing some built modules!" if gone else ""

    def failures(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the kernels on which the last try at a module failed, and why."""
        for target, record in sorted(self.records.items()):
            attempt = record.attempt
            if target.module == name and attempt and attempt.outcome == "failed" and self.has_kernel(target.kernel):
                yield target.kernel, attempt.message

    def source(self, name: str, version: str) -> str:
        """Return where DKMS looks for the source of a version."""
        return f"{DKMS_SOURCES}/{name}-{version}"

    def is_wanted(self, conf: str) -> bool:
        """Tell whether a conf's AUTOINSTALL says yes, as far as its plain text tells."""
        with contextlib.suppress(OSError):
            text = self.sysroot.resolve(conf).read_text(errors="replace")
            found = AUTOINSTALL.findall(text)
            return bool(found) and found[-1].lower() not in ("", "no")
        return False

    # -- changing --------------------------------------------------------------------------------------------------
    def link(self, name: str, version: str) -> str:
        """Add a version to DKMS's tree; returns its link. Raises Problem."""
        inside = f"{DKMS_TREE}/{name}/{version}/source"
        path = self.sysroot.resolve(f"{DKMS_TREE}/{name}/{version}") / "source"
        with explained(f"making {inside}"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            make_link(path, self.source(name, version))
        return inside

    def unlink(self, name: str, version: str) -> None:
        """Remove a version from DKMS's tree, with whatever DKMS itself left there of it. Raises Problem."""
        top = self.sysroot.resolve(f"{DKMS_TREE}/{name}/{version}")
        with explained(f"deleting {self.sysroot.inside(top)}"):
            if top.is_dir():
                remove_tree(top)
                remove_empty(top.parent)

    def register(self, name: str, version: str, conf: str, enabled: Optional[bool]) -> None:
        """Have a version be the one that is kept built. enabled: None leaves it as it is. Raises Problem."""
        if not NAME.fullmatch(name):
            raise Problem("usage-name", f"{name!r} is not a module name of kmodd", "use kmoddctl add PATH --name")
        self._check_ours(name)
        module = self.modules.get(name)
        if module is None or is_adopted(module):
            text = f"# Registered by dkms.\n[module]\nversion = {json.dumps(version)}\n"
            text += "" if enabled is not False else "enabled = false\n"
            text += f"\n[source]\ndkms = {json.dumps(conf)}\n"
            masked = self.sysroot.registries[0] / f"{name}.toml"
            if masked.is_symlink() and os.readlink(masked) == "/dev/null":
                with explained(f"replacing {self.sysroot.inside(masked)}"):
                    remove_file(masked)
            add(self.sysroot, text, name, replace=True)
            return
        changes: list[tuple[str, str, object]] = []
        if module.file.source.dkms != conf or module.file.module.version != version:
            changes = [("module", "version", version), ("source", "dkms", conf)]
        if enabled is not None and module.enabled != enabled:
            changes.append(("module", "enabled", enabled))
        edit(self.sysroot, module, changes)

    def include(self, name: str, release: str) -> None:
        """Keep a module built for a kernel that it was excluded from. Raises Problem."""
        module = self.modules.get(name)
        if module is not None and release in module.file.kernels.exclude:
            left = [glob for glob in module.file.kernels.exclude if glob != release]
            edit(self.sysroot, module, [("kernels", "exclude", left)])

    def exclude(self, name: str, release: str) -> None:
        """Keep a module no longer built for a kernel. Raises Problem."""
        module = self.modules[name]
        if is_adopted(module):
            self.register(name, module.file.module.version, module.path, None)
            module = Tree(self.sysroot).modules[name]
        if release not in module.file.kernels.exclude:
            edit(self.sysroot, module, [("kernels", "exclude", [*module.file.kernels.exclude, release])])

    def disable(self, name: str) -> None:
        """Keep a module registered, and not built. Raises Problem."""
        (version, conf) = next((v, conf) for (n, v), conf in self.confs.items() if n == name)
        self.link(name, version)
        self.register(name, version, conf, False)

    def unregister(self, name: str, leaving: bool) -> None:
        """Delete the module file; mask what would be adopted then, unless its source is leaving. Raises Problem.

        One that says more than this command writes is kept and disabled: it is another's work, and the package may
        come back, as when scriptlets remove before they add.
        """
        self._check_ours(name)
        module = self.modules.get(name)
        if module is not None and not is_adopted(module):
            if says_more(module):
                edit(self.sysroot, module, [("module", "enabled", False)])
                return
            remove(self.sysroot, module)
            module = Tree(self.sysroot).modules.get(name)
        if module is not None and not leaving:
            remove(self.sysroot, module)

    def newest(self, name: str) -> Optional[tuple[str, str]]:
        """Return version and conf of the newest version that is added and whose source is there, or None."""
        best: Optional[tuple[str, str]] = None
        for (other, version), conf in sorted(self.added.items()):
            newer = other == name and (best is None or compare(version, best[0]) > 0)
            if newer and self.sysroot.resolve(conf).is_file():
                best = version, conf
        return best

    def _check_ours(self, name: str) -> None:
        module = self.modules.get(name)
        if name in self.broken and module is None:
            raise Problem("module-exists", self.broken[name].message, "correct or delete that file")
        if module is not None and not module.file.source.dkms:
            text = f"module {name} is registered by {module.path}, with another source than a dkms.conf"
            raise Problem("module-exists", text, f"kmoddctl remove {name} first")


def edit(sysroot: Sysroot, module: Module, changes: list[tuple[str, str, object]]) -> None:
    """Change keys of a module file, in /etc; a vendor's is copied there. Raises Problem."""
    if not changes:
        return
    text = sysroot.resolve(module.path).read_text()
    target = sysroot.registries[0] / Path(module.path).name
    edited = text
    for table, key, value in changes:
        edited = set_value(edited, table, key, value)
    found = parse(edited)
    for table, key, value in changes:
        said = getattr(getattr(found, table), key)
        if (list(said) if isinstance(said, tuple) else said) != value:
            hint = f"set {table}.{key} = {json.dumps(value)} in it by hand"
            raise Problem("module-file-invalid", f"{module.path} is written in a way that cannot be edited", hint)
    with explained(f"writing {sysroot.inside(target)}"):
        replace_file(target, edited.encode())


def says_more(module: Module) -> bool:
    """Tell whether a module file holds anything that this command does not write."""
    found = module.file.model_dump(exclude_unset=True)
    return any(table not in WRITTEN or not set(keys) <= WRITTEN[table] for table, keys in found.items())
