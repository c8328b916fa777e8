"""Run `kmoddctl sync` and die by SIGKILL just before the n-th step that changes something: killed.py N ROOT.

Prints how many steps there were when it gets to the end. Steps are renames, links, deletions, new directories, and
programs started.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kmodd import ctl
from kmodd.system import run

_count = 0


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def step(*words: Any, **more: Any) -> Any:
        global _count
        _count += 1
        if _count == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **more)

    return step


def main() -> None:
    """Entry point."""
    for owner, name in (
        (Path, "rename"),
        (Path, "unlink"),
        (Path, "mkdir"),
        (Path, "rmdir"),
        (os, "link"),
        (run, "Child"),
    ):
        setattr(owner, name, _counted(getattr(owner, name)))
    try:
        ctl.main(["sync", "--root", sys.argv[2]])
    finally:
        print(f"steps={_count}")


if __name__ == "__main__":
    main()
