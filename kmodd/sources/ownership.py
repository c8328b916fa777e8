"""Who may change what becomes signed code: root alone, unless the module file says otherwise.

The rule is that of reading.find_weakness, for every file and directory of a source, and for the way there from the
root directory. Pure. Must not: read files itself.
"""

from __future__ import annotations

from typing import Optional

from ..core.errors import Problem
from ..core.modulefile import Module
from ..system.reading import Weakness


def check_owners(module: Module, key: str, weakness: Optional[Weakness]) -> None:
    """Raise Problem source-unsafe where others than root can change something that is built, and may not.

    key: of the module file, that names it.
    """
    if weakness is None or module.file.source.trust_owner:
        return
    text = f"{module.path}: {key}: others than root can change what would be signed: {weakness.text}"
    raise Problem("source-unsafe", text, weakness.fix, transient=False, path=weakness.path, mode=weakness.mode)
