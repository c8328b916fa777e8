"""Who is told that an older kernel still runs and why, for as long as it is so: status, check, gate, motd, journal."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from test_planner_guard import BROKEN, DAY, HELD, NEXT, WHOLE, server
from worlds import K2, NOW, K, change

from kmodd.alert import metrics, motd
from kmodd.alert.verdicts import log_boot
from kmodd.core.booting import Hold
from kmodd.core.documents.boot import boot_document
from kmodd.core.documents.status import status_document
from kmodd.core.model import Policy, Snapshot
from kmodd.core.planner import judge, make_guarding, plan
from kmodd.core.report import Report, make_report
from kmodd.core.settings import Settings
from kmodd.core.sysroot import Sysroot
from kmodd.ctl import boot, check, gate
from kmodd.ctl.inprocess import Observed
from kmodd.ctl.status import marks
from kmodd.ctl.waiting import find_pending

DUE = server(ready=True, booting={"entries": (NEXT, WHOLE), "default": NEXT.name})
OPTIONS = argparse.Namespace(kernel=None, default=False, all=False, json=False)


def report(snapshot: Snapshot, previous: Any = None) -> Report:
    return make_report(snapshot, judge(snapshot, Policy(), NOW), NOW, previous)


def observed(snapshot: Snapshot, now: float = NOW, holder: str = "kmodd (pid 1)") -> Observed:
    judgements, actions = judge(snapshot, Policy(), now), plan(snapshot, Policy(), now)
    return Observed(Sysroot(Path("/")), Settings(), snapshot, actions, judgements, holder, now)


def default(snapshot: Snapshot) -> Snapshot:
    """Return it with what boots next marked, as the probe does."""
    following, found = snapshot.booting.boots_next, snapshot.kernels.items()
    return change(snapshot, kernels={r: replace(k, default_boot=r == following) for r, k in found})


def test_status_tells_which_kernels_are_held_and_which_one_still_runs() -> None:
    snapshot = server(held=HELD, booting={"live": {K: 1.0}})
    document = status_document(snapshot, judge(snapshot, Policy(), NOW))
    old, new = document["kernels"]
    assert (old["bootable"], old["held"], old["fit"], old["proven"]) == (True, None, True, True)
    assert (new["bootable"], new["held"], new["fit"], new["proven"]) == (False, HELD.since, False, False)
    assert (marks(old), marks(new)) == ("running, proven", "held")
    assert document["behind"]["newer"] == K2 and document["behind"]["held"] == HELD.since
    assert f"kmoddctl boot release {K2} --force" in document["behind"]["hint"]
    assert status_document(DUE, judge(DUE, Policy(), NOW))["behind"]["problem"] == "reboot-due"


def test_boot_shows_it_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rescue = replace(BROKEN, name="id-rescue", release="")
    snapshot = server(held=HELD, booting={"entries": (rescue, WHOLE), "once": "id-x"})
    monkeypatch.setattr(boot, "observe", lambda _: observed(snapshot))
    assert boot.run_boot(argparse.Namespace(verb=None, json=False)) == 4
    said = capsys.readouterr().out
    assert "GRUB, with an entry for each kernel" in said and "only once: id-x" in said
    assert "holds new kernels until m is ready" in said and K in said
    assert boot.run_boot(argparse.Namespace(verb=None, json=True)) == 4
    document = json.loads(capsys.readouterr().out)
    assert [entry["fault"] is None for entry in document["entries"]] == [False, True]
    guarding = make_guarding(snapshot, Policy(), NOW, judge(snapshot, Policy(), NOW))
    assert document == json.loads(json.dumps(boot_document(guarding)))


@pytest.mark.parametrize(
    ("since", "state"),
    [(NOW - 60, check.OK), (NOW - 7200, check.WARNING), (NOW - 8 * DAY, check.CRITICAL), (NOW + DAY, check.OK)],
)
def test_check_grades_by_how_long_a_kernel_is_held(since: float, state: int) -> None:
    answer = check.grade(observed(default(server(held=Hold(since)))), OPTIONS, None)
    (told,) = [line for line in answer.details if "is held" in line]
    assert told.startswith(check.WORDS[state]) and f"{K2} held" in answer.text
    assert answer.state == max(state, check.WARNING)  # m is not ready on the newer kernel


def test_check_is_critical_where_no_kernel_would_do() -> None:
    nowhere = server(held=HELD, booting={"entries": (BROKEN,), "default": BROKEN.name})
    answer = check.grade(observed(default(nowhere)), OPTIONS, None)
    assert answer.state == check.CRITICAL
    assert any("no installed kernel would boot" in line for line in answer.details)


def test_gate_answers_for_what_boots_next_and_says_what_is_held() -> None:
    found = gate.find(observed(default(server(held=HELD))), None, None)
    assert (found.kernel, found.is_open) == (K, True)
    assert any("held until it is ready" in line for line in gate._remarks(found, waits=False))
    assert gate.find(observed(default(DUE)), None, None).behind == ""


def test_motd_says_so_until_it_is_over() -> None:
    text = motd.line(report(server(held=HELD)))
    assert f"{K} still runs: {K2} is installed, and held" in text and text.endswith("See: kmoddctl boot\n")
    assert motd.line(report(DUE)) == ""


def test_metrics_count_what_is_held() -> None:
    text = metrics.render(report(server(held=HELD, booting={"live": {K: 1.0}})))
    assert f'kmodd_kernel_held{{kernel="{K2}"}} 1\n' in text and f'kmodd_kernel_bootable{{kernel="{K}"}} 1\n' in text
    assert "\nkmodd_boot_proven 1\n" in text
    untold = server(booting={"entries": None, "unknown": "x", "default": ""})
    assert "\nkmodd_kernel_bootable{" not in metrics.render(report(untold))


def test_the_journal_has_each_event_once() -> None:
    first = report(server(held=HELD))
    with capture_logs() as said:
        log_boot(None, first)
        log_boot(first, report(server(held=HELD), first))
    assert [(line["event"], line.get("kernel")) for line in said] == [
        ("kernel held", K2),
        ("older kernel still runs", K),
    ]
    with capture_logs() as said:
        log_boot(first, report(DUE, first))
    assert [(line["event"], line["reason"]) for line in said] == [
        ("older kernel still runs", f"{K} still runs; {K2} boots next")
    ]


def test_a_reboot_waits_for_what_will_be_ready_by_itself() -> None:
    building = server(held=HELD)
    building = change(building, running={t for t in building.targets if t.kernel == K2})
    assert K2 in find_pending(observed(building))
    assert find_pending(observed(building, holder="")) == ""  # nobody is at work
    assert find_pending(observed(server(held=HELD))) == ""  # it failed
    assert find_pending(observed(DUE)) == ""
