"""The commands that change what is registered: add, remove, enable, disable. Each has --dry-run."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional

from ..core.documents.choosing import check_module
from ..core.errors import Problem
from ..core.modulefile import NAME, Module, canonical
from ..core.rootwarnings import RootWarning, find_unmatched, find_warnings, warning_rows
from ..core.tomlfile import set_value
from ..dkms.conf import VERSIONED
from ..dkms.conffiles import is_adopted
from ..host.kernels import find_own
from ..host.registry import add, parse, remove
from ..sources.makefile import MOST_NAMED, Foreseen, find_marks, find_sources, foresee
from ..system.files import digest_file, explained, replace_file
from . import DONE
from .inprocess import Observed, observe
from .parser import Command, add_dry_run, add_module

#: What it costs to register a module that the server needs.
HOLDS = "; new kernels become bootable when it is ready, not before: required = false in that file lets them be"
ARCHIVED = re.compile(r"\.(?:tar(?:\.\w+)?|t[bgx]z2?|zip)$")


def run_add(options: argparse.Namespace) -> int:
    """kmoddctl add PATH"""
    seen = observe(options)
    path = Path(options.path)
    inside = str(path if path.is_absolute() else path.resolve())
    if not seen.sysroot.is_host and path.is_absolute() and str(path).startswith(f"{seen.sysroot.root}/"):
        inside = seen.sysroot.inside(path)
    if inside.endswith(".toml"):
        text = "add takes a source directory or an archive"
        raise Problem("usage-path", text, "module files go to /etc/kmodd/modules.d")
    found = seen.sysroot.resolve(inside)
    title, source = Path(inside).name, [f"path = {json.dumps(inside)}"]
    if found.is_file():
        with explained(f"reading {inside}"):
            digest = digest_file(found)
        title, source = ARCHIVED.sub("", title), [f"archive = {json.dumps(inside)}", f'sha256 = "{digest}"']
    elif not found.is_dir():
        text = f"{inside} is neither a directory nor an archive in {seen.sysroot.root}"
        raise Problem("source-missing", text, "give the source")
    marks = _marks(found, inside, options.force) if found.is_dir() else []
    match = VERSIONED.fullmatch(title)
    name = options.name or (match["name"] if match else title)
    version = options.module_version or (match["version"] if match else "")
    if not NAME.fullmatch(name):
        raise Problem("usage-name", f"{name!r} is not a module name", "choose one with --name")
    lines = ["[module]", f"version = {json.dumps(version)}"]
    lines += ["required = false"] if options.optional else []
    lines += ["", "[source]", *source]
    foreseen = foresee(found) if found.is_dir() else Foreseen((), False)
    own = _own_of_kernels(seen, [name for name, _ in foreseen.objects])
    listed = foreseen.objects if own and foreseen.certain else ()
    lines += ["", "[load]", f"at_boot = {json.dumps(options.at_boot)}"] if options.at_boot else []
    for item, place in listed:
        lines += ["", "[[object]]", f"name = {json.dumps(item)}", *([f"path = {json.dumps(place)}"] * (place != "."))]
    text = "\n".join(lines) + "\n"
    where = f"/etc/kmodd/modules.d/{name}.toml"
    if options.dry_run:
        _print_file(options, where, text)
        return DONE
    module = Module(name=name, file=parse(text), path=seen.sysroot.inside(add(seen.sysroot, text, name)))
    holds = HOLDS if options.at_boot and not options.optional and seen.settings.boot.guard != "off" else ""
    more = f"{_seen(marks, inside)}{_remark(own, bool(listed))}{holds}"
    _said(options, f"registered {name} by {where}{more}", seen, module=module)
    return DONE


def _marks(directory: Path, inside: str, force: bool) -> list[str]:
    """Return what tells that a directory is a module's source. Raises Problem usage-source where nothing does.

    force: it is taken all the same.
    """
    marks = find_marks(directory)
    if marks or force:
        return marks
    text = f"{inside} has no Makefile or Kbuild with obj-m, and no dkms.conf"
    below = [f"{inside.rstrip('/')}/{name}" for name in find_sources(directory)]
    if below:
        more = f" and {len(below) - MOST_NAMED} more" if len(below) > MOST_NAMED else ""
        raise Problem("usage-source", text, f"give one of the sources in it: {', '.join(below[:MOST_NAMED])}{more}")
    hint = "--force registers it all the same, such as what build.command or build.directory of the module file is for"
    raise Problem("usage-source", text, hint)


def _seen(marks: Sequence[str], inside: str) -> str:
    """Return what was found of a source as a part of a sentence."""
    conf = f"; kmoddctl import dkms {inside} would register it by that" if any("dkms.conf" in m for m in marks) else ""
    return f"; {' and '.join(marks)}{conf}" if marks else ""


def _own_of_kernels(seen: Observed, names: Sequence[str]) -> list[str]:
    """Return which objects are named like modules that an installed kernel has itself."""
    asked = {canonical(name) for name in names}
    found: set[str] = set()
    for kernel in seen.snapshot.present() if asked else ():
        with suppress(OSError):
            found |= find_own(seen.sysroot, seen.sysroot.kernel(kernel.release), asked).keys()
    return [name for name in names if canonical(name) in found]


def _remark(own: Sequence[str], listed: bool) -> str:
    """Return a remark about objects that are named like the kernel's own."""
    if not own:
        return ""
    names = ", ".join(own)
    if listed:
        return f"; its [[object]] tables name {names}, which the kernel has itself and ours takes the place of"
    return f"; the kernel has {names} itself: name with [[object]] what is to take the place of its own"


def _print_file(options: argparse.Namespace, where: str, text: str) -> None:
    """Print what would be written."""
    document = {"schema": 1, "file": where, "content": text}
    print(f"{json.dumps(document)}\n" if options.json else f"# {where}\n{text}", end="")


def _module(seen: Observed, name: str) -> Module:
    check_module(name, {known["name"] for known in seen.status()["modules"]})
    module: Optional[Module] = seen.snapshot.modules.get(name)
    if module is None:
        broken = next((b for b in seen.snapshot.broken if b.name == name), None)
        if broken:
            raise Problem(broken.fault.problem, broken.fault.message, "correct or delete the file")
        raise Problem("module-unknown", f"{name} is no longer registered", "kmodd removes what is left of it")
    return module


def run_remove(options: argparse.Namespace) -> int:
    """kmoddctl remove MODULE"""
    seen = observe(options)
    module = _module(seen, options.module)
    if options.dry_run:
        mine = [r.installed for t, r in sorted(seen.snapshot.records.items()) if t.module == module.name]
        paths = [item.path for installed in mine if installed for item in installed.objects]
        if options.json:
            print(json.dumps({"schema": 1, "file": module.path, "delete": paths}))
        else:
            print("\n".join([*(f"delete {path}" for path in paths), f"delete or mask {module.path}"]))
        return DONE
    _said(options, remove(seen.sysroot, module), seen)
    return DONE


def _switch(options: argparse.Namespace, enabled: bool) -> int:
    seen = observe(options)
    module = _module(seen, options.module)
    word = "enabled" if enabled else "disabled"
    if module.enabled == enabled:
        _said(options, f"{module.name} is {word} already", seen, quiet=True)
        return DONE
    target = seen.sysroot.registries[0] / Path(module.path).name
    if is_adopted(module):
        target = target.with_name(f"{module.name}.toml")
        text = set_value(f"[source]\ndkms = {json.dumps(module.path)}\n", "module", "enabled", enabled)
    else:
        text = set_value(seen.sysroot.resolve(module.path).read_text(), "module", "enabled", enabled)
    if options.dry_run:
        _print_file(options, seen.sysroot.inside(target), text)
        return DONE
    with explained(f"writing {seen.sysroot.inside(target)}"):
        replace_file(target, text.encode())
    changed = module.model_copy(update={"file": parse(text)})
    _said(options, f"{word} {module.name} in {seen.sysroot.inside(target)}", seen, module=changed)
    return DONE


def run_enable(options: argparse.Namespace) -> int:
    """kmoddctl enable MODULE"""
    return _switch(options, True)


def run_disable(options: argparse.Namespace) -> int:
    """kmoddctl disable MODULE"""
    return _switch(options, False)


def _said(
    options: argparse.Namespace, text: str, seen: Observed, quiet: bool = False, module: Optional[Module] = None
) -> None:
    """Print what was done. module: what is registered now, where that may have no effect."""
    unmatched = find_unmatched(module, seen.snapshot) if module is not None else None
    warnings = [w for w in find_warnings(seen.snapshot) if module is not None and not w.module]
    warnings += [RootWarning(unmatched, module.name, module.path)] if module is not None and unmatched else []
    rows = warning_rows(warnings)
    if options.json:
        print(json.dumps({"schema": 1, "done": text, "warnings": rows}))
        return
    print(text)
    for row in rows:
        print(f"warning: {row['message']}\n  hint: {row['hint']}", file=sys.stderr)
    if not quiet and seen.holder is None:
        print("kmodd is not running; apply it with: kmoddctl sync")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="the source directory or archive")
    parser.add_argument("--name", help="default: the directory's name without its version")
    parser.add_argument("--version", default="", dest="module_version", help="free text, shown in status")
    parser.add_argument("--at-boot", action="append", default=[], metavar="OBJECT", help="load it at boot")
    parser.add_argument("--force", action="store_true", help="although nothing tells that it is a module's source")
    parser.add_argument("--optional", action="store_true", help="a kernel is ready without it, too")
    add_dry_run(parser)


def _add_module(parser: argparse.ArgumentParser) -> None:
    add_module(parser)
    add_dry_run(parser)


COMMANDS = {
    "add": Command(_add_source, run_add),
    "remove": Command(_add_module, run_remove),
    "enable": Command(_add_module, run_enable),
    "disable": Command(_add_module, run_disable),
}
