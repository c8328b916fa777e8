"""What a failed build's log says: the first error of compiler, linker or make, and whether it may pass by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

from ..errors import Problem

LARGEST = 32 << 20  # bytes of a log that are looked at
#: Signs that the machine, not the source, is to blame: (pattern, code, sentence, hint).
PASSING = (
    (re.compile(r"No space left on device|Disk quota exceeded"), "disk-full", "the disk is full", "free some space"),
    (
        re.compile(
            r"virtual memory exhausted|[Cc]annot allocate memory|out of memory|Killed signal terminated"
            r"|terminated with signal 9 |^make(?:\[\d+\])?: \*\*\* \[.*\] Killed"
        ),
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
        re.compile(r"(?:Resource temporarily unavailable|Too many open files|sh: \d+: Cannot fork)"),
        "resources-exhausted",
        "the machine ran out of processes or files",
        "see ulimit and the unit's TasksMax",
    ),
    (
        re.compile(r"^bwrap: "),
        "sandbox-failed",
        "the sandbox could not be set up",
        "try bwrap --unshare-net --ro-bind / / true, also by systemd-run with the unit's settings",
    ),
)
#: What counts as the first useful line, the earlier pattern the better.
ERRORS = (
    re.compile(r"^(?P<line>\S[^\n]*:\d+(?::\d+)?: (?:fatal )?error: .*)$"),
    re.compile(r"^(?P<line>(?:ERROR|FATAL): modpost: .*)$"),
    re.compile(r"^(?P<line>ld(?:\.\w+)?: .*)$"),
    re.compile(r"^(?P<line>[^\n]*undefined reference to .*)$"),
    re.compile(r"^(?P<line>\S+:\d+: \*\*\* .*)$"),
    re.compile(r"^(?P<line>configure: error: .*)$"),
    re.compile(r"^(?P<line>make(?:\[\d+\])?: \*\*\* (?!\[|Deleting|Waiting).*)$"),
    re.compile(r"^(?P<line>/bin/(?:ba)?sh: .*)$"),
    re.compile(r"^(?P<line>error: .*|Error: .*)$"),
    re.compile(r"^(?P<line>make(?:\[\d+\])?: \*\*\* .*)$"),
)


#: Quoted source, and what a compiler says of it, may speak of anything.
QUOTED = re.compile(r"\s*\d*\s*\||\S[^:]*:\d+(?::\d+)?: (?:error|warning|note): ")
#: No other line is looked at closely.
TELLING = re.compile(
    r"^bwrap: |rror|ERROR|FATAL|\*\*\*|ld[.:]|undefined|/bin/|No space|quota|emory|Killed|not found|Resource|Too many",
    re.ASCII,
)
LONGEST = 1000  # characters of a line that are looked at


#: What a compiler says before an error: where the code is included from, in which function it is.
LEADING = re.compile(r"In file included from |\s+from \S+:\d+|\S[^:]*: (?:In function|At top level)")
#: What it quotes after one: numbered source, marks below it, notes.
FOLLOWING = re.compile(r"\s*\d*\s*\||\S[^:]*:\d+(?::\d+)?: note: ")
PLACE = re.compile(r"(?P<file>[^\s:]+):(?P<number>\d+)(?::\d+)?: (?:fatal )?error: ")
MOST = 12  # lines that are quoted
INSIDE = re.compile(r"/build/source/|/var/lib/dkms/[^/\s]+/[^/\s]+/build/")  # the source as the sandbox shows it


def _telling(text: str) -> list[tuple[int, str]]:
    """Return the lines that may say why a build failed; patterns on a whole log would take quadratic time."""
    lines = enumerate(text.split("\n"))
    return [(number, line[:LONGEST]) for number, line in lines if TELLING.search(line, 0, LONGEST)]


def _first(text: str) -> tuple[Optional[int], str]:
    """Return the number and the text of the first line that says why a build failed."""
    telling = _telling(text)
    for pattern in ERRORS:
        for number, line in telling:
            found = pattern.match(line)
            if found:
                return number, INSIDE.sub("", found["line"]).strip()[:500]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("[kmodd")]
    return None, lines[-1].strip()[:500] if lines else ""


def first_error(text: str) -> str:
    """Return the first line that says why a build failed, "" where none can be told."""
    return _first(text)[1]


def find_error(text: str) -> Optional[dict[str, Any]]:
    """Return the first error of a failed build's log, None where it has none: line, file, number, excerpt.

    file and number are None where the line names none. excerpt: the lines around it, with the source that the
    compiler quotes.
    """
    at, line = _first(text)
    if at is None:
        return None
    place = PLACE.match(line)
    lines = text.split("\n")
    first, last = at, at + 1
    while first > 0 and at - first < MOST // 3 and LEADING.match(lines[first - 1], 0, LONGEST):
        first -= 1
    while last < len(lines) and last - first < MOST and FOLLOWING.match(lines[last], 0, LONGEST):
        last += 1
    return {
        "line": line,
        "file": place["file"] if place else None,
        "number": int(place["number"]) if place else None,
        "excerpt": [INSIDE.sub("", one[:LONGEST]).rstrip() for one in lines[first:last]],
    }


def explain(log: Path, status: int, where: str, begun: int = 0) -> Problem:
    """Return the problem that a failed build is.

    where: the log's path as the administrator sees it. begun: the offset at which what failed began to write.
    """
    with log.open("rb") as stream:
        stream.seek(begun)
        text = stream.read(LARGEST).decode(errors="replace")
    telling = [line for _, line in _telling(text) if not QUOTED.match(line)]
    for pattern, code, sentence, hint in PASSING:
        for line in telling:
            if pattern.search(line):
                text = f"{sentence}: {line.strip()[:300]}"
                return Problem(code, text, f"{hint}; kmodd tries again by itself", transient=True)
    if status in (-9, 137):
        return Problem("build-killed", "the build was killed", "kmodd tries again by itself", transient=True)
    line = first_error(text) or f"the build ended with exit status {status}"
    return Problem("build-failed", line, f"the whole log: {where}", transient=False)
