"""Digests of what sources hold, computed again only when stat data changed.

Must not: decide what is part of a source.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Optional, Protocol

from ..core.sysroot import Sysroot
from ..system.files import replace_file
from ..system.reading import Reached, Weakness

RACY = 2.0  # seconds; a file that changed this recently may change again within its time stamp's grain


class Contents(Protocol):
    """What a source holds, as its stat data tell: state is their digest, newest the last change of any of it."""

    top: Reached
    weakness: Optional[Weakness]
    newest: float
    state: str

    def digest(self) -> str:
        """Return the sha256 of the contents. Raises OSError, Problem."""


class ContentDigests:
    """Digests of whole sources, which are kept on disk for the next process."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.memory = sysroot.below(sysroot.cache, "sources.json")
        self._known: dict[str, tuple[str, str]] = {}  # path -> (stat digest, content digest)
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            loaded = json.loads(self.memory.read_bytes())
            self._known = {str(k): (str(v[0]), str(v[1])) for k, v in loaded.items()}
        self._dirty = False

    def digest(self, found: Contents) -> str:
        """Return the sha256 of a source's contents. Raises OSError, Problem."""
        known = self._known.get(str(found.top.host))
        if known and known[0] == found.state:
            return known[1]
        digest = found.digest()
        if time.time() - found.newest > RACY:
            self._known[str(found.top.host)] = (found.state, digest)
            self._dirty = True
        return digest

    def remember(self) -> None:
        """Keep the digests for the next process, where the cache can be written."""
        if self._dirty:
            with contextlib.suppress(OSError):
                replace_file(self.memory, json.dumps(self._known).encode())
            self._dirty = False


class DigestCache:
    """Digests of single files, kept in this process alone."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, str]] = {}

    def digest(self, found: Reached) -> str:
        """Return the sha256 of a file. Raises OSError."""
        known = self._known.get(found.host)
        if not known or known[0] != found.signature:
            known = self._known[found.host] = (found.signature, found.digest())
        return known[1]
