"""The copies that DKMS installed of modules that kmodd keeps now: put aside where kmodd's own are ready, and back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Target, Verdict
from ..core.recipe import DKMS_TREE
from ..core.sysroot import Sysroot
from ..deploy.install import run_depmod
from ..system.files import digest_file, explained, make_directory, remove_empty, sync_directory
from .inprocess import Observed

SHADOWED = "object-shadowed"  # by that very copy
PLACES = ("updates/dkms", "updates", "extra", "extra/dkms")  # of DKMS on Debian, SUSE and Red Hat


def find_copies(sysroot: Sysroot, package: str) -> Iterator[tuple[str, Path]]:
    """Yield the kernels and host paths of installed files that are byte for byte what DKMS keeps as built.

    package: its name for DKMS. The layout is that of DKMS's tree: NAME/VERSION/KERNEL/ARCH/module/.
    """
    found = set()
    for built in sorted(sysroot.resolve(f"{DKMS_TREE}/{package}").glob("*/*/*/module/*.ko*")):
        release = built.parents[2].name
        built = sysroot.resolve(sysroot.inside(built))
        for place in PLACES:
            path = sysroot.below(sysroot.kernel(release), place) / built.name
            with contextlib.suppress(OSError):
                mine = sysroot.kernel(release) in path.parents and not path.is_symlink()
                if mine and path not in found and path.is_file() and digest_file(path) == digest_file(built):
                    found.add(path)
                    yield release, path


def put_aside(seen: Observed, modules: Iterable[str], dry_run: bool) -> tuple[list[str], list[str]]:
    """Move copies away, of modules on kernels where they are ready; returns what was moved, and what was not and why.

    They go to the state directory under their own paths. Raises Problem.
    """
    moved, left, releases = [], [], set()
    for module in modules:
        rows = [row for target, row in seen.snapshot.targets.items() if target.module == module]
        package = next((row.recipe.name for row in rows if row.recipe is not None), module)
        for release, path in find_copies(seen.sysroot, package):
            relative = path.relative_to(seen.sysroot.kernel(release))
            inside = f"/lib/modules/{release}/{relative}"
            judgement = seen.judgements.get(Target(module, release))
            if judgement is None or not (judgement.verdict is Verdict.READY or judgement.problem == SHADOWED):
                left.append(f"{inside}: {module} is {judgement.verdict.value if judgement else 'unknown'} there")
                continue
            if not dry_run:
                kept = seen.sysroot.below(seen.sysroot.dkms_copies, release, str(relative.parent))
                _move(path, kept / path.name)
            moved.append(inside)
            releases.add(release)
    if not dry_run:
        _depmod(seen.sysroot, releases)
    return moved, left


def put_back(sysroot: Sysroot, dry_run: bool) -> list[str]:
    """Move all copies back to where they were; returns their in-root paths. Raises Problem."""
    moved, releases = [], set()
    for kept in sorted(path for path in sysroot.dkms_copies.rglob("*") if path.is_file()):
        release, *rest = kept.relative_to(sysroot.dkms_copies).parts
        path = sysroot.below(sysroot.kernel(release), *rest[:-1], ".") / rest[-1]
        inside = f"/lib/modules/{release}/{'/'.join(rest)}"
        if not sysroot.kernel(release).is_dir():
            continue  # the kernel was removed
        if path.exists():
            raise Problem(
                "dkms-copy-exists",
                f"{inside} is there again",
                f"delete it, or the one in {sysroot.inside(kept.parent)}",
            )
        if not dry_run:
            _move(kept, path)
        moved.append(inside)
        releases.add(release)
    if not dry_run:
        _depmod(sysroot, releases)
    return moved


def _move(source: Path, target: Path) -> None:
    with explained(f"moving {source} to {target}"):
        make_directory(target.parent)
        shutil.move(str(source), target)
        sync_directory(target.parent)
        remove_empty(source.parent)


def _depmod(sysroot: Sysroot, releases: Iterable[str]) -> None:
    for release in sorted(releases):
        asyncio.run(run_depmod(sysroot, release))


def print_moves(moved: list[str], left: list[str], what: str, as_json: bool) -> None:
    """Print what was moved and what was left."""
    if as_json:
        print(json.dumps({"schema": 1, "moved": moved, "left": left}))
        return
    for path in moved:
        print(f"{what} {path}")
    for text in left:
        print(f"left {text}")
    if not moved and not left:
        print("there is no copy by DKMS")
