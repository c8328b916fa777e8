"""What of a status document concerns a module or a kernel; the names that nobody knows. Pure; imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Optional

from ..errors import Problem

#: What a command shows and --json prints, made of what JSON knows.
Document = dict[str, Any]


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


def check_names(status: Mapping[str, Any], module: Optional[str], kernel: Optional[str]) -> None:
    """Raise Problem module-unknown or kernel-unknown where a status knows nothing of what is asked for."""
    if module is not None:
        check_module(module, {found["name"] for found in status["modules"]})
    if kernel is not None:
        check_kernel(kernel, [*(found["release"] for found in status["kernels"]), *status["leftovers"]])


def choose(status: Mapping[str, Any], module: Optional[str], kernel: Optional[str]) -> dict[str, Any]:
    """Return what a status says of one module, one kernel, or both."""

    def is_chosen(found: Mapping[str, Any], module_key: str, kernel_key: str) -> bool:
        return module in (None, found.get(module_key, module)) and kernel in (None, found.get(kernel_key, kernel))

    return {
        **status,
        "kernels": [found for found in status["kernels"] if is_chosen(found, "", "release")],
        "modules": [found for found in status["modules"] if is_chosen(found, "name", "")],
        "targets": [found for found in status["targets"] if is_chosen(found, "module", "kernel")],
        "warnings": [found for found in status.get("warnings", ()) if module in (None, "", found["module"])],
    }
