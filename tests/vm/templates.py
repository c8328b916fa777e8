"""The modules of the campaign as files: every kind compiled for a kernel, once, and the copies that cases get of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from elfedit import Object
from ground.cache import find_cache, provide
from ground.command import run
from kinds import KINDS, NUMBER, Kind

#: A name of a kind's module anywhere in a file: also inside of longer ones, such as __ksymtab_provider_0000_value.
NAMED = re.compile(b"(" + "|".join(sorted(KINDS, key=len, reverse=True)).encode() + b")_" + NUMBER.encode())


def compile_kinds(release: str, tree: Path, symvers: str) -> dict[str, bytes]:
    """Return every kind's file for a kernel, by name, stripped; without those whose provider the kernel lacks.

    symvers: the kernel's Module.symvers. Kept in the cache.
    """
    kinds = [kind for kind in KINDS.values() if is_possible(kind, symvers)]
    digest = hashlib.sha256("".join([*(kind.text() for kind in kinds), symvers]).encode()).hexdigest()

    def fill(work: Path) -> None:
        for kind in kinds:
            (work / f"{kind.name}_{NUMBER}.c").write_text(kind.text())
        (work / "Makefile").write_text("".join(f"obj-m += {kind.name}_{NUMBER}.o\n" for kind in kinds))
        run(["make", "-j2", "-C", tree, f"M={work}", "KCFLAGS=-g0", "modules"])
        for path in sorted(work.glob("*.ko")):
            run(["strip", "--strip-debug", path])
        for path in [*work.iterdir()]:
            if path.suffix != ".ko":
                path.unlink()

    made = provide(find_cache(), "campaign", f"{release}_{digest[:16]}", fill)
    return {kind.name: (made / f"{kind.name}_{NUMBER}.ko").read_bytes() for kind in kinds}


def is_possible(kind: Kind, symvers: str) -> bool:
    """Tell whether a kernel has, as a module, what a kind needs of it."""
    file = kind.in_tree.replace("_", "[-_]")
    return not kind.in_tree or re.search(rf"/{file}\t", symvers) is not None


def copy_of(templates: Mapping[str, bytes], kind: str, number: int) -> bytes:
    """Return a kind's file under a case's number, with a srcversion of its own."""
    named = rb"\1_%04d" % number
    content = NAMED.sub(named, templates[kind])
    made = Object(content)
    made.change_info("srcversion", srcversion(kind, number))
    return bytes(made)


def srcversion(kind: str, number: int) -> str:
    """Return what a case's module says that its source is, which no other does."""
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()[:23].upper()
