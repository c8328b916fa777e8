"""What modprobe would do for a module: the files it would load, with which options, and who blacklists it.

Formats: what `modprobe --show-depends` prints, modprobe.d(5). Must not: load anything.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from ..errors import Problem
from ..loading import MARK
from ..model import Fault
from ..modulefile import canonical
from ..paths import Sysroot
from ..run import run


@dataclass(frozen=True)
class Resolution:
    """What modprobe would load. first: the files before the object's; options: what it passes to the object."""

    first: tuple[Path, ...] = ()
    options: str = ""
    fault: Optional[Fault] = None


class Probe:
    """modprobe as it works in a root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot

    def directories(self) -> list[Path]:
        found = (self.sysroot.resolve(d) for d in ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"))
        return [path for path in found if path.is_dir()]

    def configurations(self) -> list[Path]:
        """Return modprobe.d's files in force: of one name only the first directory's counts (modprobe.d(5))."""
        chosen: dict[str, Path] = {}
        for directory in self.directories():
            for path in sorted(directory.glob("*.conf")):
                chosen.setdefault(path.name, path)
        return [chosen[name] for name in sorted(chosen)]

    def blacklisting(self, name: str) -> str:
        """Return the file of somebody else that blacklists a module, as seen from inside the root, or ""."""
        for path in self.configurations():
            with contextlib.suppress(OSError):
                text = path.read_text(errors="replace")
                if text.startswith(MARK):
                    continue
                for line in text.splitlines():
                    words = line.split()
                    if words[:1] == ["blacklist"] and [canonical(w) for w in words[1:2]] == [name]:
                        return self.sysroot.inside(path)
        return ""

    async def resolve(self, release: str, name: str, path: str) -> Resolution:
        """Return what modprobe would load for a module, with a fault if that is not the file at an in-root path."""
        argv: list[Union[str, Path]] = ["modprobe", "--show-depends", "-S", release]
        if not self.sysroot.is_host:
            argv += ["-d", self.sysroot.root]
            for directory in self.directories() or [self.sysroot.resolve("/etc/modprobe.d")]:
                argv += ["-C", directory]
        try:
            done = await run([*argv, name], timeout=30)
        except Problem as problem:
            text = f"modprobe would not load {name}: {problem.message}"
            return Resolution(fault=Fault("modprobe-refuses", text, f"modprobe -n -v -S {release} {name}"))
        lines = [(*line.split(None, 2), "", "")[:3] for line in done.text.splitlines() if line.strip()]
        ours = [i for i, line in enumerate(lines) if line[0] == "insmod" and module_name(line[1]) == name]
        at = ours[-1] if ours else len(lines) - 1  # soft dependencies may come behind it
        first = tuple(Path(os.path.realpath(line[1])) for line in lines[: max(at, 0)] if line[0] == "insmod")
        verb, chosen, more = lines[at] if lines else ("", "", "")
        if verb == "insmod" and os.path.realpath(chosen) == str(self.sysroot.resolve(path)):
            return Resolution(first, more.strip())
        if verb == "install":
            text = f"modprobe would run a command instead of loading {name}: {f'{chosen} {more}'.strip()}"
            fault = Fault("install-command", text, f"find it: modprobe -c | grep 'install {name}'")
        elif verb == "builtin":
            text = f"{name} is built into this kernel, so that no module of that name is ever loaded"
            fault = Fault("object-built-in", text, "exclude this kernel with [kernels]")
        else:
            shown = chosen if self.sysroot.is_host else chosen[len(str(self.sysroot.root)) :]
            text = f"modprobe would load {shown or 'nothing'} instead of {path}"
            fault = Fault("object-shadowed", text, "remove the other file and run depmod, or see depmod.d(5)")
        return Resolution(first, fault=fault)


def module_name(path: Union[str, Path]) -> str:
    """Return the canonical name of the module that a file holds."""
    return canonical(Path(path).name.partition(".ko")[0])
