"""The status document that scripts rely on."""

from __future__ import annotations

import json
from dataclasses import replace

from worlds import INPUTS, K2, K, T, broken, failed, kernel, record, settled, world

from kmodd.model import Judgement, Policy, Target, Verdict, fingerprint
from kmodd.planner import judge
from kmodd.report import status_document, summary

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
