"""Reads what modules an initramfs has, by an unprivileged child; one that did not change is not read again.

Must not: look into an image in this process, or change anything on /boot.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Optional

from ..core.errors import Problem
from ..core.fault import Fault
from ..core.initramfs import Image, ImageObject
from ..core.sysroot import Sysroot
from ..system.files import replace_file
from ..system.reading import Reached, reach
from ..system.run import own_python, run

CHILD = Path(__file__).with_name("initramfschild.py")
TIMEOUT = 120.0  # seconds
SCHEMA = 1
LARGEST_CACHE = 1 << 26  # bytes
KEPT = 64  # images


class InitramfsReader:
    """Reads images of one root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self.cache = sysroot.cache / "initramfs.json"
        self._known: Optional[dict[str, Any]] = None

    async def read(self, path: str, wanted: Collection[str]) -> Image:
        """Return what an image (an in-root path) has. wanted: canonical names of objects that are looked into.

        Raises OSError where it cannot be opened, and Problem tool-killed, tool-timeout and the other transient ones
        where the child did not come to its own end.
        """
        with reach(self.sysroot, path) as reached:
            key = [list(reached.signature), sorted(wanted)]
            known = self._load().get(path)
            if known is not None and known.get("key") == key:
                return _image(path, known["found"])
            found = await self._ask(reached, wanted)
        self._load()[path] = {"key": key, "found": found}
        self._store()
        return _image(path, found)

    async def _ask(self, reached: Reached, wanted: Collection[str]) -> dict[str, Any]:
        file = reached.open()
        try:
            words = [own_python(), "-I", "-S", "-B", str(CHILD), str(file), *sorted(wanted)]
            done = await run(words, timeout=TIMEOUT, pass_fds=(file,), yields=True)
        finally:
            os.close(file)
        try:
            found: dict[str, Any] = json.loads(done.stdout)
            _image(reached.path, found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Problem("tool-failed", f"what was read of {reached.path} is no answer", transient=True) from error
        return found

    def _load(self) -> dict[str, Any]:
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                with self.cache.open("rb") as stream:
                    stored = json.loads(stream.read(LARGEST_CACHE))
                if stored["schema"] == SCHEMA:
                    for path, item in stored["images"].items():
                        _image(path, item["found"])
                    self._known = dict(stored["images"])
        return self._known

    def _store(self) -> None:
        """Keep what was read for the next process, where the cache can be written."""
        known = self._load()
        for path in list(known)[: max(len(known) - KEPT, 0)]:
            del known[path]
        with contextlib.suppress(OSError):
            replace_file(self.cache, json.dumps({"schema": SCHEMA, "images": known}).encode())


def _image(path: str, found: dict[str, Any]) -> Image:
    """Return an image of what the child printed. Raises KeyError, TypeError and AttributeError."""
    said = found["fault"]
    fault = None
    if said is not None:
        text = f"{path} cannot be read to its end: {said}"
        fault = Fault("initramfs-failed", text, f"lsinitrd {path} tells more; dracut --force makes it anew")
    objects = {name: ImageObject(name, **item) for name, item in found["objects"].items()}
    return Image(path, tuple(found["formats"]), objects, dict(found["options"]), str(found["nested"]), fault)
