"""The directory of a dkms.conf as a source: source.dkms. Must not: read the conf; the probe of inputs has it read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import Module
from ..system.reading import Reached, reach
from .directory import DirectorySource


class DkmsSource(DirectorySource):
    """A directory that has the file that the module file names."""

    has_conf = True

    def place(self, module: Module) -> str:
        return os.path.dirname(module.file.source.place)

    @contextlib.contextmanager
    def find(self, module: Module, kernel: Optional[Kernel]) -> Iterator[Reached]:
        conf = module.file.source.place
        with super().find(module, kernel) as top:
            where = f"{module.path}: source.dkms: {conf}"
            try:
                with reach(self.sysroot, conf) as found:
                    if not found.is_file:
                        raise Problem("source-not-file", f"{where} is not a file", "name the dkms.conf")
            except OSError:
                hint = "install the source or correct it"
                raise Problem("source-missing", f"{where} does not exist", hint) from None
            yield top
