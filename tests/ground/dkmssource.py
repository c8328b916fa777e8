"""Sources of Debian's DKMS packages, unpacked and unchanged."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import debian
from .cache import find_cache, provide
from .command import GroundError


def fetch_source(name: str, output: Path, cache: str = "") -> list[Path]:
    """Copy what NAME-dkms has below /usr/src into OUTPUT/usr/src and return the source directories."""
    where = find_cache(cache)
    deb = debian.fetch_dkms(name, where)
    unpacked = provide(where, "sources", deb.stem, lambda work: debian.unpack([deb], work))
    sources = sorted(path.parent for path in unpacked.glob("usr/src/*/dkms.conf"))
    if not sources:
        raise GroundError(f"{deb.name} has no usr/src/*/dkms.conf")
    copies = []
    for source in sources:
        copy = output / source.relative_to(unpacked)
        shutil.copytree(source, copy, symlinks=True, dirs_exist_ok=True)
        copies.append(copy)
    return copies
