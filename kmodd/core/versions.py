"""Comparison of kernel releases as rpm compares versions. Pure."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")


def compare(left: str, right: str) -> int:
    """Return -1, 0 or 1 as rpmvercmp() does (rpmio/rpmvercmp.c; rpm-version(7)).

    Runs of digits compare as numbers, of letters as text, digits are newer than letters, `~` sorts before
    anything including the end, `^` after the end but before anything else; other characters only separate.
    """
    a, b = _TOKEN.findall(left), _TOKEN.findall(right)
    for i in range(max(len(a), len(b))):
        x, y = (a[i] if i < len(a) else ""), (b[i] if i < len(b) else "")
        if x == y:
            continue
        if "~" in (x, y):
            return -1 if x == "~" else 1
        if "^" in (x, y):
            return (1 if not y else -1) if x == "^" else (-1 if not x else 1)
        if not x or not y:
            return 1 if x else -1
        if x.isdigit() != y.isdigit():
            return 1 if x.isdigit() else -1
        if x.isdigit():
            x, y = x.lstrip("0").rjust(len(y), "0"), y.lstrip("0").rjust(len(x), "0")
            if int(x) == int(y):
                continue
            return 1 if int(x) > int(y) else -1
        return 1 if x > y else -1
    return 0
