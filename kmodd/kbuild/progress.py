"""How far a build is, by the files that its log says are compiled. Must not: write."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

COMPILED = b"\n  CC [M]  "  # scripts/Kbuild.include, quiet_cmd_cc_o_c; make V=1 says nothing of the kind
PIECE = 1 << 20  # bytes read at once


class CompiledFiles:
    """Counts the compiled files in a growing log."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.count = 0
        self._offset = 0
        self._rest = b"\n"  # what was read last, which may be the beginning of a line that counts

    def read(self) -> int:
        """Return the count, with what was written since it was last asked for. Raises OSError."""
        with self.log.open("rb") as stream:
            stream.seek(self._offset)
            while piece := stream.read(PIECE):
                self._offset += len(piece)
                self.count += (self._rest + piece).count(COMPILED)
                self._rest = (self._rest + piece)[1 - len(COMPILED) :]
        return self.count


def estimate(log: Path) -> Optional[int]:
    """Return how many files a build will compile, by the newest other log of its module that tells of any.

    log: MODULE/RELEASE/ATTEMPT.log. What is a link there is none of kmodd's.
    """
    try:
        directories = [path for path in log.parent.parent.iterdir() if not path.is_symlink()]
        logs = (path for directory in directories for path in directory.glob("*.log"))
        others = [path for path in logs if path != log and not path.is_symlink()]
        for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            if count := CompiledFiles(other).read():
                return count
    except OSError:
        pass
    return None
