"""Which kernels are held, released and fallen back on, and that no rule takes an entry away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import INPUTS, K2, NOW, T2, K, T, change, failed, kernel, module, record, settled

from kmodd.core.actions import Action, DropHold, ReleaseKernel, Wait, WriteGuard
from kmodd.core.booting import BootEntry, Booting, Hold
from kmodd.core.fault import Fault
from kmodd.core.guardfile import guard_text
from kmodd.core.model import Loaded, Policy, Presence, Snapshot
from kmodd.core.planner import judge, make_guarding, plan
from kmodd.core.planner.guard import Guarding, find_holding

POLICY = Policy()
DAY = 86400.0
WHOLE = BootEntry(f"id-{K}", f"/boot/loader/entries/id-{K}.conf", "", K, f"/boot/vmlinuz-{K}", (f"/boot/i-{K}",))
NEXT = BootEntry(f"id-{K2}", f"/boot/loader/entries/id-{K2}.conf", "", K2, f"/boot/vmlinuz-{K2}")
BROKEN = replace(NEXT, fault=Fault("entry-broken", "its image is gone", ""))
HOLDS = guard_text(WHOLE, "rocky 9", ["/boot/loader/entries"], [K])
BOTH = HOLDS.replace("\nend", f"\nready {K2}\nend")
NOTHING = guard_text(None, "")
FREE = ReleaseKernel(K2, "no module holds kernels any more")
STOPS = WriteGuard(NOTHING, "says something else")
UNTOLD: dict[str, Any] = {"entries": None, "unknown": "x", "default": ""}
HELD = Hold(NOW - 60)
BEGUN = Hold(NOW - 60, True, "x")
REMOVED = {K: kernel(K, running=True), K2: kernel(K2, present=False)}


def booting(**more: Any) -> Booting:
    """Return a server that has K, which boots next, and the guard's plugin."""
    facts = {
        "loader": "grub-bls", "entries": (WHOLE,), "default": WHOLE.name, "system": "rocky 9", "guard": HOLDS,
        "directories": ("/boot/loader/entries",), "here": True, "guards": True, **more,
    }  # fmt: skip
    return Booting(**facts)


def server(ready: bool = False, held: Optional[Hold] = None, required: Optional[bool] = True, **more: Any) -> Snapshot:
    """Return a server with two kernels, m being ready on the older one. ready: on the newer one, too."""
    tables = {"module": {} if required is None else {"required": required}}
    second = record("m", K2) if ready else record("m", K2, built=None, installed=None, attempt=failed())
    boot = booting(**{"held": {K2: held} if held else {}, **more.pop("booting", {})})
    return change(
        settled(),
        kernels={K: kernel(K, running=True), K2: kernel(K2)},
        modules={"m": module("m", **{**tables, **more.pop("tables", {})})},
        inputs={T: INPUTS, T2: INPUTS},
        records={T: more.pop("first", record()), T2: second},
        checks={T: (), T2: ()},
        booting=boot,
        **more,
    )


def guarding(snapshot: Snapshot, policy: Policy = POLICY, now: float = NOW) -> Guarding:
    return make_guarding(snapshot, policy, now, judge(snapshot, policy, now))


def due(snapshot: Snapshot, policy: Policy = POLICY, now: float = NOW) -> list[Action]:
    found = plan(snapshot, policy, now)
    return [action for action in found if isinstance(action, (WriteGuard, ReleaseKernel, DropHold))]


CASES: list[tuple[str, Snapshot, list[Action]]] = [
    ("held, not ready", server(held=HELD), []),
    ("held, ready", server(ready=True, held=HELD, booting={"guard": BOTH}),
     [ReleaseKernel(K2, "its required modules are ready")]),
    ("gone", change(server(held=HELD), kernels=REMOVED, records={T: record()}),
     [DropHold(K2, "the kernel was removed")]),
    ("an entry by hand", server(held=HELD, booting={"entries": (NEXT, WHOLE)}), [DropHold(K2, "it has a boot entry")]),
    ("interrupted release", server(ready=True, held=BEGUN, booting={"entries": (BROKEN, WHOLE), "guard": BOTH}),
     [ReleaseKernel(K2, "its release was interrupted")]),
    ("interrupted release, no longer ready", server(held=BEGUN, booting={"entries": (BROKEN, WHOLE)}), []),
    ("no module holds", server(held=HELD, required=False), [FREE, STOPS]),
    ("no guard file yet", server(booting={"guard": None}), [WriteGuard(HOLDS, "is missing")]),
    ("guard as it is to be", server(), []),
    ("the plugin is masked", server(held=HELD, booting={"masked": True, "guards": False}),
     [ReleaseKernel(K2, "no module holds kernels any more"), STOPS]),
    ("no plugin and no guard", server(booting={"guards": False, "guard": None}), []),
    ("another root", server(held=HELD, booting={"here": False, "guards": False}), []),
    ("nothing can be told", server(booting=UNTOLD), [STOPS]),
    ("held while nothing can be told", server(held=HELD, booting={**UNTOLD, "guard": NOTHING}), []),
]  # fmt: skip


@pytest.mark.parametrize(("snapshot", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_due(snapshot: Snapshot, expected: list[Action]) -> None:
    assert due(snapshot) == expected


def test_the_guard_that_is_off_releases_and_says_so() -> None:
    assert due(server(held=HELD), Policy(guard="off")) == [
        ReleaseKernel(K2, "the guard is off"), STOPS,
    ]  # fmt: skip


def test_a_kernel_is_held_for_no_longer_than_allowed() -> None:
    policy = Policy(hold_at_most=DAY)
    assert due(server(held=HELD), policy) == []
    assert due(server(held=HELD), policy, NOW + 2 * DAY) == [
        ReleaseKernel(K2, "it was held for as long as boot.hold_at_most allows")
    ]
    assert due(server(held=Hold(NOW + 9 * DAY)), policy) == []  # a clock that was set back
    assert due(server(held=HELD), POLICY, NOW + 900 * DAY) == []


def test_a_release_that_failed_is_tried_again_after_a_pause() -> None:
    attempt = failed("release", transient=True, failures=2)
    snapshot = server(ready=True, held=HELD)
    snapshot = change(snapshot, kernels={**snapshot.kernels, K2: kernel(K2, failures={"release": attempt})})
    assert not [a for a in due(snapshot) if isinstance(a, ReleaseKernel)]
    (wait,) = [action for action in plan(snapshot, POLICY, NOW) if isinstance(action, Wait)]
    assert (wait.target, wait.until) == (T2, attempt.ended + 120)  # by which the next pass comes
    assert [a for a in due(snapshot, now=attempt.ended + 121) if isinstance(a, ReleaseKernel)]


def test_nothing_is_held_where_no_kernel_would_boot_with_its_modules() -> None:
    nowhere = server(held=HELD, first=record(built=None, installed=None, attempt=failed()))
    assert due(nowhere) == [
        ReleaseKernel(K2, "no other kernel would boot with its required modules either"),
        STOPS,
    ]
    assert "no-proven-kernel" in [fault.problem for fault in guarding(nowhere).faults()]


def test_a_kernel_whose_modules_are_built_anew_is_fallen_back_on_still() -> None:
    """A new version of the module is no reason to release what is held for it."""
    newer = {**INPUTS, "source": "changed"}
    snapshot = change(server(held=HELD), inputs={T: newer, T2: newer})
    assert guarding(snapshot).fallback == K
    assert not [action for action in due(snapshot) if isinstance(action, ReleaseKernel)]
    damaged = change(snapshot, damaged={T: "m.ko is gone"})
    assert guarding(damaged).fallback == ""
    assert not [action for action in due(damaged) if isinstance(action, ReleaseKernel)]  # it is mended first


@pytest.mark.parametrize(
    ("facts", "loaded", "expected"),
    [
        ({"module": {"required": True}}, (), ["m"]),
        ({"module": {"required": False}, "load": {"at_boot": ("m",)}}, (), []),
        ({"module": {"required": True, "enabled": False}}, (), []),
        ({}, (), []),
        ({"load": {"at_boot": ("m",)}}, (), ["m"]),
        ({}, (Loaded("m", Presence.STALE),), ["m"]),
        ({}, (Loaded("m", Presence.ABSENT),), []),
    ],
)
def test_kernels_are_held_for_what_the_server_uses(facts: Any, loaded: tuple[Loaded, ...], expected: list[str]) -> None:
    snapshot = change(server(), modules={"m": module("m", **facts)}, loaded={T: loaded})
    assert find_holding(snapshot) == expected


def test_how_kernels_stand() -> None:
    found = guarding(server(ready=True, held=HELD, booting={"live": {K: 1.0, K2: 2.0}})).standings()
    assert (found[K].bootable, found[K].held, found[K].fit, found[K].proven, found[K].why) == (
        True,
        None,
        True,
        True,
        "",
    )
    assert (found[K2].bootable, found[K2].held, found[K2].fit, found[K2].proven) == (False, HELD, False, False)
    assert found[K2].why == "it has no boot entry"
    found = guarding(server(ready=True, booting={"entries": (BROKEN, WHOLE)})).standings()
    assert (found[K2].fit, found[K2].why) == (False, "its image is gone")
    found = guarding(server(booting={"entries": None, "unknown": "no idea"})).standings()
    assert (found[K].bootable, found[K].fit, found[K].why) == (None, False, "no idea")


def test_the_old_kernel_still_runs_is_told_for_as_long_as_it_is_so() -> None:
    behind = guarding(server(held=HELD)).find_behind()
    assert behind is not None and (behind.running, behind.newer, behind.held) == (K, K2, HELD)
    assert behind.fault.problem == "kernel-held" and "held until it is ready" in behind.fault.message
    behind = guarding(server(ready=True, booting={"entries": (NEXT, WHOLE), "default": NEXT.name})).find_behind()
    assert behind is not None and behind.fault.problem == "reboot-due" and behind.held is None
    assert guarding(server(ready=True, booting={"entries": (NEXT, WHOLE)})).find_behind() is None  # as somebody chose


def test_a_default_that_is_not_ready_is_told_and_keeps_its_entry() -> None:
    snapshot = server(booting={"entries": (NEXT, WHOLE), "default": NEXT.name})
    (fault,) = guarding(snapshot).faults()
    assert fault.problem == "default-not-ready" and K in fault.hint
    assert [action for action in due(snapshot) if not isinstance(action, WriteGuard)] == []


@given(
    held=st.sampled_from([None, HELD, Hold(0.0), Hold(NOW - 9, True, "x")]), ready=st.booleans(),
    entries=st.sampled_from([(), (WHOLE,), (NEXT,), (NEXT, WHOLE), (BROKEN, WHOLE), None]),
    guard=st.sampled_from(["entry", "off"]), guards=st.booleans(), here=st.booleans(),
    default=st.sampled_from(["", WHOLE.name, NEXT.name]), required=st.sampled_from([True, False, None]),
)  # fmt: skip
def test_whatever_there_is_plans_come_to_an_end(
    held: Optional[Hold], ready: bool, entries: Any, guard: str, guards: bool, here: bool, default: str, required: Any
) -> None:
    """What is due is done once; what is not ready gets no entry but where nothing is to be held."""
    facts = {"entries": entries, "default": default, "guards": guards and here, "here": here}
    snapshot, policy = server(ready, held, required, booting=facts), Policy(guard=guard)
    for _ in range(3):
        for action in due(snapshot, policy):
            boot = snapshot.booting
            if isinstance(action, WriteGuard):
                boot = replace(boot, guard=action.content)
                assert guards or boot.guard == NOTHING
            else:
                boot = replace(boot, held={r: h for r, h in boot.held.items() if r != action.kernel})
                assert ready or "ready" not in action.reason
            snapshot = replace(snapshot, booting=boot)
    assert due(snapshot, policy) == []
