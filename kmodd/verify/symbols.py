"""What a module needs of a kernel: its vermagic and the symbols that it uses, against what there is.

Format: Module.symvers (Documentation/kbuild/modules.rst). The comparisons are those of resolve_symbol() and
same_magic() in kernel/module. Must not: change anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..core.model import Fault, Kernel
from ..core.modulefile import canonical
from ..core.sysroot import Sysroot
from ..system.files import is_file
from .elf import Contents, Export

#: What every module is compared by: the CRC of struct module and others (check_modstruct_version).
LAYOUT = "module_layout"
#: license_is_gpl_compatible() of include/linux/license.h
GPL = frozenset({"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"})


class Symvers:
    """A symvers file by symbol; a line is parsed when it is asked for."""

    def __init__(self, data: bytes) -> None:
        self.lines: dict[bytes, bytes] = {}
        for line in data.splitlines():
            self.lines[line[line.find(b"\t") + 1 :].partition(b"\t")[0]] = line

    def find(self, symbol: str) -> Optional[Export]:
        """Return what exports a symbol, None where nothing does."""
        words = self.lines.get(symbol.encode(), b"").decode(errors="replace").split("\t")
        if len(words) < 3:
            return None
        more = [*words[3:], "", ""]
        try:
            provider = canonical(words[2].rpartition("/")[2])
            return Export(int(words[0], 16), provider, more[0].endswith("_GPL"), more[1])
        except ValueError:
            return None


def look_up(symvers: Optional[Symvers], wanted: Iterable[str]) -> dict[str, Export]:
    """Return what a symvers file, if there is one, says of some symbols."""
    found = {symbol: symvers.find(symbol) for symbol in wanted} if symvers else {}
    return {symbol: export for symbol, export in found.items() if export is not None}


def find_symvers(sysroot: Sysroot, kernel: Kernel) -> Optional[Path]:
    """Return a kernel's own symvers: beside its modules, else that of its build tree."""
    directory = sysroot.kernel(kernel.release)
    candidates = [sysroot.below(directory, f"symvers{suffix}") for suffix in (".gz", ".xz", ".zst")]
    if kernel.build_tree:
        candidates.append(sysroot.resolve(f"{kernel.build_tree}/Module.symvers"))
    return next((path for path in candidates if is_file(path)), None)


def is_same_magic(ours: str, theirs: str, versioned: bool) -> bool:
    """Compare as same_magic() of kernel/module/version.c: with CRCs the release itself does not count."""
    if versioned:
        ours, theirs = ours[len(ours.partition(" ")[0]) :], theirs[len(theirs.partition(" ")[0]) :]
    return ours == theirs


def needed(contents: Contents) -> frozenset[str]:
    """Return the symbols that the kernel compares when it loads an object: module_layout for its CRC alone."""
    return frozenset(contents.needs) | ({LAYOUT} if contents.versioned else frozenset())


def is_forcible(config: Mapping[str, str]) -> bool:
    """Tell whether a kernel loads what has no vermagic or no CRCs, and taints itself (try_to_force_load)."""
    return config.get("CONFIG_MODULE_FORCE_LOAD") == "y"


def check_symbols(
    name: str,
    contents: Contents,
    exported: Mapping[str, Export],
    loaded_first: Collection[str],
    config: Mapping[str, str],
) -> list[Fault]:
    """Return what is wrong with an object's symbols.

    exported: what the kernel, its modules and those that are loaded before it export, as far as it is needed.
    loaded_first: canonical names of what modprobe loads before it. config: of the kernel.
    """
    versions = config.get("CONFIG_MODVERSIONS") == "y"
    if versions and not contents.versioned and not is_forcible(config):
        text = f"{name} has no symbol versions, which this kernel demands"
        return [Fault("symbol-versions-missing", text, "build it against this kernel's own kernel-devel")]
    sorted_ = _sort(contents, exported, loaded_first, config)
    return _faults(name, contents, sorted_, loaded_first)


@dataclass
class _Sorted:
    """Symbols of an object by what is wrong with them. absent: provider -> one of its symbols."""

    unknown: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    unversioned: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def _sort(
    contents: Contents, exported: Mapping[str, Export], loaded_first: Collection[str], config: Mapping[str, str]
) -> _Sorted:
    """Resolve an object's symbols as resolve_symbol() does."""
    versions = config.get("CONFIG_MODVERSIONS") == "y" and contents.versioned
    free = contents.first("license") in GPL
    strict = config.get("CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS") != "y"
    imported = contents.info.get("import_ns", ())
    of = _Sorted()
    for symbol in sorted(needed(contents)):
        found, weak = exported.get(symbol), contents.needs.get(symbol, True)
        if found is None or (found.gpl and not free):
            if not weak:
                (of.unknown if found is None else of.forbidden).append(symbol)
        elif found.provider not in loaded_first and found.provider != "vmlinux":
            if not weak:
                of.absent[found.provider] = symbol
        elif versions and found.crc not in (0, contents.crcs.get(symbol)):
            (of.differing if symbol in contents.crcs else of.unversioned).append(symbol)
        elif found.namespace and strict and found.namespace not in imported:
            of.foreign.append(f"{symbol} of namespace {found.namespace}")
    return of


def _faults(name: str, contents: Contents, of: _Sorted, loaded_first: Collection[str]) -> list[Fault]:
    faults, absent = [], dict(of.absent)
    if of.differing:
        text = f"{name} was built for another version of {some(of.differing)}"
        faults.append(Fault("symbol-version-mismatch", text, "kmodd builds it anew when kernel-devel changes"))
    if of.unversioned:
        text = f"{name} does not tell which version of {some(of.unversioned)} it was built for"
        faults.append(Fault("symbol-versions-missing", text, "build it against this kernel's own kernel-devel"))
    lost = {canonical(module) for module in contents.first("depends").split(",") if module} - set(loaded_first)
    if of.unknown and lost:
        absent.update(dict.fromkeys(lost, some(of.unknown)))
    elif of.unknown:
        text = f"nothing exports {some(of.unknown)}, which {name} needs"
        faults.append(Fault("symbol-unknown", text, "is a module missing that it depends on?"))
    if of.forbidden:
        text = f"{name} uses {some(of.forbidden)}, which only modules under the GPL may use"
        text += f", and its license is {contents.first('license') or 'not given'}"
        faults.append(Fault("symbol-gpl-only", text, "ask whoever wrote the module for one that this kernel takes"))
    if of.foreign:
        text = f"{name} uses {some(of.foreign)}, but does not import it"
        faults.append(Fault("symbol-namespace", text, "its source lacks MODULE_IMPORT_NS"))
    for provider, symbol in sorted(absent.items()):
        text = f"{name} needs {symbol} of {provider}, which is not installed for this kernel"
        hint = "install the package that has it (kernel-modules, kernel-modules-extra), or register it"
        faults.append(Fault("dependency-missing", text, hint))
    return faults


def some(symbols: list[str]) -> str:
    """Return the first of some symbols and how many more there are."""
    return symbols[0] + (f" and {len(symbols) - 1} more" if len(symbols) > 1 else "")
