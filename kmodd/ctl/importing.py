"""import: registers what other tools keep built. From DKMS: sources with a dkms.conf, which stay as they are."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.modulefile import NAME, Module, ModuleFile, ModuleTable, Source
from ..core.recipe import DKMS_TREE, Recipe
from ..core.sysroot import Sysroot
from ..dkms.conf import ConfReader
from ..dkms.conffiles import find_confs, identify, is_adopted, newest
from ..host.registry import add
from ..system.lock import Lock
from ..system.log import configure
from . import DONE, FAILED
from .copies import print_moves, put_aside, put_back
from .inprocess import Observed, observe
from .parser import Command, add_dry_run


@dataclass(frozen=True)
class Import:
    """The import of one dkms.conf.

    text: of the module file, "" where none is written. enabled: whether the conf says AUTOINSTALL. problem: why it is
    refused.
    """

    conf: str
    name: str
    version: str
    file: str = ""
    text: str = ""
    enabled: bool = True
    excluded: tuple[str, ...] = ()
    said: str = ""
    problem: str = ""
    message: str = ""
    hint: str = ""


def run_import(options: argparse.Namespace) -> int:
    """kmoddctl import dkms"""
    if options.restore_copies and not options.places and not options.all:
        print_moves(put_back(Sysroot.at(options.root), options.dry_run), [], "restored", options.json)
        return DONE
    if bool(options.places) == options.all or options.restore_copies:
        text = "import dkms takes paths or names of modules, or --all; and --restore-copies alone"
        raise Problem("usage-import", text, "see kmoddctl(8)")
    seen = observe(options)
    configure("critical")
    if options.remove_copies:
        return _remove_copies(options, seen)
    confs = sorted(set(find_confs(seen.sysroot))) if options.all else [find(seen.sysroot, p) for p in options.places]
    imports = asyncio.run(_evaluate_all(seen, confs, options))
    for one in imports:
        if one.text and not options.dry_run:
            add(seen.sysroot, one.text, one.name)
    _print(options, imports, seen)
    return FAILED if any(one.problem for one in imports) else DONE


def _remove_copies(options: argparse.Namespace, seen: Observed) -> int:
    ours = {name: module for name, module in seen.snapshot.modules.items() if module.file.source.dkms}
    confs = [] if options.all else [find(seen.sysroot, place) for place in options.places]
    names = [name for name, module in sorted(ours.items()) if options.all or module.file.source.dkms in confs]
    moved, left = put_aside(seen, names, options.dry_run)
    print_moves(moved, left, "would put aside" if options.dry_run else "put aside", options.json)
    return FAILED if left else DONE


# -- where -----------------------------------------------------------------------------------------------------------
def find(sysroot: Sysroot, place: str) -> str:
    """Return the in-root path of the dkms.conf that a path, NAME or NAME/VERSION stands for. Raises Problem."""
    if place.startswith(("/", ".")):
        path = Path(os.path.abspath(place))
        inside = sysroot.inside(path) if not sysroot.is_host and sysroot.root in path.parents else str(path)
        conf = inside if inside.endswith("/dkms.conf") else f"{inside}/dkms.conf"
        if sysroot.resolve(conf).is_file():
            return conf
        raise Problem("source-missing", f"{conf} is not a file in {sysroot.root}", "give a source or its dkms.conf")
    name, _, version = place.partition("/")
    texts = {conf: identify(sysroot, conf) for conf in find_confs(sysroot)}
    known = [conf for conf, said in texts.items() if said[0] == name and version in ("", said[1])]
    if not known:
        text = f"neither /usr/src nor {DKMS_TREE} has a dkms.conf of {place}"
        raise Problem("source-missing", text, "give the path of its source")
    return newest(known, texts)


# -- what ------------------------------------------------------------------------------------------------------------
async def _evaluate_all(seen: Observed, confs: list[str], options: argparse.Namespace) -> list[Import]:
    reader = seen.confs()
    kernels = seen.kernels()
    ours = {name: module for name, module in seen.snapshot.modules.items() if not is_adopted(module)}
    registered = {module.file.source.dkms: module.path for module in ours.values()}
    imports = []
    latest: dict[str, str] = {}
    said = {conf: identify(seen.sysroot, conf) for conf in confs}
    for name in {name for name, _ in said.values()}:
        latest[name] = newest([conf for conf in confs if said[conf][0] == name], said)
    for conf in confs:
        name, version = said[conf]
        if conf != latest[name]:
            problem = Problem(
                "dkms-superseded", f"{latest[name]} is a newer version", "name it if it is the wanted one"
            )
            imports.append(_refuse(Import(conf, name, version), problem))
            continue
        one = await _evaluate(reader, kernels, conf, options.ignore_hooks)
        if not one.problem and conf in registered:
            one = replace(one, text="", file=registered[conf], name=one.name)
        elif not one.problem and one.name in ours:
            path = ours[one.name].path
            text = f"module {one.name} is registered by {path}, with another source"
            one = _refuse(one, Problem("module-exists", text, f"kmoddctl remove {one.name} first"))
        imports.append(one)
    return imports


async def _evaluate(reader: ConfReader, kernels: list[Kernel], conf: str, ignore_hooks: bool) -> Import:
    """Read a conf for all kernels; the first problem refuses it."""
    name, version = identify(reader.sysroot, conf)
    source = Source(dkms=conf, ignore_hooks=True if ignore_hooks else None)
    module = Module(name=name if NAME.fullmatch(name) else "module", file=ModuleFile(source=source), path=conf)
    found: list[tuple[Kernel, Recipe]] = []
    try:
        for kernel in kernels:
            found.append((kernel, await reader.find(module, kernel)))
    except Problem as problem:
        return _refuse(Import(conf, name, version), problem)
    recipe = found[0][1]
    table = ModuleTable(version=recipe.version, enabled=recipe.autoinstall)
    return Import(
        conf,
        recipe.name,
        recipe.version,
        file=f"/etc/kmodd/modules.d/{recipe.name}.toml",
        text=_text(table, source),
        enabled=recipe.autoinstall,
        excluded=tuple(r.excluded for _, r in found if r.excluded),
        said=recipe.said,
    )


def _refuse(one: Import, problem: Problem) -> Import:
    return replace(one, text="", problem=problem.code, message=problem.message, hint=problem.hint)


def _text(table: ModuleTable, source: Source) -> str:
    lines = ["# Import over from DKMS.", "[module]", f"version = {json.dumps(table.version)}"]
    if not table.enabled:
        lines += ["enabled = false  # AUTOINSTALL is not yes; kmoddctl enable builds it"]
    lines += ["", "[source]", f"dkms = {json.dumps(source.dkms)}"]
    lines += ["ignore_hooks = true"] if source.ignore_hooks else []
    return "\n".join(lines) + "\n"


# -- telling ---------------------------------------------------------------------------------------------------------
def _print(options: argparse.Namespace, imports: list[Import], seen: Observed) -> None:
    if options.json:
        print(json.dumps({"schema": 1, "dry_run": options.dry_run, "confs": [_document(one) for one in imports]}))
        return
    for one in imports:
        if one.problem:
            print(f"refused {one.conf}: {one.message}" + (f"\n  hint: {one.hint}" if one.hint else ""))
        elif not one.text:
            print(f"{one.name} is registered already by {one.file}")
        else:
            print(f"{'would register' if options.dry_run else 'registered'} {one.name} by {one.file}")
            if not one.enabled:
                print(f"  disabled, since its AUTOINSTALL is not yes; to build it: kmoddctl enable {one.name}")
        if one.text and options.dry_run:
            print("".join(f"    {line}\n" for line in one.text.splitlines()), end="")
        for reason in one.excluded:
            print(f"  not for {reason}")
        if one.said:
            print(f"  its dkms.conf printed: {one.said}")
    if not imports:
        print("there is no dkms.conf")
    elif any(one.text for one in imports) and not options.dry_run and Lock(seen.sysroot).holder() is None:
        print("kmodd is not running; apply it with: kmoddctl sync")


def _document(one: Import) -> dict[str, object]:
    fault = {"problem": one.problem, "message": one.message, "hint": one.hint} if one.problem else None
    return {
        "conf": one.conf,
        "module": one.name,
        "version": one.version,
        "file": one.file,
        "content": one.text,
        "enabled": one.enabled,
        "excluded": list(one.excluded),
        "printed": one.said,
        "error": fault,
    }


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tool", choices=["dkms"], help="whose modules")
    parser.add_argument("places", nargs="*", metavar="PATH|NAME[/VERSION]", help="sources with a dkms.conf")
    parser.add_argument("--all", action="store_true", help="every one in /usr/src and /var/lib/dkms")
    copies = parser.add_mutually_exclusive_group()
    copies.add_argument("--remove-copies", action="store_true", help="put aside what DKMS itself installed")
    copies.add_argument("--restore-copies", action="store_true", help="put that back")
    parser.add_argument("--ignore-hooks", action="store_true", help="take them without their install scripts")
    add_dry_run(parser)


COMMANDS = {"import": Command(_add_arguments, run_import)}
