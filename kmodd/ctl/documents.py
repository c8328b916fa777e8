"""The documents that commands show (report), and what is chosen of them.

Imports nothing heavy: a look at the root is imported when one is taken. Must not: render.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterable
from typing import Any, Optional

from ..errors import Problem
from . import DONE, FAILED, NOT_READY, terminal
from .daemon import ask

Document = dict[str, Any]


def read_status(options: argparse.Namespace) -> Document:
    """Return the status of a root: the running daemon's, but for verify, which looks itself. Raises Problem."""
    found = ask(options.root, "Status") if options.command != "verify" else None
    if found is not None:
        return found
    from .look import look

    return look(options).status()


def read_verification(options: argparse.Namespace) -> Document:
    """Return the checks of the targets that options.module and options.kernel choose, made anew. Raises Problem."""
    from .look import look

    seen = look(options, anew=True)
    check_names(seen.status(), options.module, options.kernel)
    document = seen.verification()
    return {**document, "targets": choose({**seen.status(), **document}, options.module, options.kernel)["targets"]}


def read_plan(options: argparse.Namespace) -> Document:
    """Return the plan of a root. Raises Problem."""
    found = ask(options.root, "Plan")
    if found is not None:
        return found
    from .look import look

    return look(options).plan()


def read_story(options: argparse.Namespace) -> Document:
    """Return the story of options.module, on options.kernel or on all. Raises Problem."""
    found = ask(options.root, "Explain", module=options.module, kernel=options.kernel)
    if found is not None:
        return found
    from .look import look

    seen = look(options)
    check_names(seen.status(), options.module, options.kernel)
    return seen.story(options.module, options.kernel)


def clean(document: Any) -> Any:
    """Return a document whose texts can be put on a terminal."""
    if isinstance(document, str):
        return terminal.clean(document)
    if isinstance(document, dict):
        return {key: clean(value) for key, value in document.items()}
    return [clean(value) for value in document] if isinstance(document, list) else document


# -- choosing --------------------------------------------------------------------------------------------------------
def check_module(name: str, known: Collection[str]) -> None:
    """Raise Problem module-unknown, with a suggestion, where a module is not among the known ones."""
    if name not in known:
        raise Problem("module-unknown", f"no module {name} is registered", _suggestion(name, known))


def check_kernel(release: str, known: Collection[str]) -> None:
    """Raise Problem kernel-unknown, with a suggestion, where a kernel release is not among the known ones."""
    if release not in known:
        raise Problem("kernel-unknown", f"kernel {release} is not installed", _suggestion(release, known))


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), 1)
    return f"did you mean {close[0]}?" if close else "kmoddctl status lists all of them"


def check_names(status: Document, module: Optional[str], kernel: Optional[str]) -> None:
    """Raise Problem module-unknown or kernel-unknown where a status knows nothing of what is asked for."""
    if module is not None:
        check_module(module, {found["name"] for found in status["modules"]})
    if kernel is not None:
        check_kernel(kernel, [*(found["release"] for found in status["kernels"]), *status["leftovers"]])


def choose(status: Document, module: Optional[str], kernel: Optional[str]) -> Document:
    """Return what a status says of one module, one kernel, or both."""

    def is_chosen(found: Document, module_key: str, kernel_key: str) -> bool:
        return module in (None, found.get(module_key, module)) and kernel in (None, found.get(kernel_key, kernel))

    return {
        **status,
        "kernels": [found for found in status["kernels"] if is_chosen(found, "", "release")],
        "modules": [found for found in status["modules"] if is_chosen(found, "name", "")],
        "targets": [found for found in status["targets"] if is_chosen(found, "module", "kernel")],
    }


def exit_code(targets: Iterable[Document], of_module: bool) -> int:
    """Return the exit code that targets mean: the required ones, or all where a module was asked for."""
    verdicts = {target["verdict"] for target in targets if of_module or target["required"]}
    if "failed" in verdicts:
        return FAILED
    return NOT_READY if verdicts & {"blocked", "waiting", "building"} else DONE
