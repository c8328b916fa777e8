"""What builds leave, read as the hostile input that it may be: objects, and Module.symvers.

Must not: run anything.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.modulefile import OBJECT, OBJECT_RULE, Module, canonical
from ..core.visible import visible
from ..system.reading import walk

SUFFIX = ".ko"
LONGEST_SHOWN = 100  # characters of a path in a message
LARGEST_SYMVERS = 16 << 20  # bytes, of all directories together; a whole kernel's has some 3 MiB
UNSTRIPPED = 8  # times as large as the stripped object, which is what counts, may one with debug symbols be
TOGETHER = 4  # times as large as one object may all of a build be together
ELF_RELOCATABLE = b"\x01\x00"


@dataclass(frozen=True)
class Limits:
    """What a build may leave: the bytes of its largest object (build.largest_object), the number of its objects.

    log: the bytes that its programs may print into its log (build.largest_log).
    """

    largest: int = 256 << 20
    most: int = 500
    log: int = 16 << 20


def find_files(top: Path) -> Iterator[Path]:
    """Yield the regular files below a directory that a build had, links not followed.

    Raises Problem object-invalid where there are more, or in deeper directories, than anybody has a use for.
    """
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for entry in walk(descriptor, "what the build left", most_bytes=None):
            if stat.S_ISREG(entry.found.st_mode):
                yield top / entry.path
    except Problem as problem:
        raise Problem("object-invalid", problem.message, "name the objects with [[object]]") from problem
    finally:
        os.close(descriptor)


def check_sizes(paths: Sequence[Path], limits: Limits, times: int = 1) -> None:
    """Raise Problem object-too-large where objects are too many or too large. times: what largest is multiplied by."""
    hint = "raise build.largest_object or build.most_objects in kmodd.toml, if these objects are what you want"
    if len(paths) > limits.most:
        text = f"the build yielded {len(paths)} objects, more than {limits.most} (build.most_objects)"
        raise Problem("object-too-large", text, hint)
    sizes = {path: path.lstat().st_size for path in paths}
    for path, size in sizes.items():
        if size > limits.largest * times:
            text = f"{path.name} has {size >> 20} MiB, more than {limits.largest * times >> 20} (build.largest_object)"
            raise Problem("object-too-large", text, hint)
    if sum(sizes.values()) > limits.largest * times * TOGETHER:
        text = (
            f"all objects together have {sum(sizes.values()) >> 20} MiB, more than {TOGETHER} of build.largest_object"
        )
        raise Problem("object-too-large", text, hint)


def read_symvers(top: Path, directories: Sequence[Path], most: Optional[int] = None) -> bytes:
    """Return the Module.symvers in some directories below top, one after the other; of the first `most` only."""
    paths = [directory / "Module.symvers" for directory in directories]
    found = [path for path in paths if is_plain(path, top)][:most]
    if sum(path.lstat().st_size for path in found) > LARGEST_SYMVERS:
        raise Problem(
            "object-too-large", f"Module.symvers is larger than {LARGEST_SYMVERS} bytes", "build less at once"
        )
    return b"".join(path.read_bytes() for path in found)


def is_plain(path: Path, top: Path) -> bool:
    """Tell whether a path below top is a regular file reached through no link."""
    try:
        here = path
        while here != top:
            mode = here.lstat().st_mode
            if stat.S_ISLNK(mode) or (here == path and not stat.S_ISREG(mode)):
                return False
            here = here.parent
    except OSError:
        return False
    return True


def find_objects(top: Path) -> list[Path]:
    """Return the regular files NAME.ko below top, sorted; none that are behind a link. Takes trees of any depth."""
    found = []
    pending = [str(top)]
    while pending:
        directory = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError:  # gone meanwhile, or too deep to have a path at all
            continue
        pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        found += [Path(e.path) for e in entries if e.name.endswith(SUFFIX) and e.is_file(follow_symlinks=False)]
    return sorted(found)


def check_name(path: Path, top: Path) -> None:
    """Raise Problem object-invalid unless the kernel could call a module as an object below top is named."""
    if not OBJECT.fullmatch(path.name[: -len(SUFFIX)]):
        name = visible(str(path.relative_to(top)))
        name = name if len(name) <= LONGEST_SHOWN else f"…{name[-LONGEST_SHOWN:]}"
        raise Problem("object-invalid", f"the build yielded {name}: {OBJECT_RULE}", "correct its Makefile's obj-m")


def check_object(path: Path) -> None:
    """Raise Problem object-invalid unless a file is a relocatable ELF object (elf(5))."""
    name = path.name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Problem("object-invalid", f"{name} cannot be read: {error.strerror}", transient=False) from error
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        head = stream.read(18) if stat.S_ISREG(found.st_mode) else b""
    if head[:4] != b"\x7fELF" or head[16:18] not in (ELF_RELOCATABLE, ELF_RELOCATABLE[::-1]):
        raise Problem("object-invalid", f"{name} is not a relocatable ELF object", transient=False)


def collect_objects(module: Module, top: Path, directories: Sequence[Path], where: str) -> list[Path]:
    """Return the objects that are to be installed: those of [[object]], else every .ko under the source.

    directories: where make ran. where: the log's path. Raises Problem object-missing, object-ambiguous, no-objects.
    """
    if module.file.object:
        found = []
        for item in module.file.object:
            candidates = [base / item.path / f"{item.name}.ko" for base in (*directories, top)]
            path = next((c for c in candidates if is_plain(c, top)), None)
            if path is None:
                text = f"the build yielded no {item.path}/{item.name}.ko".replace("./", "")
                hint = f"correct [[object]]; the whole log: {where}"
                raise Problem("object-missing", text, hint, transient=False)
            found.append(path)
        return found
    objects: dict[str, Path] = {}
    for path in find_objects(top):
        check_name(path, top)
        key = canonical(path.name)
        if key in objects:
            text = f"the build yielded {path.name} twice"
            raise Problem("object-ambiguous", text, "choose one with [[object]]", transient=False)
        objects[key] = path
    if not objects:
        text = "the build succeeded but yielded no .ko"
        hint = f"is build.directory right, and does its Makefile say obj-m? The whole log: {where}"
        raise Problem("no-objects", text, hint, transient=False)
    return [objects[key] for key in sorted(objects)]
