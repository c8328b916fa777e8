"""Which installed package provides the build tree of which kernel release, by rpm's own database.

Packages are found by `Provides: kernel-devel-uname-r = RELEASE` (kernel.spec of the EL family), never by their names.
Must not: create, lock or change a database, or load librpm into this process, which costs memory, takes over signals
and blocks.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, Union

from ..core.errors import Problem
from ..core.sysroot import Sysroot
from ..system.files import stat_signature
from ..system.run import Finished, find_accident, run
from .rpmchild import CAPABILITY, EQUAL

CHILD = Path(__file__).with_name("rpmchild.py")
#: A database's files by its kind: sqlite, and its log of what is not merged yet; Berkeley DB; ndb.
DATABASES = ("rpmdb.sqlite", "Packages", "Packages.db")
CONTENTS = (*DATABASES, "rpmdb.sqlite-wal", "Index.db")
HINT = "rpm --verifydb tells more, rpm --rebuilddb repairs it; kmodd reads it again when it changes"


NONE = "(none)"  # what rpm prints for a tag that a package lacks
Package = tuple[str, str]  # NEVRA, and the file name of the source RPM, "" where the package does not say it


class RpmQueries(Protocol):
    """What kmodd asks rpm."""

    async def devel_packages(self, releases: Iterable[str]) -> dict[str, str]:
        """Return the NEVRA of the package that provides each release's build tree; unknown releases are left out.

        Raises Problem rpmdb-unreadable, tool-killed and tool-missing, all of them transient.
        """

    async def source_packages(self, releases: Iterable[str]) -> dict[str, str]:
        """Return the file name of the source RPM that each release's build tree was built from, likewise."""


class _CachedQueries:
    """Asks only when the database's files changed."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self._known: tuple[object, dict[str, Package]] = (None, {})

    async def devel_packages(self, releases: Iterable[str]) -> dict[str, str]:
        return {release: package[0] for release, package in (await self._packages(releases)).items()}

    async def source_packages(self, releases: Iterable[str]) -> dict[str, str]:
        return {release: package[1] for release, package in (await self._packages(releases)).items() if package[1]}

    async def _packages(self, releases: Iterable[str]) -> dict[str, Package]:
        try:
            database = self.sysroot.rpm_database
            key = self._signature(database)
        except OSError as error:
            text = f"the rpm database cannot be read: {error.strerror} ({error.filename})"
            raise Problem("rpmdb-unreadable", text, "run it as root", transient=True) from error
        if key is None:
            return {}
        if self._known[0] != key:
            self._known = (key, await self._ask(database))
        packages = self._known[1]
        return {release: packages[release] for release in releases if release in packages}

    def _signature(self, database: str) -> object:
        """Return what changes with the database's content, None where there is no database. Raises OSError."""
        directory = self.sysroot.resolve(database)
        found = {}
        for name in CONTENTS:
            try:
                inode, size, modified, _ = stat_signature(directory / name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if size:  # readers leave an empty log behind
                found[name] = (inode, size, modified)
        return (database, found) if any(name in found for name in DATABASES) else None

    async def _ask(self, database: str) -> dict[str, Package]:
        raise NotImplementedError

    def _check(self, done: Finished, database: str, missing: bool = False) -> None:
        """Raise Problem where rpm did not really answer: it may print an error and still say "nothing found"."""
        accident = find_accident("rpm", done)
        if accident is not None and accident.code == "tool-killed":
            raise accident
        errors = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("error:")]
        if errors or (done.status != 0 and not missing):
            said = errors[0][len("error:") :].strip() if errors else f"exit status {done.status}"
            text = f"the rpm database {database} cannot be read: {said}"
            raise Problem("rpmdb-unreadable", text, HINT, transient=True, path=database)


class BindingQueries(_CachedQueries):
    """Asks through rpm's Python binding, in a short-lived child."""

    @staticmethod
    async def is_usable() -> bool:
        """Tell whether the binding can be imported; PyPI's rpm is a shim that may find no system binding."""
        if importlib.util.find_spec("rpm") is None:
            return False
        try:
            done = await run([sys.executable, "-I", CHILD], check=False, timeout=30)
        except Problem:
            return False
        return done.status == 0

    async def _ask(self, database: str) -> dict[str, Package]:
        argv: Sequence[Union[str, Path]] = [sys.executable, "-I", CHILD, self.sysroot.root, database]
        done = await run(argv, check=False, raw=True)
        self._check(done, database)
        return {release: (package[0], package[1]) for release, package in json.loads(done.stdout).items()}


class CommandQueries(_CachedQueries):
    """Asks through rpm(8)."""

    async def _ask(self, database: str) -> dict[str, Package]:
        form = "[%{PROVIDENAME}\\t%{PROVIDEFLAGS}\\t%{PROVIDEVERSION}\\t%{=NEVRA}\\t%{=SOURCERPM}\\n]"
        argv: list[Union[str, Path]] = ["rpm", "--root", self.sysroot.root, "--dbpath", database]
        argv += ["--nodigest", "--nosignature", "-q", "--whatprovides", CAPABILITY, "--qf", form]
        done = await run(argv, check=False, raw=True)
        self._check(done, database, missing="no package provides" in done.text)
        answer: dict[str, Package] = {}
        for line in done.text.splitlines():
            name, *rest = line.split("\t")
            if name == CAPABILITY and len(rest) == 4 and int(rest[0]) & EQUAL[0] == EQUAL[1]:
                source = "" if rest[3] == NONE else rest[3]
                answer[rest[1]] = max(answer.get(rest[1], ("", "")), (rest[2], source))
        return answer


async def find_signature_fault(sysroot: Sysroot, package: Path) -> str:
    """Return why an RPM file, a host path, has no good signature by a key of the root's rpm keyring; "" if it has.

    rpmkeys(8) demands digests and a signature at the level "all", and prints what of them is good in small letters.
    Raises Problem tool-missing, tool-killed, tool-timeout.
    """
    database = sysroot.resolve(sysroot.rpm_database)
    if not any((database / name).exists() for name in DATABASES):
        return "there is no rpm database"
    argv: list[Union[str, Path]] = ["rpmkeys", "--dbpath", database, "--define", "_pkgverify_level all"]
    argv += ["--checksig", package]
    done = await run(argv, check=False, timeout=600)
    accident = find_accident("rpmkeys", done)
    if accident is not None:
        raise accident
    said = (done.text.strip().splitlines() or done.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
    verdict = said.rpartition(": ")[2].strip()
    return "" if done.status == 0 and verdict.split() == ["digests", "signatures", "OK"] else verdict or "no answer"


async def open_queries(sysroot: Sysroot) -> RpmQueries:
    """Return the way of asking that works here; find out once and keep it."""
    return BindingQueries(sysroot) if await BindingQueries.is_usable() else CommandQueries(sysroot)
