"""Which of the kernel's own modules would no longer load, since one that they need has been replaced by ours.

Their own files are as they were, so nothing else tells before the next boot. Sources: modules.dep, in which depmod(8)
writes what each module needs behind it; resolve_symbol() and check_version() of kernel/module. Must not: judge ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..core.sysroot import Sysroot
from .elf import Contents, Export
from .symbols import some


def find_dependants(sysroot: Sysroot, directory: Path, replacement: Path) -> list[Path]:
    """Return the kernel's own modules that need an installed object.

    directory: /lib/modules/<release>, where the object is. Raises OSError.
    """
    ours = replacement.relative_to(directory).as_posix()
    lines = (line.partition(":") for line in (directory / "modules.dep").read_text().splitlines() if ours in line)
    return [
        sysroot.below(directory, path)
        for path, _, needed in lines
        if path.startswith("kernel/") and ours in needed.split()
    ]


def find_breach(
    dependant: Contents, replaced: str, exports: Mapping[str, Export], before: Mapping[str, Export], versions: bool
) -> str:
    """Return what a dependant does not find any more, "" where it finds all.

    replaced: the module's canonical name. exports: what ours has. before: what the kernel's symvers says of the
    symbols that the dependant needs. versions: the kernel compares CRCs.
    """
    lost = [
        symbol
        for symbol, weak in sorted(dependant.needs.items())
        if not weak and symbol not in exports and symbol in before and before[symbol].provider == replaced
    ]
    if lost:
        return f"needs {some(lost)}, which it does not export"
    differing = [
        symbol
        for symbol, crc in sorted(dependant.crcs.items())
        if versions and symbol in exports and exports[symbol].crc not in (0, crc)
    ]
    return f"needs another version of {some(differing)}" if differing else ""
