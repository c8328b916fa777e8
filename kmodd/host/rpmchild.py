"""Asks librpm which package provides which kernel's build tree, and prints that as JSON; run by path, on its own.

Without arguments it only tells, by its exit status, whether the binding can be imported. Must not: import anything of
kmodd, or do anything but read.
"""

from __future__ import annotations

import json
import sys
from typing import Union

CAPABILITY = "kernel-devel-uname-r"
EQUAL = (0x0E, 0x08)  # mask of RPMSENSE_LESS, _GREATER and _EQUAL, and the last alone: rpm/rpmds.h


def _text(value: Union[str, bytes]) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value  # rpm < 4.15 gives bytes


def devel_packages(root: str, database: str) -> dict[str, tuple[str, str]]:
    """Return the providing package's NEVRA and source RPM by release. root: a host path, database: an in-root path."""
    import rpm

    rpm.addMacro("_dbpath", database)
    transaction = rpm.TransactionSet(root)
    transaction.setVSFlags(rpm._RPMVSF_NODIGESTS | rpm._RPMVSF_NOSIGNATURES)
    answer: dict[str, tuple[str, str]] = {}
    for header in transaction.dbMatch("providename", CAPABILITY):
        package = (_text(header[rpm.RPMTAG_NEVRA]), _text(header[rpm.RPMTAG_SOURCERPM] or ""))
        names, flags, versions = (header[tag] for tag in ("providename", "provideflags", "provideversion"))
        for name, flag, version in zip(names, flags, versions):
            if _text(name) == CAPABILITY and flag & EQUAL[0] == EQUAL[1]:
                answer[_text(version)] = max(answer.get(_text(version), ("", "")), package)
    return answer


if __name__ == "__main__":
    if len(sys.argv) == 1:
        import rpm  # noqa: F401
    else:
        json.dump(devel_packages(*sys.argv[1:3]), sys.stdout)
