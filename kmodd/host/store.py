"""What is remembered: one small JSON file per target, its unsigned objects beside it, two files per kernel.

`targets/<release>/<module>.json` and `targets/<release>/<module>.objects/` under /var/lib/kmodd. A record that
cannot be read is set aside and forgotten, which costs a rebuild and nothing else. Must not: decide anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional, TypeVar

from pydantic import BaseModel

from ..core.errors import Problem
from ..core.model import Target
from ..core.record import Attempt, BootRecord, Built, BuiltObject, Depmod, KernelRecord, TargetRecord
from ..core.sysroot import Sysroot
from ..system.deleting import delete_tree
from ..system.files import (
    LOCAL,
    digest_file,
    find_accident,
    find_leftovers,
    list_names,
    look_up,
    make_directory,
    read_own,
    remove_empty,
    remove_file,
    replace_file,
    stage_copy,
    stat_signature,
    sync_directory,
)
from ..system.log import get_logger

SYMVERS = "Module.symvers"
_Model = TypeVar("_Model", bound=BaseModel)


def _check_accident(error: Exception) -> None:
    """Raise an error by which nothing is known of a record, nor of any other."""
    if isinstance(error, OSError) and find_accident(error) and error.errno not in LOCAL:
        raise error


class Store:
    """The state directory of one root."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self.targets = sysroot.below(sysroot.state, "targets")
        self.kernels = sysroot.below(sysroot.state, "kernels")
        self.boots = sysroot.below(sysroot.state, "boots")
        self._known: dict[Path, tuple[object, TargetRecord]] = {}
        self._checked: dict[Path, tuple[object, str]] = {}

    def _path(self, target: Target) -> Path:
        return self.sysroot.below(self.targets, target.kernel) / f"{target.module}.json"

    def objects(self, target: Target) -> Path:
        """Return the directory of a target's unsigned objects."""
        return self.sysroot.below(self.targets, target.kernel, f"{target.module}.objects")

    def _directories(self) -> Iterator[tuple[str, Path]]:
        """Yield the releases that something is remembered for, and where."""
        for release in list_names(self.targets):
            with contextlib.suppress(Problem):  # links that lead nowhere
                yield release, self.sysroot.below(self.targets, release)

    # -- reading ---------------------------------------------------------------------------------------------------
    def records(self) -> dict[Target, TargetRecord]:
        """Return all records. Raises OSError for want of what every pass needs."""
        found: dict[Target, TargetRecord] = {}
        for release, directory in self._directories():
            for module in list_names(directory, ".json"):
                target = Target(module, release)
                record = self._read(directory / f"{module}.json", target)
                if record is not None:
                    found[target] = record
        return found

    def record(self, target: Target) -> TargetRecord:
        """Return a target's record, a new one where there is none."""
        return self._read(self._path(target), target) or TargetRecord(module=target.module, kernel=target.kernel)

    def _read(self, path: Path, target: Target) -> Optional[TargetRecord]:
        try:
            key = stat_signature(path)
            known = self._known.get(path)
            if known and known[0] == key:
                return known[1]
            record = TargetRecord.model_validate_json(read_own(path))
            if (record.module, record.kernel) != (target.module, target.kernel):
                raise ValueError("it is of another module or kernel")
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            _check_accident(error)
            get_logger().warning("unreadable record ignored", path=str(path), error=str(error).splitlines()[0])
            if isinstance(error, ValueError):
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".json.damaged"))
            return None
        self._known[path] = (key, record)
        return record

    def kernel_records(self) -> dict[str, KernelRecord]:
        """Return what is remembered of kernels, by release. Raises OSError where that could not be read."""
        return dict(self._models(self.kernels, KernelRecord))

    def boot_records(self) -> dict[str, BootRecord]:
        """Return what came of loading at the last boot of kernels, by release. Raises OSError as kernel_records."""
        return dict(self._models(self.boots, BootRecord))

    def _models(self, directory: Path, model: type[_Model]) -> Iterator[tuple[str, _Model]]:
        """Yield the records of kernels in a directory; what cannot be read as one is passed over."""
        for release in list_names(directory, ".json"):
            try:
                data = read_own(directory / f"{release}.json")
            except OSError as error:
                _check_accident(error)
                continue
            with contextlib.suppress(ValueError):
                yield release, model.model_validate_json(data)

    def is_damaged(self, target: Target, built: Built) -> bool:
        """Tell whether unsigned objects are gone or changed; unchanged files are not read again.

        Raises OSError where one could not be read.
        """
        directory = self.objects(target)
        for item in built.objects:
            path = self.sysroot.below(directory, f"{item.name}.ko")
            try:
                key = stat_signature(path)
                known = self._checked.get(path)
                if not known or known[0] != key:
                    known = self._checked[path] = (key, digest_file(path))
            except OSError as error:
                if find_accident(error):
                    raise
                return True
            if known[1] != item.sha256:
                return True
        return False

    # -- writing ---------------------------------------------------------------------------------------------------
    def write(self, record: TargetRecord) -> None:
        """Store a target's record. Raises OSError."""
        path = self._path(Target(record.module, record.kernel))
        replace_file(path, record.model_dump_json(by_alias=True, indent=1).encode())
        self._known[path] = (stat_signature(path), record)

    def write_kernel(self, record: KernelRecord) -> None:
        """Store what is to be remembered of a kernel. Raises OSError."""
        replace_file(self.kernels / f"{record.kernel}.json", record.model_dump_json(by_alias=True).encode())

    def note_step(self, release: str, step: str, failed: Optional[Attempt], depmod: Optional[Depmod] = None) -> None:
        """Store how a step of a kernel as a whole ended; None: well. depmod: the one that did. Raises OSError."""
        known = self.kernel_records().get(release) or KernelRecord(kernel=release)
        steps = {kind: attempt for kind, attempt in known.steps.items() if kind != step}
        steps.update({step: failed} if failed else {})
        self.write_kernel(KernelRecord(kernel=release, steps=steps, depmod=depmod or known.depmod))

    def write_boot(self, record: BootRecord) -> None:
        """Store what came of loading at a kernel's boot. Needs no lock: nobody else writes it. Raises OSError."""
        replace_file(self.boots / f"{record.kernel}.json", record.model_dump_json(by_alias=True).encode())

    def keep_objects(self, target: Target, files: list[Path], symvers: bytes) -> tuple[BuiltObject, ...]:
        """Store a build's objects, in place of older ones; a kill half way shows as damage. Raises OSError."""
        directory = self.objects(target)
        fresh = directory.with_suffix(".objects.new")
        delete_tree(fresh)
        make_directory(fresh)
        kept = []
        for file in files:
            stage_copy(file, fresh / file.name).rename(fresh / file.name)
            kept.append(BuiltObject(name=file.name[: -len(".ko")], sha256=digest_file(fresh / file.name)))
        if symvers:
            replace_file(fresh / SYMVERS, symvers)
        sync_directory(fresh)
        delete_tree(directory)
        fresh.rename(directory)
        sync_directory(directory.parent)
        return tuple(kept)

    def symvers(self, target: Target) -> Optional[Path]:
        """Return the Module.symvers that a target's build left, if any."""
        path = self.sysroot.below(self.objects(target), SYMVERS)
        return path if look_up(path) else None

    def forget(self, target: Target) -> None:
        """Delete a target's objects and record. Raises OSError."""
        delete_tree(self.objects(target))
        path = self._path(target)
        if remove_file(path):
            self._known.pop(path, None)
        remove_empty(path.parent)

    def forget_kernel(self, release: str) -> None:
        """Delete what is remembered of a kernel. Raises OSError."""
        remove_file(self.kernels / f"{release}.json")
        remove_file(self.boots / f"{release}.json")

    def heal(self) -> None:
        """Delete what a kill left behind. Call only while holding the lock."""
        for directory in [self.kernels, *(directory for _, directory in self._directories())]:
            for path in find_leftovers(directory):
                remove_file(path)
            for name in list_names(directory, ".objects.new"):
                delete_tree(directory / f"{name}.objects.new")

    def check_writable(self) -> None:
        """Raise Problem state-unwritable where nothing can be remembered."""
        try:
            make_directory(self.targets)
        except OSError as error:
            where = self.sysroot.inside(self.targets)
            raise Problem("state-unwritable", f"{where} cannot be made: {error.strerror}", "run it as root") from error
        if not os.access(self.targets, os.W_OK):
            raise Problem("state-unwritable", f"{self.sysroot.inside(self.targets)} is not writable", "run it as root")
