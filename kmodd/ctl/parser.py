"""What commands of kmoddctl are made of: a function that adds a command's arguments, and one that runs it.

Arguments that several commands have are here. Must not: import a command, or anything heavy.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Optional

#: What argparse says of a word that is none of the choices; versions of Python differ in the quotes of these.
CHOICE = re.compile(
    r"argument (?P<argument>\S+): invalid choice: '(?P<word>.*)' \(choose from (?P<choices>.*)\)$", re.DOTALL
)
CLOSE = 0.7  # how alike a word must be to what it may have been meant for
CHOSEN = re.compile(r"[^\s',]+")
AddArguments = Callable[[argparse.ArgumentParser], object]


class Parser(argparse.ArgumentParser):
    """Suggests what a misspelt word may have meant, and shows the usage of the command that it was given to."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what a command does not know here; argparse leaves that to the parser of the whole line."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and not self._commands():
            options = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(
                f"unrecognized arguments: {' '.join(unknown)}{_suggestion(unknown[0].partition('=')[0], options)}"
            )
        return found, unknown

    def error(self, message: str) -> NoReturn:
        match = CHOICE.search(message)
        if match is not None:
            word, choices = match["word"], self._commands()
            if match["argument"] in ("COMMAND", "VERB"):
                message = f"{word!r} is not a command{_suggestion(word, choices, find_elsewhere(word))}"
            else:
                choices = CHOSEN.findall(match["choices"])
                message = (
                    f"{match['argument']} is one of {', '.join(choices)}, not {word!r}{_suggestion(word, choices)}"
                )
        super().error(message)

    def _commands(self) -> list[str]:
        """Return the names of the commands, or of the verbs of this one; none where it has no verbs."""
        found = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return [name for action in found for name in action.choices]


def _suggestion(word: str, known: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """Return what a word may have been meant for. elsewhere: what it is for certain."""
    close = [*elsewhere, *(one for one in difflib.get_close_matches(word, known, 1, CLOSE) if one != word)]
    return f"; did you mean {close[0]!r}?" if close else ""


def find_elsewhere(word: str) -> list[str]:
    """Return the command of which a word is a verb, with it."""
    from .keys import VERBS  # only where something is wrong with the command line

    return [f"key {word}"] if word in VERBS else []


class Command(NamedTuple):
    """add_arguments: adds what the command has besides common options. run: does the work, returns the exit code."""

    add_arguments: AddArguments
    run: Callable[[argparse.Namespace], int]


def add_common(parser: argparse.ArgumentParser, root: object, as_json: object) -> None:
    """Add the options of all commands, with their defaults."""
    parser.add_argument("--root", default=root, metavar="DIR", help="work on this root directory")
    parser.add_argument("--json", default=as_json, action="store_true", help="print JSON")


def add_command(
    commands: argparse._SubParsersAction[Parser], name: str, text: str, add_arguments: Optional[AddArguments]
) -> None:
    """Add a command, or a verb of one, with the common options, which may also stand before it.

    add_arguments: None where only the name and help of the command will be seen.
    """
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if add_arguments is not None:
        add_common(command, argparse.SUPPRESS, argparse.SUPPRESS)
        add_arguments(command)


def add_nothing(parser: argparse.ArgumentParser) -> None:
    """Add no arguments, for a command that has only the common ones."""


def add_module(parser: argparse.ArgumentParser) -> None:
    """Add MODULE."""
    parser.add_argument("module", help="its name")


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add MODULE and --kernel."""
    add_module(parser)
    parser.add_argument("--kernel", metavar="RELEASE", help="only this kernel release")


def add_optional_target(parser: argparse.ArgumentParser) -> None:
    """Add [MODULE] and --kernel."""
    parser.add_argument("module", nargs="?", help="its name")
    parser.add_argument("--kernel", metavar="RELEASE", help="only this kernel release")


def add_choice_of_kernel(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add --kernel and --default, of which one may be given; returns their group."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--kernel", metavar="RELEASE", help="this kernel release")
    group.add_argument("--default", action="store_true", help="the kernel that boots next")
    return group


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run."""
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
