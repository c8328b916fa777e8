"""Where dkms.conf files are, and which of them are modules without a module file: those of packages ([dkms] adopt).

Must not: read more of a dkms.conf than its plain name and version.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cmp_to_key

from ..core import versions
from ..core.errors import Problem
from ..core.model import BrokenFile, Fault
from ..core.modulefile import NAME, Module, ModuleFile, Source
from ..core.recipe import DKMS_TREE
from ..core.sysroot import DKMS_SOURCES, Sysroot
from ..core.visible import visible
from ..system.files import LOCAL, find_accident, is_file, list_names
from ..system.reading import reach
from .conf import LARGEST_CONF, guess


def find_confs(sysroot: Sysroot) -> Iterator[str]:
    """Yield the in-root paths of all dkms.conf of /usr/src, and of those that DKMS has registered elsewhere."""
    top = sysroot.resolve(DKMS_SOURCES)
    for name in list_names(top):
        conf = f"{DKMS_SOURCES}/{name}/dkms.conf"
        if _is_file(sysroot, conf):
            yield conf
    tree = sysroot.resolve(DKMS_TREE)
    for name in list_names(tree):
        for version in list_names(sysroot.below(tree, name)):
            with suppress(Problem):  # a loop of links
                path = sysroot.resolve(f"{DKMS_TREE}/{name}/{version}/source") / "dkms.conf"
                conf = sysroot.inside(path)
                if is_file(path) and path.parent.parent != top and visible(conf) == conf:
                    yield conf


def find_unusable(sysroot: Sysroot) -> Iterator[BrokenFile]:
    """Yield the directories of /usr/src with a dkms.conf whose names no module file could hold."""
    top = sysroot.resolve(DKMS_SOURCES)
    for name in sorted(os.listdir(top)) if top.is_dir() else ():
        if visible(name) != name and (top / name / "dkms.conf").is_file():
            where = f"{DKMS_SOURCES}/{visible(name)}"
            text = f"{where} is passed over: its name cannot be shown as it is"
            yield BrokenFile(where, visible(name), Fault("source-name-invalid", text, "rename or remove it"))


def _is_file(sysroot: Sysroot, path: str) -> bool:
    try:
        return is_file(sysroot.resolve(path))
    except Problem:  # a loop of links
        return False


def identify(sysroot: Sysroot, conf: str) -> tuple[str, str]:
    """Return the name and version of a conf, as far as they can be determined without reading it as bash does.

    Raises OSError for want of what every pass needs.
    """
    path = sysroot.resolve(conf)
    try:
        with reach(sysroot, conf) as found:
            return guess(found.read(LARGEST_CONF).decode(errors="replace"), path.parent.name)
    except OSError as error:
        if find_accident(error) and error.errno not in LOCAL:
            raise  # else what was adopted by its own name would be registered_confs for gone
        return guess("", path.parent.name)


def newest(confs: Iterable[str], said: Mapping[str, tuple[str, str]]) -> str:
    """Return the conf of the newest version. said: name and version by conf."""

    def compare(left: str, right: str) -> int:
        return versions.compare(said[left][1], said[right][1])

    return max(confs, key=cmp_to_key(compare))


def adopt(sysroot: Sysroot, registered: Mapping[str, Module], broken: Collection[str]) -> dict[str, Module]:
    """Return modules for the newest dkms.conf of each name in /usr/src that no module file speaks of.

    registered: modules by name. broken: names of module files that cannot be used. A module file of that name in
    /etc or /usr/lib, be it a link to /dev/null, keeps a conf from being adopted.
    """
    registered_confs = {module.file.source.dkms for module in registered.values()}
    confs = [conf for conf in find_confs(sysroot) if conf.startswith(f"{DKMS_SOURCES}/")]
    said = {conf: identify(sysroot, conf) for conf in confs}
    found = {}
    for name in sorted({name for name, _ in said.values()}):
        same = [conf for conf in confs if said[conf][0] == name]
        files = [directory / f"{name}.toml" for directory in sysroot.registries]
        if name in registered or name in broken or not NAME.fullmatch(name) or registered_confs & {*same}:
            continue
        if not any(os.path.lexists(path) for path in files):
            conf = newest(same, said)
            found[name] = Module(name=name, file=ModuleFile(source=Source(dkms=conf)), path=conf)
    return found


def is_adopted(module: Module) -> bool:
    """Tell whether a module has no module file."""
    return module.path == module.file.source.dkms
