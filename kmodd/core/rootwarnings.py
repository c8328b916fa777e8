"""What is wrong with a root although no target says so: one list for status, check, gate, doctor, motd and the journal.

Rules that match no kernel, files that are not read, a key that cannot sign. Pure. Must not: judge a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from .model import Fault, Snapshot, Target
from .modulefile import Module
from .planner.exclusion import find_exclusion, is_matched

LEFT_BY_RPM = (".rpmnew", ".rpmsave", ".rpmorig")
KEY = "signing-"  # begins the problem codes of the key


@dataclass(frozen=True)
class RootWarning:
    """A warning about a module or a file; both are "" where it is about the whole root."""

    fault: Fault
    module: str = ""
    file: str = ""


def find_warnings(snapshot: Snapshot) -> tuple[RootWarning, ...]:
    """Return all warnings of a root, the key's first."""
    found = []
    if snapshot.key_fault is not None and any(kernel.signature_hash for kernel in snapshot.present()):
        fault = snapshot.key_fault
        found.append(RootWarning(Fault(fault.problem, f"nothing can be signed: {fault.message}", fault.hint)))
    for name, module in sorted(snapshot.modules.items()):
        unmatched = find_unmatched(module, snapshot)
        if unmatched is not None:
            found.append(RootWarning(unmatched, name, module.path))
    found += [RootWarning(_unread(path), file=path) for path in snapshot.unread]
    return tuple(found)


def find_unmatched(module: Module, snapshot: Snapshot) -> Optional[Fault]:
    """Return that a module is excluded from every kernel that is installed, None where it is not, or is disabled."""
    kernels = snapshot.present()
    if not module.enabled or not kernels:
        return None
    rules, reasons = module.file.kernels, []
    for kernel in kernels:
        recipe = snapshot.of(Target(module.name, kernel.release)).recipe
        reason = find_exclusion(rules, kernel) or (recipe.excluded if recipe else "")
        if not reason:
            return None
        reasons.append(reason)
    why = reasons[0] if len(set(reasons)) == 1 else f"{reasons[0]}, and so on"
    hint = f"correct {module.path}, or say that it is meant so: kmoddctl disable {module.name}"
    if rules.match and not any(is_matched(rules, kernel.release) for kernel in kernels):
        why = f"kernels.match ({', '.join(rules.match)}) matches none that is installed"
        hint = f"{kernels[-1].release} is installed; {hint}"
    return Fault("kernels-unmatched", f"{module.name} is built for no kernel: {why}", hint)


def _unread(path: str) -> Fault:
    text = f"{path} is not read: module files end in .toml"
    stem, dot, suffix = path.rpartition(".")
    if f"{dot}{suffix}" in LEFT_BY_RPM:
        return Fault("module-file-unread", text, f"rpm left it: take what you want of it into {stem}, and delete it")
    plain = stem if stem.endswith(".toml") else f"{stem}.toml" if suffix == "conf" else f"{path}.toml"
    return Fault("module-file-unread", text, f"if it is meant to be: mv {path} {plain}; else delete it")


def warning_rows(warnings: Sequence[RootWarning]) -> list[dict[str, Any]]:
    """Return warnings as JSON has them."""
    return [
        {
            "module": warning.module,
            "file": warning.file,
            "problem": warning.fault.problem,
            "message": warning.fault.message,
            "hint": warning.fault.hint,
        }
        for warning in warnings
    ]


def summarize(rows: Sequence[dict[str, Any]]) -> str:
    """Return warnings as a part of one line, "" where there are none."""
    more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    return f"warning: {rows[0]['message']}{more}" if rows else ""
