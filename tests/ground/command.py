"""Runs a program for the ground and explains its failure once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional, Union


class GroundError(Exception):
    """The ground cannot be laid: what happened, fit to print."""


def run(
    argv: Sequence[Union[str, Path]],
    cwd: Optional[Path] = None,
    env: Optional[Mapping[str, str]] = None,
    check: bool = True,
) -> str:
    """Run a program and return what it printed to stdout.

    Raises GroundError, with the last lines of stderr, when the program is missing or (with check) when it fails.
    """
    words = [str(word) for word in argv]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        done = subprocess.run(
            words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError as error:
        raise GroundError(f"{words[0]} is not installed; run tests/ground/setup") from error
    if check and done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise GroundError(f"{' '.join(words[:6])} … ended with status {done.returncode}:\n{tail}")
    return done.stdout
