"""Running kmodd as a user without rights, also where the repository or Python lie in a home that is root's alone."""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
NOBODY = 65534


def as_nobody(*options: str) -> list[str]:
    """Return the words that run a command as nobody. options: of setpriv(1), for other groups than nobody's own."""
    words: list[str] = []
    places = sorted({TOP, Path(sys.prefix), Path(sys.base_prefix)})
    closed = {part for place in places for part in place.parents if not part.stat().st_mode & 0o001}
    for part in sorted(closed):
        if not any(parent in closed for parent in part.parents):
            words += ["--perms", "0755", "--tmpfs", str(part)]
    for place in places:
        if closed & set(place.parents):
            words += ["--bind", str(place), str(place)]
    opened = ["bwrap", "--dev-bind", "/", "/", "--cap-add", "ALL", *words, "--"] if words else []
    groups = options or (f"--regid={NOBODY}", "--clear-groups")
    return [*opened, "setpriv", f"--reuid={NOBODY}", *groups]
