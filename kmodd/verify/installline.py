"""What the command of an install line of modprobe.d does for its module: loads it, does not, or cannot be determined.

Sources: modprobe.d(5); module_do_install_commands() and kmod_module_probe_insert_module() of libkmod-module.c, which
pass the command to sh(1). Only lists of simple commands are read, and what they do is known of few. Pure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from ..core.modulefile import canonical

OPTIONS = "$CMDLINE_OPTS"  # kmod puts the module's options in its place
#: Options of modprobe by which it passes over install lines, and those that change nothing of what is loaded.
IGNORING = frozenset({"-i", "--ignore-install"})
HARMLESS = IGNORING | {"-q", "--quiet", "-s", "--syslog", "-v", "--verbose"}
CONNECTORS = re.compile(r"\s*(&&|\|\||;)\s*")
PLAIN = re.compile(r"[\w \t=,.:+/@%-]*")  # what the shell gives a command as it is written
SUCCEEDING, FAILING = frozenset({"true", ":"}), frozenset({"false"})


@dataclass(frozen=True)
class Effect:
    """What a command does for its module.

    loads: whether it loads it, None where that is not known. options: what it passes beside those of modprobe.d.
    """

    loads: Optional[bool]
    options: str = ""


UNTOLD = Effect(None)


@dataclass
class _Shell:
    """A shell as far as a list of commands was read. status: of the last command, None where it is not known."""

    name: str
    status: Optional[bool] = True
    loaded: Optional[bool] = False
    options: str = ""
    ended: Optional[bool] = False

    def run(self, words: Sequence[str], certain: bool) -> None:
        """Note a command that is run, or may be where that is not certain."""
        program, rest = os.path.basename(words[0]), words[1:]
        if program in SUCCEEDING | FAILING:
            self.status = program in SUCCEEDING if certain else None
        elif program == "exit" and words[0] == program and rest in ([], ["0"], ["1"]):
            self.status = self.status if not rest else rest == ["0"]
            self.ended = True if certain else None
        elif program == "modprobe":
            self._modprobe(rest, certain)
        else:
            self._note(None, None)

    def _modprobe(self, words: Sequence[str], certain: bool) -> None:
        flags = [word for word in words if word.startswith("-")]
        named = [word for word in words if not word.startswith("-")]
        if not named or not HARMLESS.issuperset(flags) or (self._is_own(named[0]) and IGNORING.isdisjoint(flags)):
            self._note(None, None)
        elif not self._is_own(named[0]):
            self.status = None  # another module, which may load or not
        else:
            self._note(True if certain else None, True if certain else None)
            self.options = " ".join(named[1:])

    def _is_own(self, word: str) -> bool:
        return canonical(word) == self.name

    def _note(self, loaded: Optional[bool], status: Optional[bool]) -> None:
        self.loaded = self.loaded or loaded
        self.status = status


def read(command: str, name: str, options: str) -> Effect:
    """Return what a command does. name: canonical. options: those that modprobe.d has for the module."""
    shell = _Shell(name)
    for connector, part in _commands(command.replace(OPTIONS, options)):
        words = part.split()
        if not words or not PLAIN.fullmatch(part) or "=" in words[0]:
            return UNTOLD
        wanted = {"&&": shell.status, "||": None if shell.status is None else not shell.status}.get(connector, True)
        if wanted is not False:
            shell.run(words, certain=wanted is True and shell.ended is False)
        if shell.ended:
            break
    if shell.loaded and shell.status is False:
        return UNTOLD  # it loads it, and tells modprobe that it did not
    return Effect(shell.loaded, shell.options)


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a list, each with what connects it with the one before."""
    parts = CONNECTORS.split(text.strip().rstrip(";"))
    yield from zip(["", *parts[1::2]], parts[::2])
