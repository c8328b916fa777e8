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
from ..files import find_accident
from ..loading import MARK
from ..model import Fault
from ..modulefile import canonical
from ..paths import Sysroot
from ..run import find_program, run

#: Where modprobe's configuration is, the directory that wins first (modprobe.d(5)).
LOCAL = "/usr/local/lib/modprobe.d"
PLACES = ("/etc/modprobe.d", "/run/modprobe.d", LOCAL, "/usr/lib/modprobe.d", "/lib/modprobe.d")
#: Options of modprobe by which it passes over install lines, and words that change nothing of what is loaded.
IGNORING = frozenset({"-i", "--ignore-install"})
HARMLESS = IGNORING | {"-q", "--quiet", "-s", "--syslog", "$CMDLINE_OPTS"}
INDEXES = ("modules.dep.bin", "modules.alias.bin")
LARGEST = 1 << 24  # bytes of the program that are searched
RUNNING_LINE = "/proc/cmdline"


def _places() -> tuple[str, ...]:
    """Return the directories of configuration that the installed modprobe reads: versions differ in one of them."""
    with contextlib.suppress(OSError), open(find_program("modprobe") or "", "rb") as stream:
        if LOCAL.encode() in stream.read(LARGEST):
            return PLACES
    return tuple(place for place in PLACES if place != LOCAL)


@dataclass(frozen=True)
class Step:
    """A module's file that modprobe loads, and the options that it passes."""

    path: Path
    options: str = ""


@dataclass(frozen=True)
class _Answer:
    """The line of modprobe --show-depends that is about the module, and what it would load before."""

    verb: str
    words: str
    first: tuple[Step, ...]


@dataclass(frozen=True)
class Resolution:
    """What modprobe would load. first: what comes before the object; options: what it passes to the object."""

    first: tuple[Step, ...] = ()
    options: str = ""
    fault: Optional[Fault] = None


class Probe:
    """modprobe as it works in a root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self._places: tuple[str, ...] = ()

    def directories(self) -> list[Path]:
        """Return the directories of modprobe.d that this modprobe reads, the one that wins first."""
        if not self._places:
            self._places = _places()
        found = dict.fromkeys(self.sysroot.resolve(place) for place in self._places)
        return [path for path in found if path.is_dir()]

    def configurations(self) -> list[Path]:
        """Return modprobe.d's files in force: of one name only the first directory's counts (modprobe.d(5))."""
        chosen: dict[str, Path] = {}
        for directory in self.directories():
            for path in sorted(directory.glob("*.conf")):
                chosen.setdefault(path.name, path)
        return [chosen[name] for name in sorted(chosen)]

    def running_line(self) -> str:
        """Return the command line of the running kernel, whose options modprobe passes for any kernel.

        Raises OSError where it could not be looked at.
        """
        try:
            return Path(RUNNING_LINE).read_text(errors="replace").strip()
        except OSError as error:
            if find_accident(error):
                raise
            return ""

    def blacklisting(self, name: str) -> str:
        """Return the file of somebody else that blacklists a module, as seen from inside the root, or "".

        Raises OSError where one could not be looked at.
        """
        for path in self.configurations():
            try:
                text = path.read_text(errors="replace")
            except OSError as error:
                if find_accident(error):
                    raise
                continue
            if text.startswith(MARK):
                continue
            for line in text.splitlines():
                words = line.split()
                if words[:1] == ["blacklist"] and [canonical(w) for w in words[1:2]] == [name]:
                    return self.sysroot.inside(path)
        return ""

    async def resolve(self, release: str, name: str, path: str) -> Resolution:
        """Return what modprobe would load for a module, with a fault if that is not the file at an in-root path.

        Raises OSError and Problem where modprobe could not be asked.
        """
        try:
            answer = await self._ask(release, name)
            if answer.verb == "install" and _only_loads(answer.words, name):
                answer = await self._ask(release, name, "--ignore-install")
        except Problem as problem:
            if problem.transient:
                raise
            for index in INDEXES:  # modprobe finds nothing in one that it cannot read, and does not say so
                with contextlib.suppress(FileNotFoundError), (self.sysroot.kernel(release) / index).open("rb") as found:
                    found.read()
            text = f"modprobe would not load {name}: {problem.message}"
            return Resolution(fault=Fault("modprobe-refuses", text, f"modprobe -n -v -S {release} {name}"))
        chosen, _, options = answer.words.partition(" ")
        if answer.verb == "insmod" and os.path.realpath(chosen) == str(self.sysroot.resolve(path)):
            return Resolution(answer.first, options.strip())
        if answer.verb == "install":
            text = f"modprobe would run a command instead of loading {name}: {answer.words}"
            fault = Fault("install-command", text, f"find it: modprobe -c | grep 'install {name}'")
        elif answer.verb == "builtin":
            text = f"{name} is built into this kernel, so that no module of that name is ever loaded"
            fault = Fault("object-built-in", text, "exclude this kernel with [kernels]")
        else:
            shown = chosen if self.sysroot.is_host else chosen[len(str(self.sysroot.root)) :]
            text = f"modprobe would load {shown or 'nothing'} instead of {path}"
            fault = Fault("object-shadowed", text, "remove the other file and run depmod, or see depmod.d(5)")
        return Resolution(answer.first, fault=fault)

    async def _ask(self, release: str, name: str, *more: str) -> _Answer:
        argv: list[Union[str, Path]] = ["modprobe", "--show-depends", *more, "-S", release]
        if not self.sysroot.is_host:
            argv += ["-d", self.sysroot.root]
            for directory in self.directories() or [self.sysroot.resolve(PLACES[0])]:
                argv += ["-C", directory]
        done = await run([*argv, name], timeout=30)
        lines = [(*line.split(None, 1), "")[:2] for line in done.text.splitlines() if line.strip()]
        loads = [(verb, *(*rest.split(None, 1), "", "")[:2]) for verb, rest in lines]
        ours = [i for i, (verb, file, _) in enumerate(loads) if verb == "insmod" and module_name(file) == name]
        at = ours[-1] if ours else len(lines) - 1  # soft dependencies may come behind it
        before = [(file, options) for verb, file, options in loads[: max(at, 0)] if verb == "insmod"]
        first = tuple(Step(Path(os.path.realpath(file)), options.strip()) for file, options in before)
        verb, words = lines[at] if lines else ("", "")
        return _Answer(verb, words.strip(), first)


def _only_loads(command: str, name: str) -> bool:
    """Tell whether a command of an install line does no more than load the module past that line."""
    words = command.split()
    if not words or os.path.basename(words[0]) != "modprobe":
        return False
    rest = [word for word in words[1:] if word not in HARMLESS]
    return not IGNORING.isdisjoint(words) and [canonical(word) for word in rest] == [name]


def module_name(path: Union[str, Path]) -> str:
    """Return the canonical name of the module that a file holds."""
    return canonical(Path(path).name.partition(".ko")[0])
