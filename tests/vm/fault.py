"""What a row of the tables of faults is, and what it may do: to a case's files, and to the root around them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

from elfedit import Object
from kinds import Kind
from server import UNPACK, Server, read_object

PACK = {".xz": ("xz", "--check=crc32", "--lzma2=dict=1MiB"), ".zst": ("zstd", "-q"), ".gz": ("gzip", "-n")}


@dataclass
class Case:
    """A module of some kind on one kernel, and what is wrong with it."""

    number: int
    fault: Fault
    kind: Kind
    which: int  # of the server's kernels
    release: str
    directory: Path  # /lib/modules/RELEASE in its root
    seed: str
    name: str = ""  # of the module that is asked for
    words: tuple[str, ...] = ()  # that its kernel gets on the command line
    done: str = ""  # what exactly was done to it, for the table

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.seed} {self.fault.title} {self.kind.name} {self.which} {self.number}")
        self.name = self.fault.name(self) if self.fault.name else self.own(self.kind.name)
        self.words = self.fault.words(self)

    @property
    def label(self) -> str:
        """Return what it is asked for again by (ONLY=)."""
        return f"{self.fault.title}: {self.kind.name} on {self.release} #{self.number}"

    def own(self, kind: str) -> str:
        """Return the case's own module of a kind."""
        return f"{kind}_{self.number:04d}"

    @property
    def modules(self) -> dict[str, str]:
        """Return the modules of its own, by name, with the kind of each; the one that is asked for is the last."""
        others = (*self.kind.needs, *self.fault.more)
        return {**{self.own(kind): kind for kind in others}, self.name: self.kind.name}

    @property
    def provider(self) -> str:
        """Return the module of its own that it needs first."""
        return self.own(self.kind.needs[0])


class Place:
    """A case in its root, after kmodd installed what belongs to it."""

    def __init__(self, server: Server, case: Case, built: dict[str, bytes]) -> None:
        """built: the case's modules as they were built, by their names."""
        self.server = server
        self.case = case
        self.built = built
        self.random = case.random
        self.directory = case.directory

    def choose(self, values: Iterable[str]) -> str:
        """Return one of several, and note which."""
        chosen = self.random.choice(sorted(values))
        self.note(chosen)
        return chosen

    def note(self, text: str) -> None:
        self.case.done = f"{self.case.done}, {text}".strip(", ")

    # -- files ---------------------------------------------------------------------------------------------------------
    def installed(self, name: str = "") -> Path:
        """Return the installed file of a module, by default the one that is asked for."""
        return self.server.object(name or self.case.name, self.case.release)

    def put(self, content: bytes, name: str = "", sign: bool = True) -> None:
        """Put content in the place of an installed object, signed and compressed as kmodd does it."""
        name = name or self.case.name
        final = self.server.sign(content) if sign else content
        self.server.replace(name, pack(final, self.installed(name).suffix), self.case.release)

    def edit(self, change: Callable[[Object, Place], None], name: str = "", sign: bool = True) -> None:
        """Change an object as it was built; kmodd's key signs what comes of it."""
        made = Object(self.built[name or self.case.name])
        change(made, self)
        self.put(bytes(made), name, sign)

    def edit_signed(self, change: Callable[[bytearray, Place], None], name: str = "") -> None:
        """Change an object as it is installed, signature and all."""
        name = name or self.case.name
        content = bytearray(read_object(self.installed(name)))
        change(content, self)
        self.put(bytes(content), name, sign=False)

    def configure(self, line: str, directory: str = "etc/modprobe.d", name: str = "") -> None:
        """Add a file of somebody else to modprobe.d. line: {name} stands for the module that is asked for."""
        path = self.server.root / directory / f"local-{self.case.own('case')}.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = line.format(name=name or self.case.name)
        self.note(text)
        with path.open("a") as stream:
            stream.write(f"{text}\n")

    def in_tree(self, release: Optional[str] = None) -> Path:
        """Return the file of the kernel's own module that the case's kind needs, of its own or another kernel."""
        return next(self._in_tree(release or self.case.release))

    def has_in_tree(self, release: str) -> bool:
        """Tell whether another kernel has that module, as a module, too."""
        return next(self._in_tree(release), None) is not None

    def _in_tree(self, release: str) -> Iterator[Path]:
        directory = self.server.root / "lib/modules" / release / "kernel"
        return (path for path in directory.rglob("*.ko*") if stem(path) == self.case.kind.in_tree)


Spoil = Callable[[Place], None]
Words = Callable[[Case], "tuple[str, ...]"]
Loader = Callable[[Server, str, str], None]


def nothing(_place: Place) -> None:
    """Leave it as kmodd made it."""


def no_words(_case: Case) -> tuple[str, ...]:
    return ()


def enter(server: Server, release: str, words: str) -> None:
    """Write a plain boot loader entry."""
    server.boot_entry(release, f"root=/dev/vda ro {words}".rstrip())


def any_kind(kind: Kind) -> bool:
    return not kind.special


def of(*names: str) -> Callable[[Kind], bool]:
    """Return the test of a kind's name."""
    return lambda kind: kind.name in names


def needing(kind: Kind) -> bool:
    """Tell whether a kind needs another module of the case's own."""
    return bool(kind.needs) and not kind.special


@dataclass(frozen=True)
class Fault:
    """A row: one way in which something is wrong, or only looks so.

    klass: what it belongs to: a class of issue or false alarm, or "O" for what was never in doubt. text: what it is.
    words: of the kernel's command line; alone: nothing else may stand there. loader: how the command line is given.
    first: modules that are loaded before. foreign: the object is none of kmodd's any more, so that kmodd blocks it even
    where a kernel loads it. owns: it changes the kernel's own module that the kind needs, for everybody. risky: the
    kernel may not survive it: a boot of its own. late: depmod may not survive it, and has run before. nameless: the
    kernel finds no srcversion in the object, so that its file alone tells which one is live.
    """

    klass: str
    text: str
    spoil: Spoil = nothing
    fits: Callable[[Kind], bool] = any_kind
    words: Words = no_words
    alone: bool = False
    loader: Loader = enter
    name: Optional[Callable[[Case], str]] = None
    more: tuple[str, ...] = ()  # further modules of the case, by kind
    first: tuple[str, ...] = ()  # of those, what is loaded before
    options: str = "-"
    load: str = ""  # [load] of its module file; {name} stands for the module
    foreign: bool = False
    owns: bool = False
    risky: bool = False
    late: bool = False
    nameless: bool = False
    releases: tuple[int, ...] = field(default=(0, 1, 2, 3, 4))

    @property
    def title(self) -> str:
        return f"{self.klass} {self.text}"


def pack(content: bytes, suffix: str) -> bytes:
    """Return content compressed as a file of that suffix is."""
    if suffix not in PACK:
        return content
    return subprocess.run([*PACK[suffix], "-c"], input=content, check=True, capture_output=True).stdout


def unpack(content: bytes, suffix: str) -> bytes:
    """Return the content of a file of that suffix."""
    if suffix not in UNPACK:
        return content
    return subprocess.run([UNPACK[suffix], "-dc"], input=content, check=True, capture_output=True).stdout


def stem(path: Path) -> str:
    """Return the canonical name of the module that a file should hold."""
    return path.name.split(".ko")[0].replace("-", "_")
