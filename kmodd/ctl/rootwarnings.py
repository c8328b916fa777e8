"""The warnings about a whole root for the commands that read the disk themselves. Must not: find or print them."""

from __future__ import annotations

import os
from typing import Any

from ..core.rootwarnings import KEY, find_warnings, warning_rows
from .connection import ask
from .inprocess import Observed


def read_warnings(root: str, seen: Observed) -> tuple[dict[str, Any], ...]:
    """Return the warnings of an observation as JSON has them.

    Only root can tell whether the key signs; for others the daemon tells it, where it runs.
    """
    rows = warning_rows(find_warnings(seen.snapshot))
    if os.geteuid() != 0 and seen.holder is not None:
        told = (ask(root, "Status") or {}).get("warnings", ())
        rows += [row for row in told if row["problem"].startswith(KEY) and row not in rows]
    return tuple(rows)
