"""What commands of kmoddctl are made of: a function that adds a command's arguments, and one that runs it.

Arguments that several commands have are here. Must not: import a command, or anything heavy.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from typing import NamedTuple, NoReturn, Optional

AddArguments = Callable[[argparse.ArgumentParser], object]


class Parser(argparse.ArgumentParser):
    """Suggests what a misspelt command may have meant."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "'" in message:
            from . import find_names  # which this module is imported by

            word = message.split("'")[1]
            close = difflib.get_close_matches(word, find_names(), 1)
            message = f"{word!r} is not a command" + (f"; did you mean {close[0]!r}?" if close else "")
        super().error(message)


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
