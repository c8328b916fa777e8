"""The documents that commands show (report), and what they mean for the exit code.

Imports nothing heavy: what observes the root is imported where it is needed. Must not: render.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Optional

from ..core.documents.choosing import Document, check_names, choose
from ..core.errors import Problem
from . import DONE, FAILED, NOT_READY, terminal
from .connection import ask

if TYPE_CHECKING:
    from ..core.model import Judgement, Target
    from .inprocess import Observed

PENDING = "pending"  # is to be built, and nobody does it
MASKS = "etc/kmodd/modules.d"  # in-root, where a link to /dev/null hides a module file of a package


def read_status(options: argparse.Namespace) -> Document:
    """Return a root's status: the running daemon's, but for verify, which reads the root itself. Raises Problem."""
    found = ask(options.root, "Status") if options.command != "verify" else None
    if found is not None:
        return without_removed(found, options.root)
    from .inprocess import observe

    return observe(options).status()


def without_removed(status: Document, root: str) -> Document:
    """Return a status without modules whose files were removed, or masked, since the daemon's last pass."""
    gone = {
        module["name"] for module in status["modules"] if module["registered"] and _is_removed(module["file"], root)
    }
    return {
        **status,
        "modules": [module for module in status["modules"] if module["name"] not in gone],
        "targets": [target for target in status["targets"] if target["module"] not in gone],
    }


def _is_removed(file: str, root: str) -> bool:
    """Tell whether a module file, in-root, is certainly not there any more, or masked by a link to /dev/null."""
    path = os.path.join(root, file.lstrip("/"))
    mask = os.path.join(root, MASKS, os.path.basename(file))
    if os.path.islink(mask) and os.readlink(mask) == os.devnull:
        return True
    return bool(file) and os.access(os.path.dirname(path), os.R_OK | os.X_OK) and not os.path.lexists(path)


def as_shown(document: Any, holder: Optional[str]) -> Any:
    """Return a document as people read it: what is to be built is pending where nobody is there to build it."""
    if holder is not None:
        return document
    if isinstance(document, dict):
        shown = {key: as_shown(value, holder) for key, value in document.items()}
        return {**shown, "verdict": PENDING} if document.get("verdict") == "building" else shown
    return [as_shown(value, holder) for value in document] if isinstance(document, list) else document


def word(verdict: str, holder: Optional[str]) -> str:
    """Return a verdict as people read it, as as_shown does."""
    return PENDING if verdict == "building" and holder is None else verdict


def as_row(target: Target, judgement: Judgement, holder: Optional[str]) -> Document:
    """Return a target with its judgement as what is grouped, in the words that people read."""
    return {
        "module": target.module,
        "kernel": target.kernel,
        "verdict": word(judgement.verdict.value, holder),
        "reason": judgement.reason,
        "problem": judgement.problem,
        "hint": judgement.hint,
    }


def read_warnings(root: str, seen: Observed) -> tuple[Document, ...]:
    """Return the warnings about a whole root that was observed, as JSON has them.

    Only root can tell whether the key signs; for others the daemon tells it, where it runs.
    """
    from ..core.rootwarnings import KEY, find_warnings, warning_rows

    rows = warning_rows(find_warnings(seen.snapshot))
    if os.geteuid() != 0 and seen.holder is not None:
        told = (ask(root, "Status") or {}).get("warnings", ())
        rows += [row for row in told if row["problem"].startswith(KEY) and row not in rows]
    return tuple(rows)


def read_verification(options: argparse.Namespace) -> Document:
    """Return the checks of the targets that options.module and options.kernel choose, made anew. Raises Problem."""
    from .inprocess import observe

    seen = observe(options, anew=True)
    check_names(seen.status(), options.module, options.kernel)
    document = seen.verification()
    return {**document, "targets": choose({**seen.status(), **document}, options.module, options.kernel)["targets"]}


def forget(root: str) -> None:
    """Have the running daemon, if any, make all checks anew, too, so that status says what was found."""
    with contextlib.suppress(Problem):  # only root may ask the daemon for it; anybody may verify
        ask(root, "Verify")


def read_plan(options: argparse.Namespace) -> Document:
    """Return the plan of a root. Raises Problem."""
    found = ask(options.root, "Plan")
    if found is not None:
        return found
    from .inprocess import observe

    return observe(options).plan()


def read_story(options: argparse.Namespace) -> Document:
    """Return the story of options.module, on options.kernel or on all. Raises Problem."""
    found = ask(options.root, "Explain", module=options.module, kernel=options.kernel)
    if found is not None:
        return found
    from .inprocess import observe

    seen = observe(options)
    check_names(seen.status(), options.module, options.kernel)
    return {**seen.story(options.module, options.kernel), "holder": seen.holder}


def clean(document: Any) -> Any:
    """Return a document whose texts can be put on a terminal."""
    if isinstance(document, str):
        return terminal.clean(document)
    if isinstance(document, dict):
        return {key: clean(value) for key, value in document.items()}
    return [clean(value) for value in document] if isinstance(document, list) else document


def exit_code(targets: Iterable[Document], of_module: bool) -> int:
    """Return the exit code that targets mean: the required ones, or all where a module was asked for."""
    verdicts = {target["verdict"] for target in targets if of_module or target["required"]}
    if "failed" in verdicts:
        return FAILED
    return NOT_READY if verdicts & {"blocked", "waiting", "building"} else DONE
