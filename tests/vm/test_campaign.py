"""`ready` is the truth for hundreds of cases that a seed chooses: what kmodd says, and what real kernels do.

KMODD_SEED, KMODD_CASES, KMODD_KERNELS and KMODD_ONLY (a part of a case's label) say which; see the Makefile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign import KERNELS, Campaign, Row, print_table
from fault import Fault
from faults import CLASSES, FAULTS
from ground import privateroot
from known import KNOWN, SOMETIMES

pytestmark = pytest.mark.vm

SEED = os.environ.get("KMODD_SEED") or "1"
CASES = int(os.environ.get("KMODD_CASES") or 300)
MACHINES = int(os.environ.get("KMODD_KERNELS") or 4)
ONLY = os.environ.get("KMODD_ONLY", "")
ROUND = 300  # cases in one root


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    found: list[Row] = []
    for number, start in enumerate(range(0, CASES, ROUND)):
        with tempfile.TemporaryDirectory(prefix="campaign.", dir=privateroot.find_scratch(4096)) as name:
            seed = f"{SEED}.{number}" if number else SEED
            campaign = Campaign(Path(name), seed, min(ROUND, CASES - start), MACHINES, ONLY)
            found += campaign.run()
            print(f"\nseed {seed}:", ", ".join(f"{n} {s:.0f} s" for n, s in campaign.seconds.items()), flush=True)
    print_table(found)
    yield found


def marked(fault: Fault) -> object:
    why = {**KNOWN, **SOMETIMES}.get(fault.title)
    marks = [pytest.mark.xfail(reason=why, strict=fault.title in KNOWN)] if why else []
    return pytest.param(fault, id=fault.title, marks=marks)


@pytest.mark.parametrize("fault", [marked(fault) for fault in FAULTS])
def test_verdict_and_kernel_agree(rows: list[Row], fault: Fault) -> None:
    found = [row for row in rows if row.case.fault is fault]
    if not found:
        pytest.skip("no case was asked for")
    wrong = [f"{row}\n    again:  {repeat(row)}" for row in found if not row.agree]
    assert not wrong, "\n".join(wrong)


def repeat(row: Row) -> str:
    """Return the command that looks at a case again."""
    return f"make vm-campaign SEED={row.case.seed} CASES={ROUND} KERNELS={MACHINES} ONLY='{row.case.label}'"


def test_every_class_and_kernel_has_cases(rows: list[Row]) -> None:
    if ONLY:
        pytest.skip("only some were asked for")
    assert {row.case.fault.klass for row in rows} == set(CLASSES)
    assert len({row.case.release for row in rows}) == min(MACHINES, len(KERNELS))
    assert len(rows) == CASES


def test_known_rows_exist() -> None:
    assert {*KNOWN, *SOMETIMES} <= {fault.title for fault in FAULTS}
