"""One build's workspace: its scratch directory, the sandbox around it, and the log that all programs in it write to.

Must not: know what the programs are for.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Kernel
from ..core.sysroot import Sysroot
from ..system.run import SHORT, run
from . import sandbox
from .jobserver import Share

SOURCE = f"{sandbox.WORK}/source"  # the copy of the source, as seen inside
TEMPORARY = f"{sandbox.WORK}/tmp"  # the same as /tmp, but of one file system with the source
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LC_ALL": "C.UTF-8",
    "KBUILD_BUILD_USER": "kmodd",
    "KBUILD_BUILD_HOST": "kmodd",
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
}
LIMITS = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NPROC: 4096, resource.RLIMIT_FSIZE: 4 << 30}


@dataclass(frozen=True)
class Workspace:
    """scratch: its host directory. owner: uid and gid of what runs in it. log: a host path that is appended to."""

    sysroot: Sysroot
    scratch: Path
    owner: tuple[int, int]
    kernel: Kernel
    log: Path
    share: Optional[Share] = None  # of the jobserver, where programs take part in it
    largest_log: int = 16 << 20  # bytes that all programs together may add to the log
    makefiles: str = ""  # what make reads before its own, as seen inside

    async def run(
        self,
        program: Sequence[str],
        *,
        timeout: float = 300,
        directory: str = SOURCE,
        env: Mapping[str, str] = {},
        jobs: bool = False,
        read_only: Sequence[tuple[Path, str]] = (),
        writable: Sequence[tuple[Path, str]] = (),
        raw: bool = False,
    ) -> int:
        """Run a program inside, its output appended to the log; returns its status as Popen.returncode.

        timeout: seconds. env: more of the environment. jobs: it takes part in the jobserver. read_only, writable:
        what it sees besides (host path, path inside). raw: as of `run`. Raises Problem tool-missing, tool-failed (it
        could not be started), tool-timeout and, unless raw, tool-killed.
        """
        build_tree = str(self.kernel.build_tree)
        covered = build_tree.startswith(("/usr/src/", "/usr/lib/modules/"))
        share = self.share if jobs else None
        more = {"MAKEFLAGS": share.flags} if share else {}
        if jobs and self.makefiles:
            more["MAKEFILES"] = self.makefiles
        with sandbox.open_filter() as filters:
            argv = sandbox.command(
                self.sysroot,
                self.scratch,
                program,
                directory=directory,
                read_only=[*read_only, *(() if covered else ((self.sysroot.resolve(build_tree), build_tree),))],
                writable=writable,
                env={**ENVIRONMENT, **more, **env},
                owner=self.owner,
                filters=filters,
            )
            before = self.log.stat().st_size
            done = await run(
                argv,
                check=False,
                raw=raw,
                timeout=timeout,
                output=self.log,
                output_limit=max(self.largest_log - before, 0),
                limits=LIMITS,
                yields=True,
                pass_fds=(*filters, *(share.descriptors if share else ())),
            )
        if done.status and not raw and SHORT.search(self.said_since(before)):
            text = f"{program[0]} failed with exit status {done.status}, since the machine ran out of something"
            raise Problem("tool-failed", text, f"the whole log: {self.sysroot.inside(self.log)}", transient=True)
        return done.status

    def said_since(self, offset: int, most: int = 1 << 20) -> str:
        """Return what was appended to the log from an offset on, up to `most` bytes."""
        with self.log.open("rb") as stream:
            stream.seek(offset)
            return stream.read(most).decode(errors="replace")

    def quote(self, text: str) -> None:
        """Append some text of others to the log."""
        with self.log.open("a", errors="replace") as stream:
            stream.write(f"{text}\n")

    def say(self, text: str) -> None:
        """Append a line of kmodd's own to the log."""
        with self.log.open("a") as stream:
            stream.write(f"[kmodd: {text}]\n")
