"""The same cause on many targets is one line wherever problems are listed, and one error in the journal."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from typing import Any

import pytest
from test_gate import seen
from worlds import BROKEN, INPUTS, K2, MISSING, NOW, POLICY, K, failed, kernel, module, record

from kmodd.alert import motd, verdicts
from kmodd.core.documents.grouping import KEPT, group
from kmodd.core.model import BrokenFile, Snapshot, Target, TargetState
from kmodd.core.planner import judge
from kmodd.core.report import Report, make_report
from kmodd.ctl import check, gate
from kmodd.ctl.status import print_status

NAMES = [f"m{number}" for number in range(33)]
LACKING = Snapshot(
    kernels={K: kernel(build_tree=None, build_tree_fault=MISSING)},
    modules={name: module(name) for name in NAMES},
    targets={Target(name, K): TargetState() for name in NAMES},
)
ONE = f"33 modules on {K}"


def row(name: str, release: str, verdict: str, reason: str, hint: str = "") -> dict[str, Any]:
    return {"module": name, "kernel": release, "verdict": verdict, "reason": reason, "problem": "p", "hint": hint}


def test_rows_of_one_cause_are_one_group_whether_a_former_build_stays() -> None:
    rows = [
        row("b", K, "failed", "x is wrong", "explain b"), row("a", K, "waiting", "no tree"),
        row("c", K2, "failed", f"x is wrong{KEPT}", "explain c"), row("d", K, "failed", "y is wrong"),
    ]  # fmt: skip
    found = group(rows)
    assert [(one.subject, one.reason, one.hint) for one in found] == [
        (f"b, c on {K}, {K2}", "x is wrong", "explain b"),
        (f"d on {K}", "y is wrong", ""),
        (f"a on {K}", "no tree", ""),
    ]  # fmt: skip
    assert group(rows[2:3])[0].reason == f"x is wrong{KEPT}"


def test_one_lack_of_many_modules_is_one_line_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    observed = seen(LACKING)
    print_status(observed.status(), False, False)
    problems = capsys.readouterr().out.partition("\n\n")[2]
    assert problems.count("waiting   ") == 1 and ONE in " ".join(problems.split())
    options = argparse.Namespace(kernel=None, default=False, all=False)
    answer = check.grade(observed, options, None)
    assert len(answer.details) == 1 and answer.details[0].startswith(f"CRITICAL: {ONE}: waiting, ")
    assert answer.text.startswith(f"{K} (newest): 33 modules waiting")
    assert gate._text(gate.find(observed, None, None)).count("\n") == 2
    assert motd.line(reported(LACKING)).startswith(f"kmodd: not ready: {ONE} (waiting). See")


def reported(snapshot: Snapshot, previous: Any = None) -> Report:
    return make_report(snapshot, judge(snapshot, POLICY, NOW), NOW, previous)


class Recorder:
    """Takes the place of the logger and keeps what is logged."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str]] = []

    def log(self, level: int, event: str, **facts: Any) -> None:
        self.entries.append((level, event))

    def info(self, event: str, **facts: Any) -> None:
        self.log(logging.INFO, event)

    def warning(self, event: str, **facts: Any) -> None:
        self.log(logging.WARNING, event)


def test_journal_has_one_error_for_each_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(verdicts, "get_logger", lambda: recorder)
    three = {release: kernel(release) for release in (K, K2, "6.12.0-1.el10.x86_64")}
    good = Snapshot(kernels=three)
    typo = replace(good, broken=(BrokenFile("/etc/kmodd/modules.d/m.toml", "m", BROKEN),))
    before, after = reported(good), reported(typo, reported(good))
    verdicts.log_changes(before, after)
    assert [event for level, event in recorder.entries if level >= logging.ERROR] == ["target failed"]
    assert sorted(event for _, event in recorder.entries) == ["kernel not ready"] * 3 + ["target failed"] * 3
    recorder.entries.clear()
    verdicts.log_changes(after, reported(typo, after))
    assert recorder.entries == []


def test_same_failure_on_a_second_kernel_is_no_second_error(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(verdicts, "get_logger", lambda: recorder)

    def world(*releases: str) -> Snapshot:
        wrong = {r: record(release=r, built=None, installed=None, attempt=failed()) for r in releases}
        rows = {Target("m", r): TargetState(record=wrong.get(r), inputs=dict(INPUTS)) for r in (K, K2)}
        return Snapshot(kernels={K: kernel(), K2: kernel(K2)}, modules={"m": module()}, targets=rows)

    reports = [reported(world())]
    for releases in ((K,), (K, K2)):
        reports.append(reported(world(*releases), reports[-1]))
        verdicts.log_changes(reports[-2], reports[-1])
    assert [event for level, event in recorder.entries if level >= logging.ERROR] == ["target failed"]
    assert [event for _, event in recorder.entries].count("target failed") == 2
