"""Which modules are registered: the module files of /etc/kmodd/modules.d and /usr/lib/kmodd/modules.d.

The same file name in /etc masks the vendor's, a link to /dev/null disables it (as systemd.unit(5) does). One bad
file never hides the others. Must not: read sources.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..core import tomlfile
from ..core.errors import Problem
from ..core.model import BrokenFile, Fault
from ..core.modulefile import NAME, Module, ModuleFile
from ..core.sysroot import Sysroot
from ..core.visible import visible
from ..system.files import explained, find_accident, make_link, remove_file, replace_file
from ..system.reading import reach

LARGEST = 1 << 20  # bytes; a module file is a few lines


@dataclass(frozen=True)
class Registry:
    modules: dict[str, Module] = field(default_factory=dict)
    broken: tuple[BrokenFile, ...] = ()
    unread: tuple[str, ...] = ()  # files beside the module files that are none, in-root, fit to be shown


def parse(text: str) -> ModuleFile:
    """Return a module file's content. Raises Problem module-file-invalid."""
    try:
        return tomlfile.parse(ModuleFile, text)
    except ValueError as error:
        hint = "see kmodd.modules.d(5); after the correction it is used without a restart"
        raise Problem("module-file-invalid", str(error), hint) from error


class RegistryReader:
    """Reads the registry, parsing again only files that changed."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self._parsed: dict[Path, tuple[object, ModuleFile]] = {}

    def read(self) -> Registry:
        """Return all registered modules and all broken files."""
        modules: dict[str, Module] = {}
        broken: list[BrokenFile] = []
        unread: list[str] = []
        seen: set[str] = set()
        for directory in self.sysroot.registries:
            try:
                names = sorted(os.listdir(directory))
            except FileNotFoundError:
                continue
            except OSError as error:
                where = self.sysroot.inside(directory)
                text, hint = f"{where} cannot be read: {error.strerror}", "what is installed stays meanwhile"
                fault = Fault("registry-unreadable", text, hint)
                if find_accident(error):
                    fault = Fault("look-interrupted", text, hint)
                broken.append(BrokenFile(where, directory.name, fault, whole=True))
                continue
            for name in names:
                if not name.endswith(".toml"):
                    if not name.startswith((".", "README")) and not os.path.isdir(directory / name):
                        unread.append(visible(self.sysroot.inside(directory / name)))
                    continue
                if name.startswith(".") or name in seen:
                    continue
                seen.add(name)
                self._add(directory / name, modules, broken)
        return Registry(modules, tuple(broken), tuple(unread))

    def _add(self, path: Path, modules: dict[str, Module], broken: list[BrokenFile]) -> None:
        inside = self.sysroot.inside(path)
        if visible(inside) != inside:
            text = f"{visible(inside)}: its name cannot be shown as it is"
            fault = Fault("module-file-invalid", text, "rename it")
            broken.append(BrokenFile(visible(inside), visible(path.stem), fault))
            return
        try:
            content = self._load(path, inside)
            if content is None:
                return
            name = content.module.name or path.stem
            if not NAME.fullmatch(name):
                raise Problem("module-file-invalid", f"{name!r} is not a module name", "set module.name")
            if name in modules:
                text = f"module {name} is already registered by {modules[name].path}"
                raise Problem("module-name-duplicate", text, "give one of them another module.name")
            modules[name] = Module(name=name, file=content, path=inside)
        except Problem as problem:
            fault = Fault(problem.code, f"{inside}: {problem.message}", problem.hint)
            broken.append(BrokenFile(inside, path.stem, fault))

    def _load(self, path: Path, inside: str) -> Optional[ModuleFile]:
        real = self.sysroot.resolve(inside)
        if str(real) == str(self.sysroot.root / "dev/null") or os.path.realpath(path) == "/dev/null":
            return None
        try:
            with reach(self.sysroot, inside) as found:
                weakness, key = found.weakness, found.signature
                if weakness:
                    raise Problem("source-unsafe", f"others than root can change it: {weakness.text}", weakness.fix)
                known = self._parsed.get(path)
                if known and known[0] == key:
                    return known[1]
                if not found.is_file:
                    raise Problem("module-file-invalid", "is not a regular file")
                data = found.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise Problem("module-file-invalid", f"is larger than {LARGEST} bytes")
            content = parse(data.decode())
        except UnicodeDecodeError as error:
            raise Problem("module-file-invalid", f"is not UTF-8 at byte {error.start}") from error
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            if find_accident(error):
                raise Problem("look-interrupted", text, "kmodd reads it again by itself") from error
            raise Problem("module-file-unreadable", text) from error
        self._parsed[path] = (key, content)
        return content


def add(sysroot: Sysroot, text: str, name: str, *, replace: bool = False) -> Path:
    """Write a module file to /etc/kmodd/modules.d. Raises Problem module-exists, or what parse raises."""
    parse(text)
    path = sysroot.registries[0] / f"{name}.toml"
    there = sysroot.below(path.parent, path.name)
    if there.exists() and there.read_text() == text:
        return path
    if there.exists() and not replace:
        where = sysroot.inside(path)
        raise Problem("module-exists", f"{where} exists and says something else", f"edit it, or remove {name} first")
    with explained(f"writing {sysroot.inside(path)}"):
        replace_file(path, text.encode())
    return path


def remove(sysroot: Sysroot, module: Module) -> str:
    """Unregister a module: delete its file in /etc, mask the vendor's; returns what was done, fit to print."""
    local, vendor = sysroot.registries
    if module.path == module.file.source.dkms:  # it has no module file
        path = local / f"{module.name}.toml"
        with explained(f"writing {sysroot.inside(path)}"):
            make_link(path, "/dev/null")
        return f"masked {module.path} by {sysroot.inside(path)}"
    path = local / Path(module.path).name
    shipped = vendor / Path(module.path).name
    with explained(f"removing {module.path}"):
        if shipped.exists():
            remove_file(path)
            make_link(path, "/dev/null")
            return f"masked {sysroot.inside(shipped)} by {sysroot.inside(path)}"
        remove_file(path)
        return f"deleted {sysroot.inside(path)}"
