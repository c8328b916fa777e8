"""Whether the name by which the kernel lists an object is free for it.

Sources: modules.builtin and modules.builtin.modinfo (Documentation/kbuild/kbuild.rst), add_unformed_module() and
mod_sysfs_init() of kernel/module, param_sysfs_builtin() of kernel/params.c. modprobe loads nothing, and succeeds, where
the kernel has a module of the file's name built in. Must not: read objects.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..core.model import Fault
from ..core.modulefile import canonical
from ..system.files import find_accident

CORE = "kernel"  # the directory of parameters without a module's name (core_param())


@dataclass(frozen=True)
class Taken:
    """Names that a kernel has taken: of modules built in, and of directories in /sys/module from the start.

    maybe: those that only parameters may have: it makes directories for those alone that it shows (image.py).
    """

    built_in: frozenset[str] = frozenset()
    shown: frozenset[str] = frozenset()
    maybe: frozenset[str] = frozenset()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if find_accident(error):
            raise
        return b""


def read_names(directory: Path) -> Taken:
    """Return the names that a kernel has taken. directory: /lib/modules/<release>. A missing file has none.

    Raises OSError where one could not be read.
    """
    lines = _read(directory / "modules.builtin").decode(errors="replace").splitlines()
    entries = _read(directory / "modules.builtin.modinfo").split(b"\0")
    shown: set[str] = {CORE}
    maybe: set[str] = set()
    for entry in entries:
        name, _, rest = entry.partition(b".")
        if rest.startswith((b"parmtype=", b"version=")):
            (shown if rest.startswith(b"version=") else maybe).add(name.decode(errors="replace"))
    built_in = frozenset(canonical(line.rpartition("/")[2].partition(".")[0]) for line in lines)
    return Taken(built_in, frozenset(shown), frozenset(maybe - shown))


def check(file: str, inner: str, taken: Taken, others: Collection[str]) -> tuple[list[Fault], list[Fault]]:
    """Return what keeps an object from being live by its name, and what only may.

    file: the canonical name of its file. inner: the one in the object. others: canonical names of all other modules.
    """
    if file in taken.built_in:
        text = f"{file} is built into this kernel, so that no module of that name is ever loaded"
        return [Fault("object-built-in", text, "exclude this kernel with [kernels]")], []
    hint = f"have its source name it {file}, or install it by the name {inner}"
    if inner in taken.shown or inner in taken.built_in:
        text = f"{file} would not load: this kernel has {inner} built in, which the object calls itself"
        return [Fault("name-taken", text, hint)], []
    if inner in taken.maybe:
        text = f"whether {file} loads cannot be determined: this kernel may show parameters of {inner}, its name inside"
        return [], [Fault("name-taken", text, hint)]
    if canonical(inner) == file:
        return [], []
    text = f"{file} calls itself {inner} once it is loaded"
    if canonical(inner) in others:
        return [Fault("name-taken", f"{text}, as another module does", hint)], []
    return [], [Fault("name-differs", f"{text}: whoever looks for {file} does not find it", hint)]
