"""What a failed build's log says: the first error of compiler, linker or make, and whether it may pass by itself."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import Problem

LARGEST = 32 << 20  # bytes of a log that are looked at
#: Signs that the machine, not the source, is to blame: (pattern, code, sentence, hint).
PASSING = (
    (re.compile(r"No space left on device|Disk quota exceeded"), "disk-full", "the disk is full", "free some space"),
    (
        re.compile(r"virtual memory exhausted|[Cc]annot allocate memory|out of memory|Killed signal terminated"),
        "out-of-memory",
        "the build ran out of memory",
        "give the build more memory or fewer jobs",
    ),
    (
        re.compile(r"(\S+): (?:command not found|not found$)"),
        "tool-missing",
        "a program that the build needs is not installed",
        "install it",
    ),
    (
        re.compile(r"(?:Resource temporarily unavailable|Too many open files)"),
        "resources-exhausted",
        "the machine ran out of processes or files",
        "see ulimit and the unit's TasksMax",
    ),
)
#: What counts as the first useful line, the earlier pattern the better.
ERRORS = (
    re.compile(r"^(?P<line>\S[^\n]*:\d+(?::\d+)?: (?:fatal )?error: .*)$"),
    re.compile(r"^(?P<line>ERROR: modpost: .*)$"),
    re.compile(r"^(?P<line>ld(?:\.\w+)?: .*)$"),
    re.compile(r"^(?P<line>[^\n]*undefined reference to .*)$"),
    re.compile(r"^(?P<line>\S+:\d+: \*\*\* .*)$"),
    re.compile(r"^(?P<line>make(?:\[\d+\])?: \*\*\* (?!\[|Deleting|Waiting).*)$"),
    re.compile(r"^(?P<line>/bin/(?:ba)?sh: .*)$"),
    re.compile(r"^(?P<line>error: .*|Error: .*)$"),
    re.compile(r"^(?P<line>make(?:\[\d+\])?: \*\*\* .*)$"),
)


#: Quoted source, and what a compiler says of it, may speak of anything.
QUOTED = re.compile(r"\s*\d*\s*\||\S[^:]*:\d+(?::\d+)?: (?:error|warning|note): ")
#: No other line is looked at closely.
TELLING = re.compile(
    r"rror|ERROR|\*\*\*|ld[.:]|undefined|/bin/|No space|quota|emory|Killed|not found|Resource|Too many", re.ASCII
)
LONGEST = 1000  # characters of a line that are looked at


def _telling(text: str) -> list[str]:
    """Return the lines that may say why a build failed; patterns on a whole log would take quadratic time."""
    return [line[:LONGEST] for line in text.split("\n") if TELLING.search(line, 0, LONGEST)]


def first_error(text: str) -> str:
    """Return the first line that says why a build failed, "" where none can be told."""
    telling = _telling(text)
    for pattern in ERRORS:
        found = next(filter(None, map(pattern.match, telling)), None)
        if found:
            return found["line"].replace("/build/source/", "").strip()[:500]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("[kmodd")]
    return lines[-1].strip()[:500] if lines else ""


def explain(log: Path, status: int, where: str) -> Problem:
    """Return the problem that a failed build is. where: the log's path as the administrator sees it."""
    with log.open("rb") as stream:
        text = stream.read(LARGEST).decode(errors="replace")
    telling = [line for line in _telling(text) if not QUOTED.match(line)]
    for pattern, code, sentence, hint in PASSING:
        for line in telling:
            if pattern.search(line):
                text = f"{sentence}: {line.strip()[:300]}"
                return Problem(code, text, f"{hint}; kmodd tries again by itself", transient=True)
    if status in (-9, 137):
        return Problem("build-killed", "the build was killed", "kmodd tries again by itself", transient=True)
    line = first_error(text) or f"make ended with exit status {status}"
    return Problem("build-failed", line, f"the whole log: {where}", transient=False)
