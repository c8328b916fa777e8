"""kmoddctl: what an administrator sees and does. Of its commands, only the one that is given is imported.

Exit codes: 0 done or all ready; 1 something failed; 2 usage, or no such module or kernel; 3 daemon needed and
unreachable; 4 not ready.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Optional

from .. import UMASK, __version__
from ..core.errors import Problem
from .parser import Command, Parser, add_command, add_common
from .terminal import open_doors

CLOSED = 141  # as of a program that SIGPIPE ends, so that nobody mistakes it for an answer
DONE, FAILED, USAGE, UNREACHABLE, NOT_READY = 0, 1, 2, 3, 4
UNKNOWN_NAMES = ("module-unknown", "kernel-unknown")  # of a command line that names what is not there


#: command -> (module, help); each module has COMMANDS with the arguments and the function of each of its commands.
COMMANDS = {
    "status": ("status", "show every module on every kernel, and what is to be done"),
    "plan": ("plan", "show what the daemon would do now, and why"),
    "logs": ("logs", "show what builds printed"),
    "explain": ("explain", "tell the whole story of a module on a kernel"),
    "verify": ("verify", "check that what is installed would load"),
    "check": ("check", "say in one line whether all is well, for a monitoring system"),
    "gate": ("gate", "tell whether a kernel may be booted, and wait until it may"),
    "boot": ("boot", "show what boots and what is held back, or release a kernel that is held"),
    "load": ("load", "load what is to be loaded at boot, and keep what the modules said"),
    "watch": ("watch", "show what the daemon does, as it happens"),
    "sync": ("sync", "observe, plan and apply once"),
    "rebuild": ("sync", "build a module again although nothing changed, or whatever failed"),
    "reload": ("watch", "have the daemon read its settings again"),
    "add": ("change", "register a source directory or an archive"),
    "lint": ("lint", "check a module file, or the settings, wherever the file lies"),
    "import": ("importing", "register what DKMS keeps built"),
    "remove": ("change", "unregister a module and remove what was installed"),
    "enable": ("change", "take a disabled module up again"),
    "disable": ("change", "keep a module registered, but remove what was installed"),
    "doctor": ("doctor", "check whether this host has what kmodd needs, and say how to mend it"),
    "key": ("keys", "make, show, enrol or replace the key that signs"),
}


def import_command(name: str) -> Command:
    """Import a command."""
    found: Command = importlib.import_module(f".{COMMANDS[name][0]}", __name__).COMMANDS[name]
    return found


def make_parser(words: Optional[Sequence[str]] = None) -> Parser:
    """Return the parser of the whole command line.

    words: where they are given, only commands among them are imported for their arguments.
    """
    parser = Parser(
        prog="kmoddctl",
        description="Control out-of-tree kernel modules that kmodd keeps built for every kernel. "
        "Without a command, show the status.",
        epilog="Exit codes: 0 done or all ready, 1 something failed, 2 usage (such as no such module or kernel), 3 the "
        "daemon is needed and cannot be reached, 4 not ready (waiting, building, blocked). See kmoddctl(8).",
    )
    add_common(parser, "/", False)
    parser.add_argument("--version", action="version", version=f"kmoddctl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (_, text) in COMMANDS.items():
        is_needed = words is None or name in words
        add_command(commands, name, text, import_command(name).add_arguments if is_needed else None)
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    try:
        options = make_parser(argv).parse_args(argv)
        return options if options.command else _parse([*argv, "status"])
    except SystemExit as end:
        if end.code == USAGE and argv[:1] == ["check"]:  # a monitoring system would take 2 for CRITICAL
            print("KMODD UNKNOWN - wrong usage, see kmoddctl check --help")
            sys.exit(3)
        raise


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Entry point of kmoddctl(8)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--complete"]:  # for the shells' completion, and for them alone
        from .complete import print_names

        return print_names(words[1:])
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # an arrow is no reason to fail
    open_doors()
    os.umask(UMASK)
    try:
        sys.exit(_run(words))
    except BrokenPipeError:  # who read the output went away, such as head(1)
        _drop_output()
        sys.exit(CLOSED)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(words: Sequence[str]) -> int:
    """Run a command line; returns the exit code. Raises BrokenPipeError."""
    options = argparse.Namespace(command="", json=False)
    try:
        options = _parse(words)
        code = import_command(options.command).run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        raise
    except Exception as error:
        problem = error if isinstance(error, Problem) else _explain(error, options)
    if options.json:
        fault = {"problem": problem.code, "message": problem.message, "hint": problem.hint}
        print(json.dumps({"schema": 1, "error": fault}), flush=True)
    print(f"kmoddctl: {problem.message}", file=sys.stderr)
    if problem.hint:
        print(f"  hint: {problem.hint}", file=sys.stderr)
    return _code(problem)


def _code(problem: Problem) -> int:
    """Return the exit code of a command that ended by a problem."""
    if problem.code.startswith("usage-") or problem.code in UNKNOWN_NAMES:
        return USAGE
    return UNREACHABLE if problem.code == "daemon-unreachable" else FAILED


def _explain(error: Exception, options: argparse.Namespace) -> Problem:
    """Return the problem that any other error is, such as a full disk under the command's own output."""
    from ..reconcile.unexpected import as_problem

    _drop_output()
    options.json = False
    return as_problem(error, f"kmoddctl {options.command}")


def _drop_output() -> None:
    """Have nothing more written to stdout, what waits in its buffer included."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
