"""The status document that scripts rely on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Optional

import pytest
from worlds import INPUTS, K2, K, T, broken, failed, kernel, record, settled, world

from kmodd.model import Judgement, Policy, Target, Verdict, fingerprint
from kmodd.planner import judge
from kmodd.report import Change, Report, make_report, status_document, summary

TARGET = {
    "module", "version", "required", "kernel", "verdict", "reason", "objects", "fingerprint", "last_attempt",
}  # fmt: skip


def test_settled_target_is_told_in_full() -> None:
    snapshot = settled(records={T: record(attempt=failed(log="/log"))})
    document = status_document(snapshot, judge(snapshot, Policy(), 0))
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == 1
    (found,) = document["kernels"]
    assert (found["release"], found["verdict"], found["running"], found["build_tree"]) == (K, "ready", False, True)
    (target,) = document["targets"]
    assert set(target) >= TARGET
    assert (target["module"], target["kernel"], target["verdict"]) == ("m", K, "ready")
    assert target["fingerprint"] == fingerprint(INPUTS)
    assert target["objects"] == [
        {"name": "m", "path": f"/lib/modules/{K}/extra/m/m.ko", "sha256": "i1", "signer": "key1", "compressed": ""}
    ]
    assert target["last_attempt"] == {
        "began": 900, "ended": 1000, "outcome": "failed", "problem": "build-failed", "log": "/log",
    }  # fmt: skip


def test_target_that_was_never_tried_has_the_same_keys() -> None:
    snapshot = world()
    (target,) = status_document(snapshot, judge(snapshot, Policy(), 0))["targets"]
    assert set(target) >= TARGET
    assert (target["objects"], target["fingerprint"], target["last_attempt"]) == ([], "", None)


def test_broken_files_and_leftovers_are_told() -> None:
    snapshot = replace(settled(kernels=(kernel(), kernel(K2, present=False))), modules={}, broken=(broken(),))
    document = status_document(snapshot, judge(snapshot, Policy(), 0))
    assert document["leftovers"] == [K2]
    assert [(p["file"], p["problem"]) for p in document["problems"]] == [
        ("/etc/kmodd/modules.d/m.toml", "module-file-invalid")
    ]
    assert [k["verdict"] for k in document["kernels"]] == ["failed"]
    assert [(t["module"], t["required"]) for t in document["targets"]] == [("m", True)]


def test_summary_counts_the_worst_first() -> None:
    verdicts = [Verdict.READY, Verdict.FAILED, Verdict.READY, Verdict.EXCLUDED, Verdict.WAITING]
    judgements = {Target(str(n), K): Judgement(v, "x") for n, v in enumerate(verdicts)}
    assert summary(judgements) == "1 failed, 1 waiting, 2 ready"
    assert summary({}) == "nothing registered"


READY, BUILDING, FAILED = (Judgement(v, v.value) for v in (Verdict.READY, Verdict.BUILDING, Verdict.FAILED))


def reports(*looks: Optional[Judgement]) -> list[Report]:
    """Return the reports of looks that found these verdicts of the one target; None: kernel and target are gone."""
    made: list[Report] = []
    for judgement in looks:
        snapshot = world() if judgement else replace(world(), kernels={})
        judgements = {T: judgement} if judgement else {}
        made.append(make_report(snapshot, judgements, 0, made[-1] if made else None))
    return made


@pytest.mark.parametrize(
    ("looks", "before", "after"),
    [
        ((READY,), None, READY),
        ((READY, READY), None, None),
        ((BUILDING,), None, None),
        ((BUILDING, READY), None, READY),
        ((READY, BUILDING), None, None),
        ((READY, BUILDING, BUILDING, READY), None, None),
        ((READY, BUILDING, FAILED), READY, FAILED),
        ((FAILED, None), FAILED, None),
        ((BUILDING, None), None, None),
    ],
)
def test_last_report_tells_what_settled_otherwise(
    looks: tuple[Optional[Judgement], ...], before: Optional[Judgement], after: Optional[Judgement]
) -> None:
    made = reports(*looks)
    changes = made[-1].changes(made[-2] if len(made) > 1 else None)
    targets = [change for change in changes if change.module]
    assert targets == ([] if before is after is None else [Change(K, "m", before, after)])
    verdicts = [(c.before and c.before.verdict, c.after and c.after.verdict) for c in changes if not c.module]
    assert verdicts == [(c.before and c.before.verdict, c.after and c.after.verdict) for c in targets]
