"""`ready` is the truth: for every case of the table, kmodd's verdict and what a real kernel does with it agree."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cases import BREAKING, BROKEN, CASES, OTHER, OURS, REFUSED, Case
from ground import privateroot
from machine import Report, boot
from server import Server
from table import Row, print_table, what_kernel_did

pytestmark = pytest.mark.vm

CONTROL = "crc16"  # a module of the kernel's own, signed by the distribution: every boot must take it
ENFORCING = "module.sig_enforce=1"


@dataclass(frozen=True)
class Found:
    """What all boots and looks yielded."""

    rows: dict[Case, Row]
    reports: dict[tuple[int, bool], Report]
    breaking: list[str]  # what kmodd warned of that module


@pytest.fixture(scope="module")
def found() -> Iterator[Found]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="truth.", dir=privateroot.find_scratch(3072)) as name:
        server = Server(Path(name))
        server.register({case.module: case.source for case in CASES}.values())
        prepared = time.monotonic()
        server.sync()
        synced = time.monotonic()
        for case in CASES:
            case.spoil(server, case.module)
        server.depmod()
        spoilt = time.monotonic()
        verdicts = {False: server.verdicts()}
        breaking = server.warnings(BREAKING.name)
        server.boot_entry(server.releases[0], f"root=/dev/vda ro {ENFORCING}")
        verdicts[True] = server.verdicts()
        looked = time.monotonic()
        reports = boot_all(server)
        rows = {}
        for case in CASES:
            verdict, reason = verdicts[case.enforced][case.module, server.releases[case.release]]
            report = reports[case.release, case.enforced]
            took = what_kernel_did(server, report, case.module)
            rows[case] = Row(case, verdict, reason, took, report.outcomes[case.module])
        print_table(list(rows.values()))
        steps = (began, prepared, synced, spoilt, looked, time.monotonic())
        names = ("kernels installed", "synced", "spoilt", "looked at", f"{len(reports)} boots")
        print(", ".join(f"{n} {b - a:.0f} s" for n, a, b in zip(names, steps, steps[1:])), flush=True)
        yield Found(rows, reports, breaking)


def boot_all(server: Server) -> dict[tuple[int, bool], Report]:
    """Boot every kernel that the table speaks of, as many at once as there are processors."""
    wanted: dict[tuple[int, bool], list[str]] = {}
    for case in CASES:
        wanted.setdefault((case.release, case.enforced), [CONTROL]).append(case.module)
    wanted[0, False].append(BROKEN)

    def one(key: tuple[int, bool]) -> Report:
        options = ENFORCING if key[1] else ""
        work = server.top / f"boot-{key[0]}-{key[1]}"
        return boot(server.root, server.releases[key[0]], options, list(dict.fromkeys(wanted[key])), work)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(wanted, pool.map(one, wanted)))


def by_name(case: Case) -> str:
    enforced = "-enforced" if case.enforced else ""
    return f"{case.module}-{case.release}{enforced}"


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_verdict_and_kernel_agree(found: Found, case: Case) -> None:
    row = found.rows[case]
    assert row.kernel == case.kernel, f"the case is not what it says: {row.outcome}"
    assert case.said in row.outcome.messages + row.outcome.stderr, row.outcome
    assert row.agree, f"kmodd says {row.verdict} ({row.reason}), the kernel {row.kernel} ({row.outcome.said})"
    assert case.verdict in ("", row.verdict), row.reason


@pytest.mark.parametrize("case", [case for case in CASES if case.kernel == OURS], ids=by_name)
def test_what_loads_has_its_parameters_and_taints_only_as_it_must(found: Found, case: Case) -> None:
    outcome = found.rows[case].outcome
    assert outcome.exit == 0 and outcome.stderr == "" and outcome.srcversion
    assert dict(case.parameters).items() <= outcome.parameters.items()
    assert outcome.taint == case.taint


def test_what_a_replacement_breaks_is_told_and_does_not_load(found: Found) -> None:
    broken = found.reports[0, False].outcomes[BROKEN]
    assert not broken.live and "disagrees about version of symbol failover_" in broken.messages
    assert found.breaking == [
        f"the kernel's own {BROKEN} no longer loads beside {BREAKING.name}: "
        "it needs another version of failover_register and 2 more"
    ]


def test_every_boot_takes_the_distributions_own_module(found: Found) -> None:
    assert len(found.reports) == 4
    for report in found.reports.values():
        control = report.outcomes[CONTROL]
        assert (control.live, control.exit, control.taint) == (True, 0, ""), control


def test_enforcement_is_on_only_where_it_was_asked_for(found: Found) -> None:
    for (_, enforced), report in found.reports.items():
        assert (ENFORCING in report.command_line.split()) == enforced


def test_table_has_every_outcome(found: Found) -> None:
    assert {row.kernel for row in found.rows.values()} == {OURS, OTHER, REFUSED}
