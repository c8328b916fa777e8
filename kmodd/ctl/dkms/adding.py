"""The action add: it registers a version with its dkms.conf.

Must not: build, or wait for kmodd.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from ...core.errors import Problem
from ...core.modulefile import NAME, Module, ModuleFile, Source
from ...dkms.conffiles import is_adopted
from ...system.deleting import remove_tree
from ...system.files import explained
from .arguments import Refusal
from .outcome import explained_by, look_at
from .scriptlet import SafeUpgrade
from .work import Work


def add(work: Work) -> int:
    """Register a version; an older one than the registered is only linked."""
    chosen = work.arguments
    if chosen.archive and not chosen.module:
        return refuse_archive(work)
    if chosen.tree and not chosen.module:
        _copy_source(work, Path(chosen.tree))
    work.scope.check_module("add")
    if chosen.safe_upgrade and work.scope.transaction is not None:
        SafeUpgrade(work.sysroot, chosen.module, chosen.version).mark(work.scope.transaction)
    if (chosen.module, chosen.version) in work.tree.added:
        if not work.scope.inside:
            text = f"DKMS tree already contains: {chosen.module}-{chosen.version}"
            raise Refusal(3, text, "You cannot add the same module/version combo more than once.")
        print(f"Module {chosen.title} already added.")
    register(work)
    work.scope.defer("build")
    return 0


def register(work: Work) -> None:
    """Check a version's source, and register it. Raises Refusal."""
    chosen = work.arguments
    source = work.tree.source(chosen.module, chosen.version)
    conf = chosen.conf or f"{source}/dkms.conf"
    if not work.sysroot.resolve(source).is_dir():
        lines = ("Could not find module source directory.", f"Directory: {source} does not exist.")
        raise Refusal(2, *lines)
    if work.sysroot.resolve(conf).parent != work.sysroot.resolve(source):
        raise Refusal(1, f"kmodd takes the dkms.conf of the source itself, {source}/dkms.conf.")
    if not work.sysroot.resolve(conf).is_file():
        raise Refusal(4, "Could not locate dkms.conf file.", f"File: {conf} does not exist.")
    wanted = work.tree.is_wanted(conf)
    if not work.scope.inside:
        wanted = _read_conf(work, conf)
    known = (chosen.module, chosen.version) in work.tree.added
    before = any(name == chosen.module for name, _ in work.tree.confs)
    link = work.tree.link(chosen.module, chosen.version)
    if not known:
        print(f"Creating symlink {link} -> {source}")
    work.read()
    newest = work.tree.newest(chosen.module)
    if newest is None or newest[0] == chosen.version:
        module = work.tree.modules.get(chosen.module)
        kept = before and module is not None and not is_adopted(module)
        work.tree.register(chosen.module, chosen.version, conf, None if kept else wanted)
        work.read()


def _read_conf(work: Work, conf: str) -> bool:
    """Evaluate the conf for every kernel; tells whether AUTOINSTALL says yes. Raises Refusal."""
    seen = look_at(work.arguments.root)
    confs = seen.confs()
    name = work.arguments.module if NAME.fullmatch(work.arguments.module) else "module"
    module = Module(name=name, file=ModuleFile(source=Source(dkms=conf)), path=conf)
    wanted = False
    for kernel in seen.kernels():
        try:
            wanted |= asyncio.run(confs.find(module, kernel)).autoinstall
        except Problem as problem:
            lines = ("Bad conf file.", f"File: {conf} does not represent a valid dkms.conf file.")
            raise Refusal(8, *lines, *explained_by(problem.message, problem.hint)) from None
    return wanted


def _copy_source(work: Work, place: Path) -> None:
    """Copy a source tree to where its name and version put it, as dkms does. Raises Refusal, Problem."""
    conf = f"{work.sysroot.inside(place.resolve()) if not work.sysroot.is_host else place.resolve()}/dkms.conf"
    if work.scope.inside:
        text = f"{place} cannot be copied inside an rpm transaction."
        raise Refusal(10, text, "The package should install it as /usr/src/NAME-VERSION.")
    seen = look_at(work.arguments.root)
    confs = seen.confs()
    module = Module(name="module", file=ModuleFile(source=Source(dkms=conf)), path=conf)
    try:
        recipe = asyncio.run(confs.find(module, seen.kernels()[0]))
    except Problem as problem:
        lines = ("Malformed dkms.conf file. Cannot load source tree.", *explained_by(problem.message, problem.hint))
        raise Refusal(10, *lines) from None
    work.arguments.module, work.arguments.version = recipe.name, recipe.version
    target = work.sysroot.resolve(work.tree.source(recipe.name, recipe.version))
    if target == place.resolve() or (target.exists() and not work.arguments.force):
        return
    with explained(f"copying {place} to {target}"):
        if target.exists():
            remove_tree(target)
        shutil.copytree(place, target, symlinks=True)


def refuse_archive(work: Work) -> int:
    """Refuse: kmodd has no tarballs."""
    if not work.arguments.archive or not os.path.exists(work.arguments.archive):
        raise Refusal(2, f"{work.arguments.archive} does not exist.")
    text = "kmodd loads no tarballs: what others built is not what this kernel was asked for."
    raise Refusal(7, text, "Unpack its source to /usr/src/NAME-VERSION and add that, or use kmoddctl add ARCHIVE.")
