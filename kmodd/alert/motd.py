"""A line for everybody who logs in, as long as something is not ready: /run/motd.d/kmodd (pam_motd(8))."""

from __future__ import annotations

import contextlib
from typing import Optional

from ..core.documents.grouping import group
from ..core.model import Verdict
from ..core.report import Report
from ..core.rootwarnings import find_warnings, summarize, warning_rows
from ..core.sysroot import Sysroot
from ..system.files import read_own, remove_file, replace_file

MOST = 3  # problems that the line names


class Motd:
    """Keeps the file."""

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot

    def __call__(self, _previous: Optional[Report], now: Report) -> None:
        """Write the file, or delete it where all is well. Raises OSError."""
        text = line(now)
        path = self.sysroot.motd
        there = b""
        with contextlib.suppress(OSError):
            there = read_own(path)
        if text and there != text.encode():
            replace_file(path, text.encode())
        elif not text:
            remove_file(path)


def line(report: Report) -> str:
    """Return the line, "" where all is well: what boots next comes first, then the gravest, and what is held."""
    kernels = report.snapshot.kernels
    lacking = group(
        (
            {
                "module": target.module,
                "kernel": target.kernel,
                "verdict": judgement.verdict.value,
                "problem": judgement.problem,
                "reason": judgement.reason,
                "hint": judgement.hint,
                "elsewhere": not kernels[target.kernel].default_boot,
            }
            for target, judgement in sorted(report.judgements.items())
            if judgement.verdict not in (Verdict.READY, Verdict.EXCLUDED)
        ),
        "elsewhere",
    )
    lacking.sort(key=lambda one: bool(one.rows[0]["elsewhere"]))
    warning = summarize(warning_rows(find_warnings(report.snapshot)))
    behind = report.guarding.find_behind()
    held = f"kmodd: {behind.fault.message}. See: kmoddctl boot\n" if behind is not None and behind.held else ""
    if not lacking:
        return (f"kmodd: {warning}. See: kmoddctl status\n" if warning else "") + held
    parts = []
    for one in lacking[:MOST]:
        mark = "" if one.rows[0]["elsewhere"] else ", which boots next"
        parts.append(f"{one.subject} ({one.verdict}{mark})")
    more = f" and {len(lacking) - MOST} more" if len(lacking) > MOST else ""
    text = f"kmodd: not ready: {', '.join(parts)}{more}{warning and f'; {warning}'}. See: kmoddctl status\n"
    return text + held
