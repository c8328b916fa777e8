"""Runs kmodd itself in a guest: a root's kernel, modules, configuration and state, and Python with what kmodd needs.

The guest's root directory is that of the booted kernel, so that what kmodd does to a running kernel can be done for
real. It has no compiler, no kernel-devel and no rpm: what is to be installed is built and installed before.
"""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.util
import py_compile
import re
import shlex
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archive import Archive
from machine import BootError, add_libraries, add_modules, add_programs, emulate
from patience import LIMIT

PROJECT = Path(__file__).resolve().parents[2]
LIBRARY = "/opt/kmodd"  # in the guest: kmodd and the distributions that it needs
MEMORY = 1024  # MiB: the archive is unpacked into it
PROGRAMS = {"/bin/busybox": "busybox", "/usr/bin/kmod": "kmod", "/usr/bin/openssl": "openssl"}
LINKS = ("modprobe", "insmod", "rmmod", "modinfo", "depmod")
STATE = ("etc", "var/lib/kmodd")  # what is taken over of the root, besides the kernel's directory
UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
#: Of the standard library what a program never needs.
UNUSED = {
    "test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data", "site-packages", "dist-packages",
}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """How one command of a session ended; messages are the kernel's while it ran."""

    exit: int
    stdout: str
    stderr: str
    messages: str


def run_inside(
    root: Path,
    release: str,
    session: Sequence[str],
    work: Path,
    files: Mapping[str, bytes] = {},
    options: str = "",
    programs: Mapping[str, str] = {},
) -> list[Ran]:
    """Boot a root's kernel and carry out commands there, one after the other; returns how each ended.

    session: shell commands, such as `kmoddctl status --json`. files: more files, by the guest's name. options: more
    words of the kernel's command line. work: a directory for the archive and the console. programs: more of them, by
    the guest's name. Raises BootError.
    """
    archive = Archive()
    archive.file("/init", Path(__file__).with_name("session").read_bytes(), 0o755)
    for number, command in enumerate(session):
        archive.file(f"/session/{number}", f"{command}\n".encode())
    add_programs(archive, {**PROGRAMS, **programs})
    for name in LINKS:
        archive.link(f"/usr/bin/{name}", "kmod")
    work.mkdir(parents=True, exist_ok=True)
    add_python(archive, work)
    kernel = root / "lib/modules" / release
    add_modules(archive, kernel, f"/lib/modules/{release}", [])
    archive.copy(kernel / "config", f"/lib/modules/{release}/config")
    for name in STATE:
        archive.copy_tree(root / name, f"/{name}")
    for name, content in files.items():
        archive.file(name, content)
    told = emulate(archive, kernel / "vmlinuz", work, options, MEMORY, 3 * LIMIT)
    return read_session(told, len(session))


def read_session(text: str, count: int) -> list[Ran]:
    """Return what the session's lines say. Raises BootError where one is missing."""
    lines = [line.split("\t") for line in text.replace("\r", "").splitlines()]
    facts = {(kind, number): base64.b64decode(value).decode(errors="replace") for kind, number, value in lines}
    if ("end", "-") not in facts:
        raise BootError("the guest's report is not complete")
    names = ("exit", "stdout", "stderr", "messages")
    found = [[facts[name, str(number)] for name in names] for number in range(count)]
    return [Ran(int(code), stdout, stderr, messages) for code, stdout, stderr, messages in found]


def add_python(archive: Archive, work: Path) -> None:
    """Add the interpreter that runs this, its standard library, kmodd, and the commands kmodd and kmoddctl."""
    program = Path(sys.executable).resolve()
    archive.copy(program, str(program))
    add_libraries(archive, program)
    library = Path(sysconfig.get_path("stdlib"))
    for top in sorted(library.iterdir()):
        if top.name not in UNUSED and not top.name.startswith("config-"):
            _add_code(archive, top, str(top))
    for name in _needed("kmodd"):
        found = importlib.metadata.distribution(name)
        for file in found.files or ():
            if file.parts[0] not in ("..", "/"):
                _add_code(archive, Path(str(found.locate_file(file))), f"{LIBRARY}/{file}")
    for path in sorted((PROJECT / "kmodd").rglob("*.py")):
        name = f"{LIBRARY}/{path.relative_to(PROJECT)}"
        archive.copy(path, name)
        compiled = work / "compiled.pyc"  # anew: bytecode that lies about might be older
        py_compile.compile(str(path), str(compiled), name, invalidation_mode=UNCHECKED)
        archive.copy(compiled, importlib.util.cache_from_source(name))
    for name, module in (("kmodd", "kmodd.daemon"), ("kmoddctl", "kmodd.ctl")):
        text = f'#!/bin/sh\nPYTHONPATH={LIBRARY} exec {shlex.quote(str(program))} -m {module} "$@"\n'
        archive.file(f"/usr/bin/{name}", text.encode(), 0o755)


def _add_code(archive: Archive, path: Path, name: str) -> None:
    """Add a file or directory of Python code; bytecode is marked as not to be compared with its source (PEP 552)."""
    if path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            _add_code(archive, inner, f"{name}/{inner.name}")
    elif path.suffix == ".pyc":
        content = path.read_bytes()
        archive.file(name, content[:4] + (1).to_bytes(4, "little") + content[8:])
    elif path.exists():
        archive.copy(path, name)
        if path.suffix == ".so":
            add_libraries(archive, path)


def _needed(name: str) -> list[str]:
    """Return the distributions that one needs when it runs, as far as they are installed here."""
    done: list[str] = []
    pending = [name]
    while pending:
        here = pending.pop()
        for text in importlib.metadata.requires(here) or ():
            wanted = re.match(r"[\w.-]+", text)
            if wanted is None or "extra ==" in text or wanted[0] in done:
                continue
            try:
                importlib.metadata.distribution(wanted[0])
            except importlib.metadata.PackageNotFoundError:  # for another version of Python
                continue
            done.append(wanted[0])
            pending.append(wanted[0])
    return sorted(done)
