"""Whether the rules of [kernels] in a module file exclude a kernel. Pure."""

from __future__ import annotations

import fnmatch
from typing import Optional

from .. import versions
from ..model import Kernel
from ..modulefile import Kernels


def is_matched(rules: Kernels, release: str) -> bool:
    """Tell whether kernels.match admits a kernel release."""
    return not rules.match or any(fnmatch.fnmatchcase(release, glob) for glob in rules.match)


def find_exclusion(rules: Kernels, kernel: Kernel) -> Optional[str]:
    """Return why the rules of [kernels] exclude a kernel, or None."""
    release = kernel.release
    if not is_matched(rules, release):
        return f"{release} matches none of kernels.match ({', '.join(rules.match)})"
    for glob in rules.exclude:
        if fnmatch.fnmatchcase(release, glob):
            return f"{release} matches kernels.exclude ({glob})"
    if rules.minimum and versions.compare(release, rules.minimum) < 0:
        return f"{release} is older than kernels.minimum ({rules.minimum})"
    if rules.maximum and versions.compare(release, rules.maximum) > 0:
        return f"{release} is newer than kernels.maximum ({rules.maximum})"
    if rules.architectures and kernel.architecture not in rules.architectures:
        return f"{kernel.architecture} is not in kernels.architectures ({', '.join(rules.architectures)})"
    for wanted in rules.config:
        symbol, unwanted = wanted.lstrip("!"), wanted.startswith("!")
        if (kernel.config.get(symbol) in ("y", "m")) == unwanted:
            return f"the kernel {'has' if unwanted else 'lacks'} {symbol} (kernels.config)"
    return None
