"""Reports of builds to an observer, and unexpected errors as problems."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Callable, Optional

from ..core.errors import Problem
from ..core.model import Target
from ..system.files import explain
from ..system.log import get_logger

#: Is called for every build with its target, "started" or the outcome (succeeded, failed, stopped, discarded), its
#: log, and how many seconds it took. Must return at once.
BuildObserver = Callable[[Target, str, Optional[Path], float], None]


def clean_up(*steps: Callable[[], object]) -> None:
    """Run steps that only tidy up: what one raises, whatever it is, is logged and stops nothing."""
    for step in steps:
        try:
            step()
        except Exception as error:
            get_logger().warning("clean-up incomplete", reason=f"{type(error).__name__}: {error}")


def as_problem(error: Exception, doing: str, again: bool = False) -> Problem:
    """Return any exception as a Problem; an unexpected one is logged with its traceback.

    again: it was logged before.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, OSError):
        return explain(error, doing)
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        text = f"{doing}: neither memory nor a thread was to be had ({error or type(error).__name__})"
        return Problem(
            "resources-exhausted", text, "kmodd tries again by itself; see MemoryMax= and TasksMax= of its unit"
        )
    problem = Problem("internal-error", f"{doing}: {type(error).__name__}: {error}", "please report it", transient=True)
    if again:
        return problem
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    get_logger().critical("unforeseen error", doing=doing, traceback=text)
    return problem
