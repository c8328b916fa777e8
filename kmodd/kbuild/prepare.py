"""Unpacking a kernel's source RPM with the patches of its own %prep, by rpmbuild(8) in the sandbox.

Must not: decide what of it is kept.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.sysroot import RPM_CONFIGURATION
from ..system.run import run
from .failure import explain
from .sandbox import WORK
from .workspace import TEMPORARY, Workspace

TIMEOUT = 3600.0  # seconds
DEEPEST = 4  # directories between BUILD and the kernel's tree; rpm and distributions each add one or two
LANDMARKS = ("Makefile", "Kbuild", "Kconfig", "include/linux/kernel.h")
_VERSION = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL) *= *(\d+)", re.MULTILINE)


async def prepare(workspace: Workspace, srpm: Path) -> Path:
    """Unpack a source RPM, a host path, and return the host path of the kernel's tree in it, below workspace.scratch.

    Build requirements are not checked: what %prep really needs, it fails without, by name. Raises Problem
    kernel-source-mismatch, kernel-source-unprepared and the transient ones of `failure`.
    """
    name = workspace.kernel.source_package
    form = "%{NAME}-%{VERSION}-%{RELEASE}.src.rpm"
    said = (await run(["rpm", "-qp", "--nosignature", "--qf", form, srpm], check=False)).text.strip()
    if said != name:
        what = f"is {said}" if said.endswith(".src.rpm") else "is no source RPM"
        text = f"{workspace.sysroot.inside(srpm)} {what}, but the source of {workspace.kernel.release} is {name}"
        raise Problem("kernel-source-mismatch", text, "put the right file there", transient=False)
    inside = f"{WORK}/{name}"
    words = ["rpmbuild", "-rp", "--nodeps", "--nosignature", "--target", workspace.kernel.architecture]
    for macro, value in (("_topdir", f"{TEMPORARY}/rpm"), ("_dbpath", f"{TEMPORARY}/db"), ("_tmppath", TEMPORARY)):
        words += ["--define", f"{macro} {value}"]
    workspace.say(f"unpacking {name}")
    configuration = [(RPM_CONFIGURATION, str(RPM_CONFIGURATION))] if RPM_CONFIGURATION.is_dir() else []
    status = await workspace.run(
        [*words, inside], timeout=TIMEOUT, directory=WORK, read_only=[(srpm, inside), *configuration], raw=True
    )
    where = workspace.sysroot.inside(workspace.log)
    if status != 0:
        problem = await asyncio.to_thread(explain, workspace.log, status, where)
        if problem.transient:
            raise problem
        text = f"%prep of {name} failed: {problem.message}"
        raise Problem("kernel-source-unprepared", text, f"the whole log: {where}", transient=False)
    top = _find_tree(workspace.scratch / "tmp/rpm/BUILD")
    if top is None:
        text = f"{name} was unpacked, but holds no kernel's source"
        raise Problem("kernel-source-unprepared", text, f"the whole log: {where}", transient=False)
    theirs, ours = version(top), version(workspace.sysroot.resolve(str(workspace.kernel.build_tree)))
    if theirs != ours:
        text = f"{name} holds Linux {theirs}, but the build tree of {workspace.kernel.release} is of {ours}"
        raise Problem("kernel-source-mismatch", text, "put the right file there", transient=False)
    return top


def version(tree: Path) -> str:
    """Return the version that a kernel tree's Makefile says, such as 6.1.0."""
    try:
        found = dict(_VERSION.findall((tree / "Makefile").read_text(errors="replace")))
    except OSError:
        found = {}
    return ".".join(found.get(name, "?") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))


def _find_tree(top: Path) -> Optional[Path]:
    """Return the kernel's tree at or below a directory, the least deep one; links are not followed."""
    here = [top]
    for _ in range(DEEPEST):
        for path in here:
            if all((path / name).is_file() for name in LANDMARKS):
                return path
        here = sorted(p for path in here for p in path.iterdir() if p.is_dir() and not p.is_symlink())
    return None
