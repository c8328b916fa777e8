"""kmoddctl: what an administrator sees and does. Commands are imported when they are called, to start quickly.

Exit codes: 0 done or all ready; 1 something failed; 2 usage; 3 daemon needed and unreachable; 4 not ready.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Optional

from .. import UMASK, __version__
from ..core.errors import Problem
from .terminal import open_doors

CLOSED = 141  # as of a program that SIGPIPE ends, so that nobody mistakes it for an answer
DONE, FAILED, USAGE, UNREACHABLE, NOT_READY = 0, 1, 2, 3, 4


class Parser(argparse.ArgumentParser):
    """Suggests what a misspelt command may have meant."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "'" in message:
            word = message.split("'")[1]
            close = difflib.get_close_matches(word, [*COMMANDS, *KEY_VERBS], 1)
            message = f"{word!r} is not a command" + (f"; did you mean {close[0]!r}?" if close else "")
        super().error(message)


#: command -> (module, help); each module has run_COMMAND(options) -> exit code.
COMMANDS = {
    "status": ("status", "show every module on every kernel, and what is to be done"),
    "plan": ("plan", "show what the daemon would do now, and why"),
    "logs": ("logs", "show what builds printed"),
    "explain": ("explain", "tell the whole story of a module on a kernel"),
    "verify": ("verify", "check that what is installed would load"),
    "check": ("check", "say in one line whether all is well, for a monitoring system"),
    "gate": ("gate", "tell whether a kernel may be booted, and wait until it may"),
    "load": ("load", "load what is to be loaded at boot, and keep what the modules said"),
    "watch": ("watch", "show what the daemon does, as it happens"),
    "sync": ("sync", "observe, plan and apply once"),
    "rebuild": ("sync", "build a module again although nothing changed, or whatever failed"),
    "reload": ("watch", "have the daemon read its settings again"),
    "add": ("change", "register a source directory or an archive"),
    "import": ("taking", "register what DKMS keeps built"),
    "remove": ("change", "unregister a module and remove what was installed"),
    "enable": ("change", "take a disabled module up again"),
    "disable": ("change", "keep a module registered, but remove what was installed"),
    "doctor": ("doctor", "check whether this host has what kmodd needs, and say how to mend it"),
    "key": ("keys", "make, show, enrol or replace the key that signs"),
}


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    common = Parser(add_help=False)
    parser = Parser(
        prog="kmoddctl",
        description="Control out-of-tree kernel modules that kmodd keeps built for every kernel. "
        "Without a command, show the status.",
        epilog="Exit codes: 0 done or all ready, 1 something failed, 2 usage, 3 the daemon is needed and cannot be "
        "reached, 4 not ready (waiting, building, blocked). See kmoddctl(8).",
    )
    for place, defaults in ((parser, ("/", False)), (common, (argparse.SUPPRESS, argparse.SUPPRESS))):
        place.add_argument("--root", default=defaults[0], metavar="DIR", help="work on this root directory")
        place.add_argument("--json", default=defaults[1], action="store_true", help="print JSON")
    parser.add_argument("--version", action="version", version=f"kmoddctl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(name, parents=[common], help=text, description=text[0].upper() + text[1:] + ".")
        if name in ("status", "explain", "logs", "verify", "rebuild"):
            command.add_argument("module", nargs=None if name in ("explain", "logs") else "?", help="its name")
            command.add_argument("--kernel", metavar="RELEASE", help="only this kernel release")
        if name in ("check", "gate"):
            chosen = command.add_mutually_exclusive_group()
            chosen.add_argument("--kernel", metavar="RELEASE", help="this kernel release")
            chosen.add_argument("--default", action="store_true", help="the kernel that boots next")
        if name == "check":
            chosen.add_argument("--all", action="store_true", help="every kernel, each as if it booted next")
        if name == "gate":
            command.add_argument("--wait", metavar="SPAN", help="wait for so long, such as 30min")
        if name in ("remove", "enable", "disable"):
            command.add_argument("module", help="its name")
        if name == "add":
            command.add_argument("path", help="the source directory or archive")
            command.add_argument("--name", help="default: the directory's name without its version")
            command.add_argument("--version", default="", dest="module_version", help="free text, shown in status")
            command.add_argument("--at-boot", action="append", default=[], metavar="OBJECT", help="load it at boot")
            command.add_argument("--optional", action="store_true", help="a kernel is ready without it, too")
        if name == "import":
            command.add_argument("tool", choices=["dkms"], help="whose modules")
            command.add_argument("places", nargs="*", metavar="PATH|NAME[/VERSION]", help="sources with a dkms.conf")
            command.add_argument("--all", action="store_true", help="every one in /usr/src and /var/lib/dkms")
            copies = command.add_mutually_exclusive_group()
            copies.add_argument("--remove-copies", action="store_true", help="put aside what DKMS itself installed")
            copies.add_argument("--restore-copies", action="store_true", help="put that back")
            command.add_argument("--ignore-hooks", action="store_true", help="take them without their install scripts")
        if name in ("sync", "rebuild", "add", "import", "remove", "enable", "disable"):
            command.add_argument("--dry-run", action="store_true", help="only show what would be done")
        if name == "logs":
            which = command.add_mutually_exclusive_group()
            which.add_argument("--list", action="store_true", help="list the attempts whose logs are kept")
            which.add_argument("--attempt", metavar="N", help="one that --list shows; default: 1, the last")
            which.add_argument("--follow", action="store_true", help="print on while the build runs")
        if name in ("sync", "rebuild"):
            command.add_argument("--verbose", action="store_true", help="log what is done")
        if name == "key":
            _add_key_verbs(command, common)
    return parser


KEY_VERBS = {
    "generate": "make the first key",
    "import": "take over the key of DKMS, akmods or any other as the first key",
    "show": "show what is in the certificate",
    "status": "show which kernels trust the key, and what is signed by it",
    "enroll": "ask the firmware of this machine to trust the key (MOK)",
    "rotate": "replace the key by a new one and sign everything anew, without building",
}


def _add_key_verbs(command: argparse.ArgumentParser, common: Parser) -> None:
    verbs = command.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, text in KEY_VERBS.items():
        verb = verbs.add_parser(name, parents=[common], help=text, description=text[0].upper() + text[1:] + ".")
        if name in ("generate", "rotate"):
            verb.add_argument("--algorithm", choices=["rsa", "ecdsa"], help="default: kmodd.toml's, else rsa")
        if name in ("import", "rotate"):
            verb.add_argument("paths", nargs="*", metavar="KEY CERTIFICATE", help="absolute paths of a pair to copy")
            verb.add_argument("--from", dest="source", choices=["dkms", "akmods"], help="copy that tool's pair")
        if name == "import":
            verb.add_argument("--undo", action="store_true", help="delete the copy again; the original stays")
        if name == "enroll":
            verb.add_argument("--password-file", metavar="FILE", help="its first line is the one-time password")
            verb.add_argument("--root-password", action="store_true", help="root's password is the one-time password")
        if name == "rotate":
            verb.add_argument("--now", action="store_true", help="do not wait until the firmware trusts the new key")
            verb.add_argument("--abort", action="store_true", help="drop a new key that waits for its enrolment")
        if name in ("generate", "import", "enroll", "rotate"):
            verb.add_argument("--dry-run", action="store_true", help="only show what would be done")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    try:
        return make_parser().parse_args(argv)
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
    options = _parse(words)
    if options.command is None:
        options = _parse([*words, "status"])
    try:
        sys.exit(_run(options))
    except BrokenPipeError:  # who read the output went away, such as head(1)
        _drop_output()
        sys.exit(CLOSED)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(options: argparse.Namespace) -> int:
    """Run a command; returns the exit code. Raises BrokenPipeError."""
    try:
        module = importlib.import_module(f".{COMMANDS[options.command][0]}", __name__)
        code: int = getattr(module, f"run_{options.command}")(options)
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
    codes = {"daemon-unreachable": UNREACHABLE}
    return USAGE if problem.code.startswith("usage-") else codes.get(problem.code, FAILED)


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
