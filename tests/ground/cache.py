"""The cache that processes share: results appear whole or not at all, and two makers of one thing make it once.

The cache holds nothing that cannot be made again: it may be deleted at any time while nothing uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional


def find_cache(given: Optional[str] = None) -> Path:
    """Return the cache directory: the given one, else $KMODD_GROUND_CACHE, else the user's."""
    chosen = given or os.environ.get("KMODD_GROUND_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kmodd-ground"


@contextlib.contextmanager
def locked(cache: Path, name: str) -> Iterator[None]:
    """Hold the cache's lock of that name; the kernel drops it when the process dies."""
    path = cache / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def provide(cache: Path, kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the directory CACHE/KIND/KEY; if it is not there, let `make` fill a temporary one and rename it."""
    final = cache / kind / key
    if final.is_dir():
        return final
    with locked(cache, f"{kind}-{key}"):
        if final.is_dir():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=final.parent))
        try:
            make(work)
            work.chmod(0o755)
            work.rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final


def hand_out(source: Path, destination: Path) -> None:
    """Put a file of the cache at destination as a hard link, or as a copy on another file system."""
    destination.unlink(missing_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)
