"""What could not be read is nobody's fault: nothing is done with the target, and it is read again."""

from __future__ import annotations

import pytest
from worlds import NOW, POLICY, T, settled, world

from kmodd.core.actions import Wait
from kmodd.core.model import Fault, Snapshot, Unseen, Verdict
from kmodd.core.planner import judge, plan

UNREAD = Unseen(Fault("look-interrupted", "m could not be read", ""), NOW + 60)
UNCHECKED = Unseen(Fault("check-interrupted", "modprobe was killed", ""), NOW + 60)
FOUND = Fault("object-shadowed", "modprobe would load another file", "")
ENDLESS = Fault("dkms-conf-timeout", "m's dkms.conf: bash did not come to its end in time", "look at it")
KILLED = Fault("tool-killed", "gcc was killed", "")


@pytest.mark.parametrize(
    ("snapshot", "verdict", "problem"),
    [
        (settled(unchecked={T: UNCHECKED}), Verdict.WAITING, "check-interrupted"),
        (
            settled(unchecked={T: UNCHECKED}, faults={T: (Fault("object-shadowed", "x"),)}),
            Verdict.BLOCKED,
            "object-shadowed",
        ),
        (settled(unseen={T: UNREAD}, damaged={T: "m.ko is gone"}), Verdict.WAITING, "look-interrupted"),
        (settled(unseen={T: Unseen(KILLED, NOW + 60)}, input_faults={T: KILLED}, inputs={}), Verdict.READY, ""),
        (
            world(unseen={T: Unseen(KILLED, NOW + 60)}, input_faults={T: KILLED}, inputs={}),
            Verdict.WAITING,
            "tool-killed",
        ),
        (
            world(unseen={T: Unseen(ENDLESS, NOW + 60)}, input_faults={T: ENDLESS}, inputs={}),
            Verdict.FAILED,
            "dkms-conf-timeout",
        ),
    ],
    ids=["unchecked", "found all the same", "unread", "installed", "not built", "endless"],
)
def test_what_could_not_be_looked_at_is_looked_at_again_and_nothing_else_is_done(
    snapshot: Snapshot, verdict: Verdict, problem: str
) -> None:
    found = judge(snapshot, POLICY, NOW)[T]
    assert (found.verdict, found.problem) == (verdict, problem)
    actions = [action for action in plan(snapshot, POLICY, NOW) if getattr(action, "target", None) == T]
    assert [type(action) for action in actions] == [Wait]
    assert isinstance(actions[0], Wait) and actions[0].until == NOW + 60
