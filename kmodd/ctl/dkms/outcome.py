"""Has kmodd bring a root to what is registered, and reports the result as dkms does: with its lines and exit codes.

Must not: change what is registered, or run inside an rpm transaction.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Collection

from ...core.actions import Action
from ...core.documents.choosing import Document
from ...core.model import Target
from ..applying import bring_up as bring_up_here
from ..applying import repeatable
from ..connection import ask
from ..inprocess import Observed, observe
from ..watch import sync_by_daemon
from .arguments import Arguments, Refusal

#: Exit codes of dkms by the problem of a target that was to be installed; others: 10 after a build, else 6.
CODES = {
    "kernel-devel-missing": 21, "build-tree-incomplete": 21, "build-tree-mismatch": 21, "object-missing": 7,
    "patch-missing": 5, "patch-failed": 6, "dkms-conf-invalid": 8, "dkms-conf-denied": 8, "dkms-conf-hostile": 8,
    "dkms-conf-timeout": 8, "dkms-hook": 8, "source-missing": 2, "depends-unknown": 13, "depends-not-ready": 13,
    "depends-cycle": 13, "depends-excluded": 13,
}  # fmt: skip
LINES = {
    7: "Build of {name} failed for: {kernel} ({arch})",
    8: "Bad conf file.",
    10: "Bad return status for module build on kernel: {kernel} ({arch})",
    13: "Aborting build of module {title} for kernel {kernel} ({arch}) due to missing BUILD_DEPENDS.",
    21: "Your kernel headers for kernel {kernel} cannot be found at /lib/modules/{kernel}/build.",
}


def look_at(root: str) -> Observed:
    """Observe a root in this process."""
    return observe(Namespace(root=root))


def bring_up(
    root: str, module: str = "", releases: Collection[str] = (), force: bool = False
) -> dict[Target, Document]:
    """Bring a root up to date, and return all targets of the status that this leaves. Raises Problem.

    A running daemon does all that is due. Without one, module and what it depends on is all that is done, on these
    releases; "" and none are all. force: build again what was built, or failed.
    """
    for release in releases if force else ():
        ask(root, "Rebuild", module=module, kernel=release)
    document = sync_by_daemon(root, False)
    if document is None:
        seen = look_at(root)
        modules = _closure(seen, module)

        def wanted(action: Action) -> bool:
            subject = action.subject
            is_ours = not (module and subject.module) or subject.module in modules
            return is_ours and (not (releases and subject.kernel) or subject.kernel in releases)

        again = [t for t in repeatable(seen, module, None)[0] if force and t.kernel in releases]
        document = bring_up_here(root, "dkms", again, wanted)
    return {Target(found["module"], found["kernel"]): found for found in document["targets"]}


def _closure(seen: Observed, module: str) -> set[str]:
    """Return a module and all that it is built after."""
    found, pending = set(), {module}
    while pending:
        name = pending.pop()
        found.add(name)
        for target in seen.judgements:
            if target.module == name and name in seen.snapshot.modules:
                pending |= set(seen.snapshot.depends(target)) - found
    return found


def explained_by(reason: str, hint: str) -> list[str]:
    """Return a reason and what to do as lines."""
    return [line for line in (reason, hint) if line]


def tell(arguments: Arguments, target: Document, release: str, architecture: str, done: bool) -> None:
    """Report the result for a target. done: it was installed before. Raises Refusal where it is not installed."""
    verdict, attempt = target.get("verdict", ""), target.get("last_attempt") or {}
    said = explained_by(target.get("reason", "kmodd does not know it"), target.get("hint", ""))
    if verdict in ("ready", "blocked") and target["objects"]:
        for item in [] if done else target["objects"]:
            where, name = os.path.split(item["path"])
            print(f"\n{name}:\n - Installation\n   - Installing to {where}/")
        if verdict == "blocked":
            print("Warning: " + "\n".join(said), file=sys.stderr)
        return
    if target.get("problem") == "kernel-has-newer":
        raise Refusal(6, *said, "Installation aborted.")
    if verdict == "excluded":
        text = f"The dkms.conf for module {arguments.module} includes a BUILD_EXCLUSIVE directive which does not match"
        raise Refusal(77, f"{text} this kernel/arch/config.", "This indicates that it should not be built.", *said)
    code = CODES.get(target.get("problem", ""), 6 if attempt.get("stage") == "install" else 10)
    facts = {"title": arguments.title, "kernel": release, "arch": architecture, "name": arguments.module}
    lines = [LINES[code].format(**facts)] if code in LINES else []
    more = [f"Consult {attempt['log']} for more information."] if attempt.get("log") and code in (7, 10) else []
    raise Refusal(code, *lines, *said, *more)
