"""What is reloaded in the running kernel, in which order, and what is said of what stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest
from worlds import NOW, POLICY, K, T, build, change, do, installed, kernel, module, parts, record, settled, verdict

from kmodd.core.actions import ReloadModule, Wait
from kmodd.core.documents.explain import explain_document
from kmodd.core.documents.plan import plan_document
from kmodd.core.documents.status import status_document
from kmodd.core.model import Fault, Loaded, Presence, Snapshot, Target, Verdict
from kmodd.core.modulefile import Module
from kmodd.core.planner import judge, plan
from kmodd.core.record import Reload, TargetRecord
from kmodd.core.reloadplan import Note, find_notes, reload_inputs
from kmodd.ctl.plan import sentence
from kmodd.ctl.status import print_status

STALE, CURRENT, ABSENT, UNKNOWN = Presence.STALE, Presence.CURRENT, Presence.ABSENT, Presence.UNKNOWN
ASK = {"load": {"reload": "if-unused"}}
RUNNING = kernel(running=True)
INPUTS = {"boot": "b1", "m": "u1"}


def memory(*items: Loaded, modules: tuple[Module, ...] = (), **more: Any) -> Snapshot:
    """Return a settled world whose running kernel has some objects, each of the module of its name."""
    loaded: dict[Target, tuple[Loaded, ...]] = {}
    for item in items:
        target = Target(item.name.partition("_")[0], K)
        loaded[target] = (*loaded.get(target, ()), item)
    modules = modules or tuple(module(target.module, **ASK) for target in loaded)
    return settled(*modules, kernels=(RUNNING,), loaded=loaded, boot="b1", **more)


def tried(outcome: str = "failed", absent: bool = False, **more: Any) -> TargetRecord:
    facts = {"began": 1.0, "inputs": INPUTS, "objects": ("m",), "problem": "reload-failed", "message": "it failed"}
    return record(reload=Reload(outcome=outcome, absent=absent, **{**facts, **more}))  # type: ignore[arg-type]


def reload(*objects: str, target: Target = T, along: tuple[str, ...] = (), has: str = "") -> ReloadModule:
    reason = f"the running kernel has not the installed {has or ', '.join(objects)}"
    return ReloadModule(target, objects, reason, tuple(Target(name, K) for name in along))


def wait(reason: str) -> Wait:
    hint = "it is reloaded once it is unused"
    return Wait(T, f"is not reloaded: {reason}", "module-in-use", hint, NOW + POLICY.retry_longest)


def note(snapshot: Snapshot, target: Target = T) -> Optional[Note]:
    return find_notes(snapshot, judge(snapshot, POLICY, NOW)).get(target)


M = Loaded("m", STALE)


@pytest.mark.parametrize("presence", [CURRENT, ABSENT, UNKNOWN])
def test_only_what_is_stale_is_reloaded(presence: Presence) -> None:
    assert do(memory(M)) == [reload("m")]
    assert do(memory(Loaded("m", presence))) == []
    assert note(memory(Loaded("m", presence))) is None


def test_nothing_is_reloaded_unless_it_is_asked_for() -> None:
    snapshot = memory(M, modules=(module("m"),))
    assert do(snapshot) == []
    found = note(snapshot)
    assert found is not None and found.text == "the running kernel still has the old m"
    assert "modprobe -r m && modprobe m; or reboot" in found.hint and "if-unused" in found.hint
    assert verdict(snapshot).verdict is Verdict.READY


USED = [
    (Loaded("m", STALE, users=1), "m is in use (1 reference)"),
    (Loaded("m", STALE, users=2), "m is in use (2 references)"),
    (Loaded("m", STALE, holders=("kvm",)), "kvm, which is not of kmodd, uses it"),
    (Loaded("m", STALE, interfaces=("eth0", "eth1")), "m drives eth0, eth1, which is up"),
]


@pytest.mark.parametrize(("item", "reason"), USED, ids=[reason for _, reason in USED])
def test_what_is_in_use_stays_and_is_looked_at_again(item: Loaded, reason: str) -> None:
    snapshot = memory(item)
    assert do(snapshot) == [wait(reason)]
    found = note(snapshot)
    assert found == Note(
        f"the running kernel still has the old m; it stays: {reason}", "it is reloaded once it is unused; or reboot"
    )
    assert verdict(snapshot).verdict is Verdict.READY


def test_what_can_never_be_unloaded_is_not_waited_for() -> None:
    snapshot = memory(Loaded("m", STALE, permanent=True))
    assert do(snapshot) == []
    found = note(snapshot)
    assert found is not None and found.hint == "reboot"


A, B = Target("a", K), Target("b", K)
PAIR = (Loaded("a", STALE), Loaded("b", STALE, holders=("a",)))
ORDERS = [
    ("holder and held", PAIR, [reload("a", "b", target=A, along=("b",))]),
    ("apart", (Loaded("a", STALE), Loaded("b", STALE)), [reload("a", target=A), reload("b", target=B)]),
    (
        "a current holder goes along",
        (Loaded("a", CURRENT), Loaded("b", STALE, holders=("a",))),
        [reload("a", "b", target=B, along=("a",), has="b")],
    ),
    ("the held is current", (Loaded("a", STALE), Loaded("b", CURRENT, holders=("a",))), [reload("a", target=A)]),
    (
        "objects of one module",
        (Loaded("m_one", STALE), Loaded("m_two", STALE, holders=("m_one",))),
        [reload("m_one", "m_two")],
    ),
    (
        "a chain of three",
        (Loaded("a", STALE, holders=("b",)), Loaded("b", STALE, holders=("c",)), Loaded("c", STALE)),
        [reload("c", "b", "a", target=Target("c", K), along=("a", "b"))],
    ),
]


@pytest.mark.parametrize(("items", "expected"), [row[1:] for row in ORDERS], ids=[row[0] for row in ORDERS])
def test_users_are_taken_out_before_what_they_use(items: tuple[Loaded, ...], expected: list[ReloadModule]) -> None:
    assert do(memory(*items)) == expected


def test_what_is_stale_of_dependencies_goes_along_after_its_dependents() -> None:
    modules = (module("b", **ASK), module("c", build={"depends": ("b",)}, **ASK))
    snapshot = memory(Loaded("b", STALE), Loaded("c", STALE), modules=modules)
    snapshot = change(
        snapshot, inputs={}, input_faults=dict.fromkeys(parts(snapshot, "inputs"), Fault("x", "no source"))
    )
    assert do(snapshot) == [reload("c", "b", target=Target("c", K), along=("b",))]
    busy = change(snapshot, loaded={**parts(snapshot, "loaded"), B: (Loaded("b", STALE, users=1),)})
    assert [type(action) for action in do(busy)] == [Wait, Wait]


@pytest.mark.parametrize("which", [A, B], ids=["holder", "held"])
def test_if_one_must_stay_all_that_belong_together_do(which: Target) -> None:
    snapshot = memory(*PAIR)
    (item,) = parts(snapshot, "loaded")[which]
    busy = change(snapshot, loaded={**parts(snapshot, "loaded"), which: (replace(item, users=1),)})
    assert [type(action) for action in do(busy)] == [Wait, Wait]


def test_holder_that_may_not_be_reloaded_keeps_what_it_uses() -> None:
    snapshot = memory(*PAIR, modules=(module("a"), module("b", **ASK)))
    assert do(snapshot) == []
    found = note(snapshot, B)
    assert found is not None and 'a has not [load] reload = "if-unused"' in found.text


def test_nothing_is_reloaded_while_something_else_is_due_for_the_kernel() -> None:
    assert do(memory(M, records={})) == build()
    stale = change(memory(M), kernels={K: kernel(running=True, depmod_stale="modules.dep is missing")})
    assert [type(action).__name__ for action in do(stale)] == ["RunDepmod"]


def test_what_another_kernel_needs_delays_no_reload() -> None:
    other = "6.1.0-9.el9.x86_64"
    snapshot = memory(M)
    snapshot = change(
        snapshot,
        kernels={**snapshot.kernels, other: kernel(other)},
        inputs={**parts(snapshot, "inputs"), Target("m", other): parts(snapshot, "inputs")[T]},
    )
    assert reload("m") in do(snapshot)


def test_what_would_not_load_is_not_reloaded() -> None:
    snapshot = memory(M, faults={T: (Fault("vermagic-mismatch", "built for another kernel"),)})
    assert do(snapshot) == []
    found = note(snapshot)
    assert found is not None and "m is not ready" in found.text


TRIED = [
    ("failed with these objects", tried(), False),
    ("failed with others", tried(inputs={"boot": "b1", "m": "u0"}), True),
    ("failed in another boot", tried(inputs={"boot": "b0", "m": "u1"}), True),
    ("succeeded, and is stale all the same", tried("succeeded", problem="", message=""), False),
    ("was interrupted", tried("began"), True),
]


@pytest.mark.parametrize(("before", "again"), [row[1:] for row in TRIED], ids=[row[0] for row in TRIED])
def test_reload_is_tried_once_with_the_same_objects(before: TargetRecord, again: bool) -> None:
    snapshot = memory(M, records={T: before})
    assert do(snapshot) == ([reload("m")] if again else [])
    assert verdict(snapshot).verdict is Verdict.READY
    found = note(snapshot)
    assert found is not None and ("it stays" in found.text) == (not again)


GONE = Loaded("m", ABSENT)
OWED = [
    ("interrupted", tried("began"), True, Verdict.READY),
    ("interrupted in another boot", tried("began", inputs={"boot": "b0", "m": "u1"}), False, Verdict.READY),
    ("refused by the kernel", tried(absent=True), False, Verdict.BLOCKED),
    ("refused, built anew since", tried(absent=True, inputs={"boot": "b1", "m": "u0"}), True, Verdict.READY),
    ("refused in another boot", tried(absent=True, inputs={"boot": "b0", "m": "u1"}), False, Verdict.READY),
    ("not unloaded then, by hand since", tried(), False, Verdict.READY),
    ("reloaded then, unloaded by hand since", tried("succeeded"), False, Verdict.READY),
]


@pytest.mark.parametrize(("before", "due", "expected"), [row[1:] for row in OWED], ids=[row[0] for row in OWED])
def test_what_a_reload_took_out_is_owed(before: TargetRecord, due: bool, expected: Verdict) -> None:
    snapshot = memory(GONE, records={T: before})
    assert do(snapshot) == ([reload("m")] if due else [])
    assert verdict(snapshot).verdict is expected
    assert (note(snapshot) is not None) == due


def test_refused_object_that_was_loaded_by_hand_is_ready() -> None:
    assert verdict(memory(Loaded("m", CURRENT), records={T: tried(absent=True)})).verdict is Verdict.READY


def test_reload_is_identified_by_the_boot_and_what_the_objects_were_made_from() -> None:
    snapshot = memory(M, records={T: record(installed=installed(built="u7"))})
    assert reload_inputs(T, snapshot) == {"boot": "b1", "m": "u7"}


def test_module_that_is_no_longer_registered_is_not_reloaded() -> None:
    snapshot = change(memory(M, Loaded("b", STALE)), modules={"b": module("b", **ASK)})
    assert not any(isinstance(action, ReloadModule) for action in plan(snapshot, POLICY, NOW))


def test_plan_prints_a_reload_as_a_line() -> None:
    assert [sentence(action) for action in plan_document(do(memory(*PAIR)))["actions"]] == [
        f"reload   a, b of a for {K}: the running kernel has not the installed a, b"
    ]


@pytest.mark.parametrize("detailed", [False, True])
def test_status_tells_what_is_in_memory(detailed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = memory(M)
    document = status_document(snapshot, judge(snapshot, POLICY, NOW))
    (target,) = document["targets"]
    assert target["objects"][0]["in_memory"] == "stale"
    assert target["stale_in_memory"]["reason"] == "the running kernel still has the old m"
    print_status(document, detailed, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "in memory: the running kernel still has the old m" in said and "→ it is reloaded" in said


def test_story_tells_of_a_reload_to_all_that_go_along() -> None:
    snapshot = memory(*PAIR)
    for name in ("a", "b"):
        story = explain_document(name, snapshot, judge(snapshot, POLICY, NOW), do(snapshot))
        assert [action["action"] for action in story["targets"][0]["next"]] == ["ReloadModule"]
