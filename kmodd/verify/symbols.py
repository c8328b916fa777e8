"""What a module needs of a kernel: its vermagic and the CRCs of the symbols that it uses, against what there is.

Formats: Module.symvers (Documentation/kbuild/modules.rst), `modprobe --dump-modversions`, `modinfo -F vermagic`. The
comparisons are those of kernel/module/version.c. Must not: change anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..errors import Problem
from ..model import Fault, Kernel
from ..modulefile import canonical
from ..paths import Sysroot
from ..run import run

DECOMPRESSORS = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}


@dataclass(frozen=True)
class Exported:
    """A symbol that something exports: its CRC, and the module that has it ("vmlinux" for the kernel)."""

    crc: int
    provider: str


async def read_plain(path: Path) -> bytes:
    """Return a file's content, decompressed by its suffix. Raises OSError and Problem."""
    tool = DECOMPRESSORS.get(path.suffix)
    if tool is None:
        return path.read_bytes()
    return (await run([tool, "-dc"], stdin=path.read_bytes())).stdout


def parse_symvers(data: bytes, wanted: Collection[str]) -> dict[str, Exported]:
    """Return what a symvers file says of some symbols."""
    found: dict[str, Exported] = {}
    for line in data.decode(errors="replace").splitlines():
        words = line.split("\t")
        if len(words) >= 3 and words[1] in wanted:
            try:
                found[words[1]] = Exported(int(words[0], 16), canonical(words[2].rpartition("/")[2]))
            except ValueError:
                continue
    return found


def find_symvers(sysroot: Sysroot, kernel: Kernel) -> Optional[Path]:
    """Return a kernel's own symvers: beside its modules, else that of its build tree."""
    directory = sysroot.kernel(kernel.release)
    candidates = [directory / f"symvers{suffix}" for suffix in (".gz", ".xz", ".zst")]
    if kernel.build_tree:
        candidates.append(sysroot.resolve(kernel.build_tree) / "Module.symvers")
    return next((path for path in candidates if path.is_file()), None)


async def read_needed(path: Path) -> dict[str, int]:
    """Return the symbols that an object uses, with the CRCs it was built with. Raises Problem."""
    needed = {}
    for line in (await run(["modprobe", "--dump-modversions", path], timeout=30)).text.splitlines():
        crc, _, name = line.partition("\t")
        needed[name.strip()] = int(crc, 16)
    return needed


async def read_vermagic(path: Path) -> str:
    """Return an object's vermagic. Raises Problem."""
    return (await run(["modinfo", "-F", "vermagic", path], timeout=30)).text.strip()


def is_same_magic(ours: str, theirs: str, versioned: bool) -> bool:
    """Compare as same_magic() of kernel/module/version.c: with CRCs the release itself does not count."""
    if versioned:
        ours, theirs = ours.partition(" ")[2], theirs.partition(" ")[2]
    return ours.split() == theirs.split()


def check_symbols(
    name: str,
    needed: dict[str, int],
    kernel: dict[str, Exported],
    others: dict[str, Exported],
    loaded_first: Iterable[str],
    versions: bool,
) -> list[Fault]:
    """Return what is wrong with an object's symbols.

    kernel: what the kernel and its modules export. others: what modules that we install export, which counts first.
    loaded_first: canonical names of what modprobe loads before it. versions: whether the kernel has MODVERSIONS.
    """
    if versions and not needed:
        text = f"{name} has no symbol versions, which this kernel demands"
        return [Fault("symbol-versions-missing", text, "build it against this kernel's own kernel-devel")]
    available = {*loaded_first, "vmlinux"}
    unknown, differing, absent = [], [], {}
    for symbol, crc in sorted(needed.items()):
        exported = others.get(symbol) or kernel.get(symbol)
        if exported is None:
            if symbol != "module_layout":
                unknown.append(symbol)
        elif versions and exported.crc != crc:
            differing.append(symbol)
        elif exported.provider not in available:
            absent[exported.provider] = symbol
    faults = []
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        text = f"{name} was built for another version of {differing[0]}{more}"
        faults.append(Fault("symbol-version-mismatch", text, "kmodd builds it anew when kernel-devel changes"))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        text = f"nothing exports {unknown[0]}{more}, which {name} needs"
        faults.append(Fault("symbol-unknown", text, "is a module missing that it depends on?"))
    for provider, symbol in sorted(absent.items()):
        text = f"{name} needs {symbol} of {provider}, which is not installed for this kernel"
        hint = "install the package that has it (kernel-modules, kernel-modules-extra), or register it"
        faults.append(Fault("dependency-missing", text, hint))
    return faults


async def reference_vermagic(sysroot: Sysroot, release: str) -> str:
    """Return the vermagic of the kernel's own modules, "" where there is none to look at."""
    directory = sysroot.kernel(release)
    try:
        lines = (directory / "modules.order").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        for suffix in ("", ".xz", ".zst", ".gz"):
            path = (directory / line).with_suffix(f".ko{suffix}")
            if path.is_file():
                try:
                    return await read_vermagic(path)
                except Problem:
                    return ""
    return ""
