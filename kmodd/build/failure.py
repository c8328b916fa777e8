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
        re.compile(r"(\S+): (?:command not found|not found$)", re.MULTILINE),
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
    re.compile(r"^(?P<line>\S[^\n]*:\d+(?::\d+)?: (?:fatal )?error: .*)$", re.MULTILINE),
    re.compile(r"^(?P<line>ERROR: modpost: .*)$", re.MULTILINE),
    re.compile(r"^(?P<line>ld(?:\.\w+)?: .*)$", re.MULTILINE),
    re.compile(r"^(?P<line>[^\n]*undefined reference to .*)$", re.MULTILINE),
    re.compile(r"^(?P<line>make(?:\[\d+\])?: \*\*\* (?!\[).*)$", re.MULTILINE),
    re.compile(r"^(?P<line>/bin/(?:ba)?sh: .*)$", re.MULTILINE),
    re.compile(r"^(?P<line>error: .*|Error: .*)$", re.MULTILINE),
    re.compile(r"^(?P<line>make(?:\[\d+\])?: \*\*\* .*)$", re.MULTILINE),
)


def first_error(text: str) -> str:
    """Return the first line that says why a build failed, "" where none can be told."""
    for pattern in ERRORS:
        found = pattern.search(text)
        if found:
            return found["line"].replace("/build/source/", "").strip()[:500]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("[kmodd")]
    return lines[-1].strip()[:500] if lines else ""


def explain(log: Path, status: int, where: str) -> Problem:
    """Return the problem that a failed build is. where: the log's path as the administrator sees it."""
    with log.open("rb") as stream:
        text = stream.read(LARGEST).decode(errors="replace")
    for pattern, code, sentence, hint in PASSING:
        found = pattern.search(text)
        if found:
            line = text[text.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0].strip()[:300]
            return Problem(code, f"{sentence}: {line}", f"{hint}; kmodd tries again by itself", transient=True)
    if status in (-9, 137):
        return Problem("build-killed", "the build was killed", "kmodd tries again by itself", transient=True)
    line = first_error(text) or f"make ended with exit status {status}"
    return Problem("build-failed", line, f"the whole log: {where}", transient=False)
