"""What failed for a passing reason is tried at once when somebody asks, and it is known when it is tried otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from worlds import NOW, POLICY, T, built, failed, module, record, settled, world

from kmodd.core.actions import BuildModule, Wait
from kmodd.core.documents.failures import StepFailure, failures_document
from kmodd.core.documents.status import status_document
from kmodd.core.fault import Fault
from kmodd.core.model import Verdict
from kmodd.core.planner import judge, plan
from kmodd.core.record import Reload

PASSING = world(records={T: record(built=None, installed=None, attempt=failed(transient=True, ended=NOW - 1))})


@pytest.mark.parametrize(
    ("retry_now", "kind"),
    [(0.0, Wait), (NOW - 2, Wait), (NOW - 1, Wait), (NOW - 0.5, BuildModule), (NOW, BuildModule), (NOW + 9, Wait)],
    ids=["never asked", "asked before", "at its end", "asked since", "asked now", "the clock was set back since"],
)
def test_pause_ends_when_somebody_asks_after_the_failure(retry_now: float, kind: type) -> None:
    actions = plan(PASSING, replace(POLICY, retry_now=retry_now), NOW)
    assert isinstance(actions[0], kind)


def test_failure_that_stays_is_not_tried_because_somebody_asks() -> None:
    stays = world(records={T: record(built=None, installed=None, attempt=failed(ended=NOW - 1))})
    assert plan(stays, replace(POLICY, retry_now=NOW), NOW) == ()


def test_status_tells_when_the_next_try_is() -> None:
    found = judge(PASSING, POLICY, NOW)
    assert (found[T].verdict, found[T].until) == (Verdict.FAILED, NOW - 1 + POLICY.retry_first)
    (row,) = status_document(PASSING, found)["targets"]
    assert row["next_try"] == NOW - 1 + POLICY.retry_first
    (row,) = status_document(settled(), judge(settled(), POLICY, NOW))["targets"]
    assert row["next_try"] is None


def test_steps_that_failed_since_a_moment_are_listed_once() -> None:
    reload = Reload(outcome="failed", began=NOW, inputs={}, objects=(), problem="reload-failed", message="no")
    snapshot = settled(records={T: record(attempt=failed(ended=NOW), reload=reload)})
    reported = [StepFailure("m", "", Fault("disk-full", "no space"))] * 2
    found = failures_document(snapshot, NOW, reported)
    assert [(f["module"], f["kernel"], f["problem"]) for f in found] == [
        ("m", T.kernel, "build-failed"), ("m", T.kernel, "reload-failed"), ("m", "", "disk-full"),
    ]  # fmt: skip
    assert failures_document(snapshot, NOW + 1) == []
    assert failures_document(replace(snapshot, modules={"other": module("other")}), NOW) == []


@pytest.mark.parametrize(("inputs", "told"), [(built().inputs, True), ({"source": "other"}, False)])
def test_rebuild_that_failed_is_told_of_what_stays_ready(inputs: dict[str, str], told: bool) -> None:
    snapshot = settled(records={T: record(attempt=failed(inputs=inputs))})
    (row,) = status_document(snapshot, judge(snapshot, POLICY, NOW))["targets"]
    assert (row["verdict"] == "ready") == told or not told
    assert any("the last build failed" in warning for warning in row["warnings"]) == told
