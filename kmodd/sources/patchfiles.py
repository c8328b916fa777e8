"""The patches of a module, which lie beside its module file. Must not: apply them."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.modulefile import Module, Patch
from ..core.sysroot import Sysroot
from ..system.files import explain
from ..system.reading import SWAPPED, Reached, reach
from .kind import changed
from .ownership import check_owners

LARGEST_PATCH = 64 << 20  # bytes


def find_patches(module: Module, release: str) -> list[tuple[str, Patch]]:
    """Return the in-root paths of the patches that apply to a kernel, in order."""
    base = Path(module.path).with_suffix(".patches")
    return [
        (str(base / patch.file), patch)
        for patch in module.file.source.patches
        if not patch.kernels or any(fnmatch.fnmatchcase(release, glob) for glob in patch.kernels)
    ]


@contextlib.contextmanager
def _open(sysroot: Sysroot, module: Module, path: str) -> Iterator[Reached]:
    """Give a patch. Raises Problem patch-missing, source-unsafe and those of reading it."""
    missing = Problem(
        "patch-missing",
        f"{module.path}: source.patches: {path} does not exist",
        f"put it into {Path(module.path).with_suffix('.patches')}/",
    )
    try:
        with reach(sysroot, path) as reached:
            if not reached.is_file:
                raise missing
            if reached.found.st_size > LARGEST_PATCH:
                text = f"{module.path}: source.patches: {path} is larger than {LARGEST_PATCH} bytes"
                raise Problem("patch-invalid", text, "is it a patch?")
            check_owners(module, "source.patches", reached.weakness)
            yield reached
    except FileNotFoundError:
        raise missing from None
    except OSError as error:
        if error.errno in SWAPPED:
            raise changed(f"{module.path}: source.patches: {path}") from error
        raise explain(error, f"reading {path}") from error


def read_patches(
    sysroot: Sysroot, module: Module, release: str, directory: Optional[Path] = None
) -> tuple[str, list[tuple[Path, Patch]]]:
    """Return the sha256 of the patches that apply to a kernel, "" where there are none, and the copies.

    directory: where they are copied to; None: no copies are made. Raises Problem.
    """
    digest = hashlib.sha256()
    copies = []
    found = find_patches(module, release)
    for number, (path, patch) in enumerate(found):
        with _open(sysroot, module, path) as reached:
            copy = directory / f"{number}.patch" if directory else None
            content = reached.copy(copy) if copy else reached.digest()
            copies += [(copy, patch)] if copy else []
        digest.update(f"{patch.strip} {patch.fuzz} {content}\n".encode())
    return digest.hexdigest() if found else "", copies
