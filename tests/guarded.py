"""A root with keys that root alone reads, and a source of somebody else, who may try to get at them."""

from __future__ import annotations

import os
from pathlib import Path

OWNER = 51234  # nobody's uid
CANARY = "-----BEGIN PRIVATE KEY----- canary"


def make_guarded(top: Path) -> Path:
    """Fill a directory that other users reach, and return it."""
    keys = top / "etc/kmodd/keys"
    keys.mkdir(parents=True)
    (keys / "signing.key").write_text(CANARY)
    (keys / "signing.key").chmod(0o600)
    keys.chmod(0o700)
    source = top / "usr/src/m"
    (source / "sub").mkdir(parents=True)
    for name in ("m.c", "sub/x.h", "sub/signing.key", "fix.patch"):
        (source / name).write_text(f"int {Path(name).stem};\n")
    own(source)
    return top


def own(top: Path, owner: int = OWNER) -> None:
    """Give a directory and all in it to a user."""
    for path in (top, *top.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)


def leaked(top: Path) -> list[Path]:
    """Return the files below a directory that hold what is in the key."""
    return [p for p in top.rglob("*") if p.is_file() and not p.is_symlink() and CANARY in p.read_text()]
