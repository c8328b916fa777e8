"""Sets variables of GRUB's environment so that a power cut leaves the old block or the new one.

grub2-editenv(1) truncates the file before it writes, and a block that was cut short boots whatever has the highest
version. Must not: decide what is to boot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.grubenv import BLOCK, parse, render
from ..system.files import replace_file

LARGEST = 64 * BLOCK  # bytes that are read


class GrubEnvironment:
    """The environment block at a path, all links of which are followed already."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """Return the variables, none where there is no file. Raises Problem boot-unwritable."""
        try:
            with self.path.open("rb") as stream:
                return parse(stream.read(LARGEST).decode(errors="replace"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._failed(error) from error

    def set(self, changes: Mapping[str, Optional[str]]) -> None:
        """Set variables, and take those back that are None; nothing is written where all is so. Raises Problem."""
        before = self.read()
        after = {name: value for name, value in before.items() if changes.get(name, value) is not None}
        after.update({name: value for name, value in changes.items() if value is not None})
        if after == before:
            return
        try:
            mode = self.path.stat().st_mode & 0o777 if self.path.exists() else 0o600
            replace_file(self.path, render(after), mode)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> Problem:
        text = f"GRUB's environment {self.path} cannot be changed: {error.strerror}"
        return Problem("boot-unwritable", text, f"mount {self.path.parent} read-write, as root", transient=True)
