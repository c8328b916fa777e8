"""dkms: the command that scriptlets of packages call, with DKMS's words, lines and exit codes, on kmodd's modules.

Why it only registers: docs/decisions/0006-dkms-command.md."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Optional

from ...core.errors import Problem
from ..terminal import open_doors
from .arguments import USAGE, Arguments, Refusal, parse

VERSION = "3.0.10"  # of the DKMS whose command line this is


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Entry point of dkms(8)."""
    os.umask(0o022)
    words = list(sys.argv[1:] if argv is None else argv)
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]
    open_doors()
    try:
        arguments = parse(words)
        if arguments.quiet:
            silence = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(silence, stream.fileno())
        sys.exit(_run(arguments))
    except Refusal as refusal:
        print("Error! " + "\n".join(refusal.lines), file=sys.stderr)
        if refusal.usage:
            print(USAGE)
        sys.exit(refusal.code)
    except Problem as problem:
        print(f"Error! {problem.message}", *([problem.hint] if problem.hint else []), sep="\n", file=sys.stderr)
        sys.exit(6)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _run(arguments: Arguments) -> int:
    for word in arguments.deprecated:
        print(f"Deprecated feature: {word}", file=sys.stderr)
    for word in arguments.surplus:
        print(f"Warning: I do not know how to handle {word}.", file=sys.stderr)
    if arguments.show_version:
        print(f"dkms-{VERSION}")
        return 0
    if arguments.show_help:
        print(USAGE)
        return 0
    if not arguments.action:
        raise Refusal(0, 'Unknown action specified: ""', usage=True)
    if arguments.action != "status" and os.geteuid() != 0:
        raise Refusal(1, "You must be root to use this command.")
    from ...system.log import configure
    from .actions import run

    configure("critical")
    return run(arguments)
