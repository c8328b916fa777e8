"""kmodd's verdict beside what the kernel did: a row of a table, and printing them."""

from __future__ import annotations

from dataclasses import dataclass

from cases import OTHER, OURS, REFUSED, Case
from machine import Outcome, Report
from server import SIGNATURE, Server, modinfo, read_object


@dataclass(frozen=True)
class Row:
    """A case with both answers."""

    case: Case
    verdict: str
    reason: str
    kernel: str
    outcome: Outcome

    @property
    def agree(self) -> bool:
        return (self.verdict == "ready") == (self.kernel == OURS)


def what_kernel_did(server: Server, report: Report, module: str) -> str:
    """Return whether the kernel took the recorded file, as kmodd signed it or unsigned, another, or none."""
    outcome = report.outcomes[module]
    if not outcome.live:
        return REFUSED
    path, digest = report.inserted.get(module, ("", ""))
    (item,) = server.record(module, report.release)["installed"]["objects"]
    if (path, digest) != (item["path"], item["sha256"]):
        return OTHER
    installed = server.object(module, report.release)
    content = read_object(installed)
    fine = server.is_signed_by_us(content) or not content.endswith(SIGNATURE)
    return OURS if fine and outcome.srcversion == modinfo(installed, "srcversion") else OTHER


def print_table(rows: list[Row]) -> None:
    """Print each case with kmodd's verdict beside the kernel's."""
    form = "{:<38} {:<9} {:<14} {}"
    print("\n" + form.format("case", "kmodd", "kernel", ""))
    for row in rows:
        print(form.format(row.case.name, row.verdict, row.kernel, "" if row.agree else "DISAGREE"))
        if row.verdict != "ready":
            print(f"      kmodd:  {row.reason[:105]}")
        if row.kernel == REFUSED:
            print(f"      kernel: {row.outcome.said[:105]}")
    wrong = sum(not row.agree for row in rows)
    print(f"{len(rows)} cases, {wrong} disagreement{'' if wrong == 1 else 's'}")
