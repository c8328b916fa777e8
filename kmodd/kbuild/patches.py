"""Applying patches to the copy of a source: exactly, or not at all, and then with the reason.

Fuzz, patch(1)'s word for ignoring context, is used only where the module file allows it. A patch that the source has
already is left out with a warning. Must not: decide which patches a kernel gets.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Fault
from ..core.modulefile import Patch
from ..system.files import explained, make_directory
from ..system.threads import finish_in_thread
from .diff import Hunk, Outside, Piece, parse
from .sandbox import WORK
from .workspace import TEMPORARY, Workspace

LARGEST = 64 << 20  # bytes of a patch
MOST_FUZZ = 3  # lines of context that diff -u gives
CHECKED = re.compile(r"(?:checking|patching) file '?(?P<file>.+?)'?$")
FAILED = re.compile(r"Hunk #(?P<number>\d+) FAILED")


async def apply(
    workspace: Workspace, patches: Sequence[tuple[Path, Patch]], place: str, directory: str = "source"
) -> tuple[Fault, ...]:
    """Apply patches (host paths) in order; returns warnings.

    place: the key of the module file, for messages. directory: what is patched, relative to the scratch directory.
    Raises Problem patch-invalid, patch-unsafe, patch-fuzz, patch-failed.
    """
    warnings = []
    for number, (path, patch) in enumerate(patches):
        name = f"{place}: {patch.file}"
        patching = await finish_in_thread(_Patching, workspace, number, path, patch, name, directory)
        if not await patching.apply():
            workspace.say(f"{patch.file} is applied already")
            text = f"{patch.file} is left out, since the source has it already"
            warnings.append(Fault("patch-already-applied", text, "drop it, or limit it to other kernels"))
    return tuple(warnings)


class _Patching:
    """Applies one patch to the source."""

    def __init__(self, workspace: Workspace, number: int, path: Path, patch: Patch, name: str, directory: str) -> None:
        self.workspace = workspace
        self.patch = patch
        self.name = name
        self.top = workspace.scratch / directory
        self.inside = f"{WORK}/{directory}"
        with explained(f"reading {workspace.sysroot.inside(path)}"):
            if path.stat().st_size > LARGEST:
                raise Problem("patch-invalid", f"{self.name}: is larger than {LARGEST} bytes", "is it a patch?")
            text = path.read_bytes().decode(errors="surrogateescape")
        self.pieces = self._parse(text)
        names = [{*piece.names} for piece in self.pieces]
        #: Whether it changes a file more than once, as a series in one file does; patch --dry-run cannot tell then.
        self.again = any(one & other for at, one in enumerate(names) for other in names[:at])
        self.file = self._write(f"{number}.patch", text)
        backwards = "".join(piece.text for piece in reversed(self.pieces))
        self.backwards = self._write(f"{number}.backwards", backwards) if self.again else self.file

    def _write(self, name: str, text: str) -> str:
        path = self.workspace.scratch / "patches" / name
        with explained(f"writing {name}"):
            make_directory(path.parent, durable=False)
            path.write_bytes(text.encode(errors="surrogateescape"))
            path.chmod(0o644)
        return f"{WORK}/patches/{name}"

    def _parse(self, text: str) -> list[Piece]:
        try:
            pieces = parse(text, self.patch.strip)
        except ValueError as error:
            raise Problem("patch-invalid", f"{self.name}: {error}", "correct it, or its strip") from None
        except Outside as error:
            raise Problem("patch-unsafe", f"{self.name}: {error}", "such a patch is not applied") from None
        for piece in pieces:
            if piece.makes_link:
                text = f"makes the link {piece.names[-1] if piece.names else '(unnamed)'}"
                raise Problem("patch-unsafe", f"{self.name}: {text}", "such a patch is not applied")
            for name in piece.names:
                way = name.split("/")
                for depth in range(1, len(way) + 1):
                    here = "/".join(way[:depth])
                    if (self.top / here).is_symlink():
                        text = f"{name} is reached through the link {here}"
                        raise Problem("patch-unsafe", f"{self.name}: {text}", "patch the file that the link leads to")
        return pieces

    # -- patch(1) --------------------------------------------------------------------------------------------------
    async def _run(self, *words: str, directory: str = "") -> tuple[bool, str]:
        """Run patch(1); returns whether all of it applied, and what it said."""
        before = self.workspace.log.stat().st_size
        argv = ["patch", "-u", "-f", f"-p{self.patch.strip}", "--no-backup-if-mismatch", "-r", "-", *words]
        status = await self.workspace.run(argv, directory=directory or self.inside)
        return status == 0, self.workspace.said_since(before)

    async def _try(self, *words: str) -> tuple[bool, str]:
        """Run patch(1) without changing the source."""
        if not self.again:
            return await self._run("--dry-run", *words)
        trial = f"{TEMPORARY}/trial"  # patch(1) renames, so that hard links keep the original
        status = await self.workspace.run(["cp", "-al", self.inside, trial])
        tried = await self._run(*words, directory=trial) if status == 0 else (False, "")
        await self.workspace.run(["rm", "-rf", trial])
        return tried

    async def apply(self) -> bool:
        """Apply the patch; tells False where the source has it already. Raises Problem."""
        self.workspace.say(f"patch {self.patch.file}")
        fuzz = 0
        applies, said = await self._try("-F0", "-i", self.file)
        if not applies:
            self.workspace.say("is it applied already?")
            if (await self._try("-F0", "-R", "-i", self.backwards))[0]:
                return False
            fuzz = await self._find_fuzz()
            if fuzz > self.patch.fuzz:
                text = f"applies only with fuzz {fuzz}, that is, with other lines around it than it was made for"
                hint = f"look at the patch and the source; set fuzz = {fuzz} if you have checked that it is right"
                raise Problem("patch-fuzz", f"{self.name}: {text}", f"{hint}; {self._log()}")
        if applies or fuzz:
            done, said = await self._run(f"-F{fuzz}", "-i", self.file)
            if done:
                return True
        raise self._rejection(said)

    async def _find_fuzz(self) -> int:
        """Return the fuzz with which the patch applies, 0 if none does."""
        for fuzz in range(1, MOST_FUZZ + 1):
            self.workspace.say(f"does it apply with fuzz {fuzz}?")
            if (await self._try(f"-F{fuzz}", "-i", self.file))[0]:
                return fuzz
        return 0

    # -- why not ---------------------------------------------------------------------------------------------------
    def _log(self) -> str:
        return f"the whole log: {self.workspace.sysroot.inside(self.workspace.log)}"

    def _rejection(self, said: str) -> Problem:
        """Return why patch(1), by what it said, could not apply all; the rejected hunks are written to the log."""
        hint = f"limit it with kernels = [...], or bring it up to date; {self._log()}"
        made = {name for piece in self.pieces if piece.hunks and not piece.hunks[0].line for name in piece.names}
        for piece in self.pieces:
            if piece.hunks and not any(name in made or self._is_there(name) for name in piece.names):
                text = f"{piece.names[-1]} is not in the source (strip = {self.patch.strip})"
                hint = f"correct strip or build the right source; {self._log()}"
                return Problem("patch-failed", f"{self.name}: {text}", hint)
        rejected = self._rejected(said)
        for name, hunk in rejected:
            self.workspace.say(f"hunk {hunk.number} of {name} does not apply:")
            self.workspace.quote("\n".join(hunk.lines))
        if not rejected:
            return Problem("patch-failed", f"{self.name}: does not apply to the source", hint)
        applied = [item for item in rejected if self._is_applied(*item)]
        if applied:
            name, hunk = applied[0]
            text = f"is applied in part: hunk {hunk.number} of {name} (line {hunk.line}) is there already"
            return Problem("patch-failed", f"{self.name}: {text}, others are not", hint)
        name, hunk = rejected[0]
        more = f", nor do {len(rejected) - 1} more" if len(rejected) > 1 else ""
        text = f"hunk {hunk.number} of {name} (line {hunk.line}) does not apply{more}"
        return Problem("patch-failed", f"{self.name}: {text}", hint)

    def _rejected(self, said: str) -> list[tuple[str, Hunk]]:
        """Return the hunks that patch(1) calls failed, with their files' names."""
        found, name = [], ""
        for line in said.splitlines():
            checked, failed = CHECKED.match(line), FAILED.match(line)
            if checked:
                name = checked["file"]
            if failed:
                hunks = [h for p in self.pieces if name in p.names for h in p.hunks]
                found += [(name, h) for h in hunks if h.number == int(failed["number"])][:1]
        return found

    def _is_there(self, name: str) -> bool:
        try:
            return stat.S_ISREG((self.top / name).lstat().st_mode)
        except OSError:
            return False

    def _is_applied(self, name: str, hunk: Hunk) -> bool:
        """Tell whether what a hunk makes is there."""
        if not hunk.result or not self._is_there(name):
            return False
        with os.fdopen(os.open(self.top / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
            content = stream.read(LARGEST).decode(errors="surrogateescape")
        return f"\n{hunk.result}" in f"\n{content}\n"
