"""What a failed build's log says: the first error of compiler, linker or make, and whether it may pass by itself.

A log is what code of others printed. So only its head and its tail are read, of each line no more than its first
characters, and all takes time in proportion to that. A failure is the source's own, and is not tried again, only where
a tool said what is wrong with the source and nothing says that a tool was killed or went without memory, space or
files. What nobody explains may have been an accident. Must not: be called on an event loop with a whole log.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any, Optional

from ..core.errors import Problem

HEAD, TAIL = 256 << 10, 1 << 20  # bytes of a log that are read; an error is mostly among the last
FIRST, LAST = 5_000, 20_000  # lines of these
LONGEST = 1000  # characters of a line that are read
#: Signs that the machine, not the source, is to blame: (pattern, code, sentence, hint).
PASSING = (
    (
        re.compile(r"No space left on device|Disk quota exceeded"),
        "disk-full",
        "the disk is full",
        "free some space",
    ),
    (
        re.compile(r"I/O error|Input/output error|Structure needs cleaning|Stale file handle"),
        "input-output",
        "the disk could not be read or written",
        "look at the disk and at dmesg; a full disk can read so, too",
    ),
    (
        re.compile(
            r"memory exhausted|[Cc]annot allocate memory|[Oo]ut of memory|std::bad_alloc|Killed signal terminated"
            r"|terminated with signal 9 |\*\*\* \[.*\] Killed"
        ),
        "out-of-memory",
        "the build ran out of memory",
        "give the build more memory or fewer jobs",
    ),
    (
        re.compile(
            r"signal terminated program|terminated with signal |terminated by signal |[Kk]illed by signal "
            r"|died with <Signals\.|internal compiler error"
            r"|\*\*\* \[.*\] (?:Terminated|Segmentation fault|Hangup|Bus error|Interrupt|Aborted|Quit|Illegal instruct)"
            r"|^(?:\S+: line \d+: +\d+ )?(?:Killed|Terminated|Segmentation fault|Hangup|Bus error|Aborted)"
            r"(?:$| +\(| {3})"
        ),
        "build-killed",
        "a program of the build was killed",
        "was it the kernel, for want of memory? see dmesg",
    ),
    (
        re.compile(r": command not found|: not found$"),
        "tool-missing",
        "a program that the build needs is not installed",
        "install it",
    ),
    (
        re.compile(r"Resource temporarily unavailable|Too many open files|Cannot fork|Text file busy"),
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
#: make(1) and shells say of a program that was killed 128 and the signal.
STATUS = re.compile(r"\*\*\* \[.*\] Error (\d{3})(?: \(ignored\))?$")
SIGNALS = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE,
    signal.SIGKILL, signal.SIGSEGV, signal.SIGALRM, signal.SIGTERM, signal.SIGXCPU,
)  # fmt: skip
KILLED = frozenset(128 + number for number in SIGNALS)
#: What counts as the first useful line, the earlier pattern the better, and whether it tells that the source is wrong.
ERRORS = (
    (re.compile(r"\S.*?:\d+(?::\d+)?: (?:fatal )?error: "), True),
    (re.compile(r"(?:ERROR|FATAL): modpost: "), True),
    (re.compile(r"ld(?:\.\w+)?: (?!warning)"), True),
    (re.compile(r".*undefined reference to "), True),
    (re.compile(r"\S+:\d+: \*\*\* "), True),
    (re.compile(r"configure: error: "), True),
    (re.compile(r"make(?:\[\d+\])?: \*\*\* (?:No rule to make|No targets|missing)"), True),
    (re.compile(r"make(?:\[\d+\])?: \*\*\* (?!\[|Deleting|Waiting)"), False),
    (re.compile(r"\S{0,40}/(?:ba)?sh: "), False),
    (re.compile(r"error: |Error: "), True),
    (re.compile(r"make(?:\[\d+\])?: \*\*\* (?!Deleting|Waiting)"), False),
)
#: No other line is parsed.
TELLING = re.compile(
    r"^bwrap: |rror|ERROR|FATAL|\*\*\*|ld[.:]|undefined|/bin/|No space|quota|emory|bad_alloc|needs cleaning|Stale|"
    r"[Kk]illed|[Tt]erminated|signal|Signals|Segmentation|Hangup|Aborted|not found|Resource|Too many|Cannot fork|busy",
    re.ASCII,
)
#: What a compiler says of the source, which may speak of anything.
OF_SOURCE = re.compile(r"\S[^:]*:\d+(?::\d+)?: (?:error|warning|note): ")
#: What it says before an error: where the code is included from, in which function it is.
LEADING = re.compile(r"In file included from |\s+from \S+:\d+|\S[^:]*: (?:In function|At top level)")
NOTE = re.compile(r"\S[^:]*:\d+(?::\d+)?: note: ")
PLACE = re.compile(r"(?P<file>[^\s:]+):(?P<number>\d{1,9})(?::\d+)?: (?:fatal )?error: ")
#: What says nothing, if it is the last line.
EMPTY = re.compile(r"\[kmodd|make(?:\[\d+\])?: (?:Entering|Leaving) directory|compilation terminated|\s*$")
MOST = 12  # lines that are quoted
INSIDE = re.compile(r"/build/source/|/var/lib/dkms/[^/\s]+/[^/\s]+/build/")  # the source as the sandbox shows it


def read(log: Path, begun: int = 0) -> str:
    """Return the head and the tail of a log. begun: the offset at which what failed began to write. Raises OSError."""
    with log.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(begun)
        if size - begun <= HEAD + TAIL:
            return stream.read(HEAD + TAIL).decode(errors="replace")
        head = stream.read(HEAD)
        stream.seek(size - TAIL)
        tail = stream.read(TAIL)
    # the line that is cut off begins nowhere
    return b"\n".join((head, tail.partition(b"\n")[2])).decode(errors="replace")


def _lines(text: str) -> list[str]:
    """Return the first and last lines of a text, and of each no more than is parsed."""
    lines = text.rsplit("\n", LAST)
    if len(lines) > LAST:
        first = lines[0].split("\n", FIRST)
        lines = [*first[:FIRST], *lines[1:]]
    return [line[:LONGEST] for line in lines]


def _telling(lines: list[str]) -> list[tuple[int, str]]:
    """Return the lines that may say why a build failed, with their numbers."""
    return [(number, line) for number, line in enumerate(lines) if TELLING.search(line)]


def _first(lines: list[str]) -> tuple[Optional[int], str, bool]:
    """Return number and text of the first line that says why a build failed, and whether the source is to blame."""
    telling = _telling(lines)
    for pattern, is_of_source in ERRORS:
        for number, line in telling:
            if pattern.match(line):
                return number, INSIDE.sub("", line).strip()[:500], is_of_source
    last = next((line for line in reversed(lines) if not EMPTY.match(line)), "")
    return None, INSIDE.sub("", last).strip()[:500], False


def first_error(text: str) -> str:
    """Return the first line that says why a build failed, "" where none can be determined."""
    return _first(_lines(text))[1]


def find_error(text: str) -> Optional[dict[str, Any]]:
    """Return the first error of a failed build's log, None where it has none: line, file, number, excerpt.

    file and number are None where the line names none. excerpt: the lines around it, with the source that the
    compiler quotes.
    """
    lines = _lines(text)
    at, line, _ = _first(lines)
    if at is None:
        return None
    place = PLACE.match(line)
    first, last = at, at + 1
    while first > 0 and at - first < MOST // 3 and LEADING.match(lines[first - 1]):
        first -= 1
    while last < len(lines) and last - first < MOST and (_is_quoted(lines[last]) or NOTE.match(lines[last])):
        last += 1
    return {
        "line": line,
        "file": place["file"] if place else None,
        "number": int(place["number"]) if place else None,
        "excerpt": [INSIDE.sub("", one).rstrip()[:500] for one in lines[first:last]],
    }


def _is_quoted(line: str) -> bool:
    """Tell whether a line is of the source as a compiler quotes it: "  12 | text", "     |  ^~~"."""
    return line.lstrip(" \t0123456789").startswith("|")


def _passing(telling: list[str]) -> Optional[Problem]:
    """Return the problem that is no fault of the source, of which any of the lines speaks."""
    for pattern, code, sentence, hint in PASSING:
        for line in telling:
            killed = STATUS.search(line) if code == "build-killed" else None
            if pattern.search(line) or (killed and int(killed[1]) in KILLED):
                text = f"{sentence}: {line.strip()[:300]}"
                return Problem(code, text, f"{hint}; kmodd tries again by itself", transient=True)
    return None


def find_passing(text: str, status: int) -> Optional[Problem]:
    """Return the problem that a failure is if the source is not to blame for it, else None.

    status: of the program that failed, as Popen.returncode.
    """
    telling = [line for _, line in _telling(_lines(text)) if not (_is_quoted(line) or OF_SOURCE.match(line))]
    found = _passing(telling)
    if found is None and (status < 0 or status in KILLED):
        return Problem("build-killed", "the build was killed", "kmodd tries again by itself", transient=True)
    return found


def explain(log: Path, status: int, where: str, begun: int = 0) -> Problem:
    """Return the problem that a failed build is.

    where: the log's path as the administrator sees it. begun: the offset at which what failed began to write.
    """
    text = read(log, begun)
    passing = find_passing(text, status)
    if passing is not None:
        return passing
    _, line, is_of_source = _first(_lines(text))
    hint = f"the whole log: {where}"
    if not is_of_source:
        hint = f"nothing tells that the source is to blame, so kmodd tries again; {hint}"
    said = line or f"the build ended with exit status {status}"
    return Problem("build-failed", said, hint, transient=not is_of_source)
