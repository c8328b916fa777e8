"""The status document that scripts rely on."""

from __future__ import annotations

import json
from typing import Optional

import pytest
from worlds import (
    BROKEN,
    INPUTS,
    K2,
    MISSING,
    NOW,
    POLICY,
    K,
    T,
    broken,
    change,
    failed,
    kernel,
    module,
    record,
    settled,
    world,
)

from kmodd.core.documents.explain import explain_document
from kmodd.core.documents.plan import plan_document
from kmodd.core.documents.status import status_document
from kmodd.core.model import Judgement, Policy, Snapshot, Target, Verdict, fingerprint
from kmodd.core.planner import judge, plan
from kmodd.core.report import Change, Report, make_report, summary

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
        {"name": "m", "path": f"/lib/modules/{K}/extra/m/m.ko", "sha256": "i1", "signer": "key1", "compressed": "",
         "in_memory": "unknown"}
    ]  # fmt: skip
    assert target["last_attempt"] == {
        "began": 900, "ended": 1000, "stage": "build", "outcome": "failed", "problem": "build-failed",
        "message": "m.c:1: error: x", "transient": False, "failures": 1, "log": "/log",
    }  # fmt: skip


def test_target_that_was_never_tried_has_the_same_keys() -> None:
    snapshot = world()
    (target,) = status_document(snapshot, judge(snapshot, Policy(), 0))["targets"]
    assert set(target) >= TARGET
    assert (target["objects"], target["fingerprint"], target["last_attempt"]) == ([], "", None)


def test_broken_files_and_leftovers_are_told() -> None:
    snapshot = change(settled(kernels=(kernel(), kernel(K2, present=False))), modules={}, broken=(broken(),))
    document = status_document(snapshot, judge(snapshot, Policy(), 0))
    assert document["leftovers"] == [K2]
    assert [(p["file"], p["problem"]) for p in document["problems"]] == [
        ("/etc/kmodd/modules.d/m.toml", "module-file-invalid")
    ]
    assert [k["verdict"] for k in document["kernels"]] == ["failed"]
    assert [(t["module"], t["required"]) for t in document["targets"]] == [("m", True)]


def test_kernels_are_told_in_the_order_of_their_versions_with_what_boots_next() -> None:
    releases = ("5.14.0-70.el9.x86_64", "5.14.0-427.el9.x86_64", "6.1.0-1")
    snapshot = world(kernels=tuple(kernel(r, default_boot=r == releases[1]) for r in reversed(releases)))
    found = status_document(snapshot, {}, holder="kmodd (pid 1)", looked=5.0)
    assert [k["release"] for k in found["kernels"]] == list(releases)
    assert [k["default_boot"] for k in found["kernels"]] == [False, True, False]
    assert (found["holder"], found["looked"]) == ("kmodd (pid 1)", 5.0)
    assert status_document(world(), {})["kernels"][0]["default_boot"] is None


def test_modules_are_told_registered_or_broken_or_only_remembered() -> None:
    gone = Target("gone", K)
    snapshot = world(module("m", module={"version": "1"}), broken=(broken("b"),), records={gone: record("gone")})
    found = {m["name"]: m for m in status_document(snapshot, {})["modules"]}
    assert {name: m["registered"] for name, m in found.items()} == {"m": True, "b": True, "gone": False}
    assert found["m"]["source"] == {"path": "/usr/src/m"}
    assert found["m"]["version"] == "1"


#: What a target is told of: snapshot, rule, what is awaited, kinds of the actions that are next.
STORIES = {
    "ready": (settled(), 7, None, []),
    "never built": (world(), 5, None, ["BuildModule", "InstallModule", "RunDepmod"]),
    "disabled": (world(module("m", module={"enabled": False})), 1, "a change of the module file", []),
    "no dependency": (world(module("m", build={"depends": ("x",)})), 2, "what it depends on being built", []),
    "no headers": (
        world(kernels=(kernel(build_tree=None, build_tree_fault=MISSING),)), 3, "its kernel-devel package", ["Wait"],
    ),
    "failed": (
        world(records={T: record(built=None, installed=None, attempt=failed())}), 4,
        "a change of its source, patches or module file, of the kernel's build tree, or of the compiler", [],
    ),
    "failed, may pass": (
        world(records={T: record(built=None, installed=None, attempt=failed(transient=True))}), 4, "the next try",
        ["Wait"],
    ),
    "found wrong": (
        settled(faults={T: (BROKEN,)}), 7, "a change of the files that were checked", [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("snapshot", "rule", "event", "following"), STORIES.values(), ids=STORIES)
def test_story_tells_the_rule_and_what_is_awaited(
    snapshot: Snapshot, rule: int, event: Optional[str], following: list[str]
) -> None:
    found = explain_document("m", snapshot, judge(snapshot, POLICY, NOW), plan(snapshot, POLICY, NOW))
    assert json.loads(json.dumps(found)) == found
    assert found["module"]["name"] == "m"
    (target,) = found["targets"]
    assert set(target) >= TARGET
    assert (target["rule"]["number"], bool(target["rule"]["text"])) == (rule, True)
    assert (target["awaits"] or {"event": None})["event"] == event
    assert [action["action"] for action in target["next"]] == following
    assert bool((target["awaits"] or {}).get("until")) == (event == "the next try")


def test_story_tells_what_changed_since_the_build_and_what_logs_say() -> None:
    snapshot = change(settled(), inputs={T: {**INPUTS, "source": "new"}})
    logs = {T: [{"attempt": "a"}]}
    judgements = judge(snapshot, POLICY, NOW)
    (target,) = explain_document("m", snapshot, judgements, (), kernel=K, logs=logs)["targets"]
    assert target["built"]["differs"] == ["its source changed"]
    assert (target["attempts"], target["error"]) == ([{"attempt": "a"}], None)
    assert explain_document("m", snapshot, judgements, (), kernel="other")["targets"] == []


def test_plan_is_told_as_json_knows_it() -> None:
    document = plan_document(plan(world(), POLICY, NOW))
    assert json.loads(json.dumps(document)) == document
    first = document["actions"][0]
    assert (first["action"], first["target"]) == ("BuildModule", {"module": "m", "kernel": K})


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
        snapshot = world() if judgement else change(world(), kernels={})
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
