"""What modprobe would do for a module: the files it would load, with which options, and who blacklists it.

Formats: what `modprobe --show-depends` prints, modprobe.d(5). Must not: load anything.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from ..core.dropincontent import MARK
from ..core.errors import Problem
from ..core.model import Fault
from ..core.modulefile import canonical, object_name
from ..core.sysroot import Sysroot
from ..system.files import find_accident, is_directory, list_names
from ..system.kmodroot import open_base
from ..system.run import find_program, run
from . import installline

#: Where modprobe's configuration is, the directory that wins first (modprobe.d(5)).
LOCAL = "/usr/local/lib/modprobe.d"
PLACES = ("/etc/modprobe.d", "/run/modprobe.d", LOCAL, "/usr/lib/modprobe.d", "/lib/modprobe.d")
INDEXES = ("modules.dep.bin", "modules.alias.bin")
LARGEST = 1 << 24  # bytes of the program that are searched
INSTALL_HINT = "find it: modprobe -c | grep 'install {}'"
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
    """The line of modprobe --show-depends that is about the module, and what it would load before.

    commanded: whether commands of install lines stand for some of that.
    """

    verb: str
    words: str
    first: tuple[Step, ...]
    commanded: bool = False


@dataclass(frozen=True)
class _Through:
    """An install line's command, what it does, and what modprobe loads past it."""

    past: _Answer
    command: str
    effect: installline.Effect

    def doubt(self, name: str) -> Optional[Fault]:
        """Return that nobody can tell whether the command loads its module."""
        if self.effect.loads is not None:
            return None
        text = f"whether modprobe loads {name} cannot be determined: it runs a command instead: {self.command}"
        return Fault("install-command", text, INSTALL_HINT.format(name))


@dataclass(frozen=True)
class Command:
    """An install line of a module that another needs. loads: whether its command loads that, None where untold."""

    name: str
    text: str
    loads: Optional[bool]


@dataclass(frozen=True)
class Resolution:
    """What modprobe would load.

    first: what comes before the object. options: what it passes to the object. fault: why it loads another file, or
    none. doubt: why it may not load this one. commands: of install lines that may not load what comes before.
    """

    first: tuple[Step, ...] = ()
    options: str = ""
    fault: Optional[Fault] = None
    doubt: Optional[Fault] = None
    commands: tuple[Command, ...] = ()


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
        return [path for path in found if is_directory(path)]

    def configurations(self) -> list[Path]:
        """Return modprobe.d's files in force: of one name only the first directory's counts (modprobe.d(5))."""
        chosen: dict[str, Path] = {}
        for directory in self.directories():
            for name in list_names(directory, ".conf"):
                chosen.setdefault(name, directory / f"{name}.conf")
        return [chosen[name] for name in sorted(chosen)]

    def running_line(self) -> str:
        """Return the command line of the running kernel, whose options modprobe passes for any kernel.

        Raises OSError where it could not be read.
        """
        try:
            return Path(RUNNING_LINE).read_text(errors="replace").strip()
        except OSError as error:
            if find_accident(error):
                raise
            return ""

    def blacklisting(self, name: str) -> str:
        """Return the file of somebody else that blacklists a module, as seen from inside the root, or "".

        Raises OSError where one could not be read.
        """
        for path in self.configurations():
            try:
                text = self.sysroot.below(path.parent, path.name).read_text(errors="replace")
            except (OSError, Problem) as error:  # a loop of links
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
            told = await self._through(release, name, answer) if answer.verb == "install" else None
            if told is not None and told.effect.loads is not False:
                answer = told.past
            first, commands = await self._complete(release, name, answer)
        except Problem as problem:
            if problem.transient:
                raise
            for index in INDEXES:  # modprobe finds nothing in one that it cannot read, and does not say so
                place = self.sysroot.below(self.sysroot.kernel(release), index)
                with contextlib.suppress(FileNotFoundError), place.open("rb") as found:
                    found.read()
            text = f"modprobe would not load {name}: {problem.message}"
            return Resolution(fault=Fault("modprobe-refuses", text, f"modprobe -n -v -S {release} {name}"))
        chosen, _, options = answer.words.partition(" ")
        if answer.verb == "insmod" and self.sysroot.resolve(chosen) == self.sysroot.resolve(path):
            given = f"{options.strip()} {told.effect.options if told else ''}".strip()
            return Resolution(first, given, doubt=told.doubt(name) if told else None, commands=commands)
        return Resolution(first, fault=self._fault(answer, name, path, chosen), commands=commands)

    def _fault(self, answer: _Answer, name: str, path: str, chosen: str) -> Fault:
        """Return why modprobe does not load the file at an in-root path. chosen: what it loads instead."""
        if answer.verb == "install":
            text = f"modprobe would run a command instead of loading {name}: {answer.words}"
            return Fault("install-command", text, INSTALL_HINT.format(name))
        if answer.verb == "builtin":
            text = f"{name} is built into this kernel, so that no module of that name is ever loaded"
            return Fault("object-built-in", text, "exclude this kernel with [kernels]")
        text = f"modprobe would load {chosen or 'nothing'} instead of {path}"
        return Fault("object-shadowed", text, "remove the other file and run depmod, or see depmod.d(5)")

    async def _through(self, release: str, name: str, answer: _Answer) -> _Through:
        """Return what comes of the install line that modprobe found for a module. Raises OSError and Problem."""
        past = await self._ask(release, name, "--ignore-install")
        options = past.words.partition(" ")[2].strip()
        command = answer.words[: len(answer.words) - len(options)].strip() if options else answer.words
        return _Through(past, command, installline.read(command, name, options))

    async def _complete(self, release: str, name: str, answer: _Answer) -> tuple[tuple[Step, ...], tuple[Command, ...]]:
        """Return what is needed first, with the modules that commands of install lines stand for, and those commands.

        Raises OSError and Problem.
        """
        if not answer.commanded:
            return answer.first, ()
        plain = await self._ask(release, name, places=[Path(os.devnull)])  # by modules.dep alone
        known = {module_name(step.path) for step in answer.first}
        lines = await self._install_lines(release)
        first, commands = list(answer.first), []
        for step in plain.first:
            own = module_name(step.path)
            if own in known:
                continue
            past = await self._ask(release, own, "--ignore-install")
            file, _, options = past.words.partition(" ")
            text = next((text for pattern, text in lines if fnmatch.fnmatchcase(own, pattern)), "")
            effect = installline.read(text, own, options.strip())
            first.append(Step(self.sysroot.resolve(file), f"{options.strip()} {effect.options}".strip()))
            if not effect.loads:
                commands.append(Command(own, text, effect.loads))
        return tuple(first), tuple(commands)

    async def _install_lines(self, release: str) -> list[tuple[str, str]]:
        """Return the install lines, each a pattern of names and a command; the first that fits counts."""
        with open_base(self.sysroot) as base:
            done = await run(["modprobe", "--showconfig", *self._where(base, release)], timeout=30)
        lines = (line.split(None, 2) for line in done.text.splitlines() if line.startswith("install "))
        return [(words[1], words[2]) for words in lines if len(words) == 3]

    def _where(self, base: Path, release: str, places: Sequence[Path] = ()) -> list[Union[str, Path]]:
        """Return the words by which modprobe works for a release in a root. places: of configuration."""
        argv: list[Union[str, Path]] = ["-S", release]
        if not self.sysroot.is_host:
            argv += ["-d", base]
            places = places or self.directories() or [self.sysroot.resolve(PLACES[0])]
        for place in places:
            argv += ["-C", place]
        return argv

    async def _ask(self, release: str, name: str, *more: str, places: Sequence[Path] = ()) -> _Answer:
        with open_base(self.sysroot) as base:
            where = self._where(base, release, places)
            done = await run(["modprobe", "--show-depends", *more, *where, name], timeout=30)
        lines = [_inside(base, (*line.split(None, 1), "")[:2]) for line in done.text.splitlines() if line.strip()]
        loads = [(verb, *(*rest.split(None, 1), "", "")[:2]) for verb, rest in lines]
        ours = [i for i, (verb, file, _) in enumerate(loads) if verb == "insmod" and module_name(file) == name]
        at = ours[-1] if ours else len(lines) - 1  # soft dependencies may come behind it
        before = [(file, options) for verb, file, options in loads[: max(at, 0)] if verb == "insmod"]
        first = tuple(Step(self.sysroot.resolve(file), options.strip()) for file, options in before)
        verb, words = lines[at] if lines else ("", "")
        commanded = any(verb == "install" for verb, _ in lines[: max(at, 0)])
        return _Answer(verb, words.strip(), first, commanded)


def _inside(base: Path, line: Sequence[str]) -> tuple[str, str]:
    """Return a verb and words of modprobe's answer, a file that it names as seen from inside the root."""
    verb, words = line
    top = str(base).rstrip("/")
    return verb, words[len(top) :] if verb == "insmod" and words.startswith(f"{top}/") else words


def module_name(path: Union[str, Path]) -> str:
    """Return the canonical name of the module that a file holds."""
    return object_name(str(path))
