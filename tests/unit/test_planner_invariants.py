"""What holds for every world: plans are reached in few passes, in order, and never touch what is not kmodd's."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import INPUTS, MISSING, SIGNER, broken, built, change, failed, installed, kernel, module, parts, record

from kmodd.core.actions import (
    Action,
    BuildModule,
    InstallModule,
    RemoveDropin,
    RemoveModule,
    RunDepmod,
    Wait,
    WriteDropin,
)
from kmodd.core.dropincontent import MARK
from kmodd.core.model import Dropin, Policy, Signer, Snapshot, Target, Verdict
from kmodd.core.planner import judge, plan
from kmodd.core.record import Built, BuiltObject, Installed, InstalledObject, TargetRecord

NAMES = ("a", "b", "c", "d")
RELEASES = ("6.1.0-1", "6.1.0-2", "6.12.0-1+debug")
POLICY = Policy()
NOW = 2000.0
MOST_PASSES = len(NAMES) + 3

lenient = settings(deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def modules(draw: st.DrawFn, name: str) -> Any:
    return module(
        name,
        module={"enabled": draw(st.sampled_from([True, True, True, False]))},
        build={"depends": tuple(draw(st.lists(st.sampled_from((*NAMES, "unknown")), max_size=2, unique=True)))},
        kernels={"exclude": draw(st.sampled_from([(), (), ("*+debug",)]))},
        load={"at_boot": draw(st.sampled_from([(), (name,)]))},
    )


@st.composite
def kernels(draw: st.DrawFn, release: str) -> Any:
    tree = draw(st.sampled_from([True, True, False]))
    return kernel(
        release,
        present=draw(st.sampled_from([True, True, True, False])),
        build_tree=f"/usr/src/kernels/{release}" if tree else None,
        build_tree_fault=None if tree else MISSING,
        signature_hash=draw(st.sampled_from(["sha256", ""])),
        compression=draw(st.sampled_from(["", "xz"])),
        in_tree=draw(st.sampled_from([frozenset(), frozenset({"a", "x"})])),
        depmod_stale=draw(st.sampled_from(["", "modules.dep is missing"])),
    )


@st.composite
def records(draw: st.DrawFn, name: str, release: str) -> TargetRecord:
    thing = draw(st.sampled_from([name, name, "x"]))
    inputs = {**INPUTS, "source": draw(st.sampled_from(["s", "old"]))}
    what = draw(st.sampled_from(["built", "installed", "attempt", "bare"]))
    return record(
        name,
        release,
        built=built(thing, inputs) if what in ("built", "installed") else None,
        installed=installed(thing, release, signer=draw(st.sampled_from(["key1", ""])))
        if what == "installed"
        else None,
        attempt=failed(transient=draw(st.booleans()), failures=draw(st.integers(0, 9))) if what == "attempt" else None,
    )


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    registered = {n: draw(modules(n)) for n in draw(st.lists(st.sampled_from(NAMES), unique=True))}
    present = {r: draw(kernels(r)) for r in draw(st.lists(st.sampled_from(RELEASES), unique=True))}
    targets = [Target(n, r) for n in NAMES for r in RELEASES]
    known = draw(st.lists(st.sampled_from(targets), unique=True, max_size=8))
    stored = {t: draw(records(t.module, t.kernel)) for t in known}
    shattered = [n for n in NAMES if n not in registered and draw(st.booleans())]
    ours = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=2))
    return change(
        Snapshot(),
        kernels=present,
        modules=registered,
        broken=tuple(broken(n) for n in shattered),
        inputs={
            Target(n, r): INPUTS
            for n in registered
            for r, k in present.items()
            if k.present and k.build_tree is not None and draw(st.sampled_from([True, True, True, False]))
        },
        records=stored,
        damaged={t: "m.ko is gone" for t in known if stored[t].installed and draw(st.booleans())},
        store_damaged=frozenset(t for t in known if stored[t].built and draw(st.booleans())),
        dropins=tuple(Dropin("modules-load", n, f"{MARK}\n{n}\n") for n in ours),
        signer=draw(st.sampled_from([SIGNER, SIGNER, Signer("key2")])),
    )


def apply(snapshot: Snapshot, actions: tuple[Action, ...]) -> Snapshot:
    """Return what the disk looks like once a pass has applied what it can, as the reconciler does."""
    due = {a.target for a in actions if isinstance(a, BuildModule)}
    kernels, stored = dict(snapshot.kernels), dict(snapshot.records)
    damaged, lost = dict(parts(snapshot, "damaged")), set(parts(snapshot, "store_damaged"))
    files = {(d.kind, d.module): d for d in snapshot.dropins}
    attempts = {r: k.failures["depmod"] for r, k in snapshot.kernels.items() if k.failures}
    for action in actions:
        if isinstance(action, RemoveModule):
            del stored[action.target]
            damaged.pop(action.target, None)
            lost.discard(action.target)
        elif isinstance(action, BuildModule) and not due & set(action.after):
            target = action.target
            before = stored.get(target) or TargetRecord(module=target.module, kernel=target.kernel)
            name = before.built.objects[0].name if before.built else target.module
            done = Built(inputs=dict(action.inputs), objects=(BuiltObject(name=name, sha256="u1"),))
            stored[target] = before.model_copy(update={"built": done, "attempt": None})
            lost.discard(target)
        elif isinstance(action, InstallModule) and action.target not in due:
            target, there = action.target, snapshot.kernels[action.target.kernel]
            what = stored[target].built
            assert what is not None, f"{action} without a build"
            assert target not in parts(snapshot, "store_damaged"), f"{action} of lost objects"
            signer = snapshot.signer.identity if there.signature_hash else ""
            objects = tuple(
                InstalledObject(
                    name=o.name, path=o.name, sha256="i", built=o.sha256, signer=signer, compressed=there.compression
                )
                for o in what.objects
            )
            stored[target] = stored[target].model_copy(update={"installed": Installed(objects=objects)})
            damaged.pop(target, None)
        elif isinstance(action, WriteDropin):
            there_is = any(t.module == action.dropin.module and r.installed for t, r in stored.items())
            if there_is:
                files[action.dropin.kind, action.dropin.module] = action.dropin
        elif isinstance(action, RemoveDropin):
            del files[action.dropin.kind, action.dropin.module]
        elif isinstance(action, RunDepmod):
            kernels[action.kernel] = replace(kernels[action.kernel], depmod_stale="")
            attempts.pop(action.kernel, None)
    return change(
        snapshot,
        kernels=kernels,
        records=stored,
        damaged=damaged,
        store_damaged=frozenset(lost),
        dropins=tuple(files.values()),
        kernel_attempts=attempts,
    )


@lenient
@given(worlds())
def test_passes_reach_a_plan_of_waits_alone(snapshot: Snapshot) -> None:
    for _ in range(MOST_PASSES):
        actions = plan(snapshot, POLICY, NOW)
        if all(isinstance(action, Wait) for action in actions):
            break
        snapshot = apply(snapshot, actions)
    assert all(isinstance(action, Wait) for action in plan(snapshot, POLICY, NOW))
    settled = judge(snapshot, POLICY, NOW).values()
    assert all(j.verdict is not Verdict.BUILDING for j in settled)


@lenient
@given(worlds())
def test_what_a_build_needs_comes_before_it(snapshot: Snapshot) -> None:
    actions = plan(snapshot, POLICY, NOW)
    order = [a.target for a in actions if isinstance(a, BuildModule)]
    for action in actions:
        if isinstance(action, BuildModule):
            needed = {
                Target(n, action.target.kernel) for n in snapshot.modules[action.target.module].file.build.depends
            }
            assert set(action.after) == needed & set(order)
            assert all(order.index(n) < order.index(action.target) for n in action.after)
            for target in needed - set(order):
                stored = snapshot.records[target].built
                assert stored is not None
                assert stored.inputs["source"] == "s"
    kinds = (RemoveModule, BuildModule, InstallModule, (WriteDropin, RemoveDropin), RunDepmod, Wait)
    places = [next(i for i, kind in enumerate(kinds) if isinstance(action, kind)) for action in actions]
    assert places == sorted(places)
    assert len(set(order)) == len(order)


@lenient
@given(worlds())
def test_only_what_is_ours_and_unprotected_is_removed(snapshot: Snapshot) -> None:
    shattered = {b.name for b in snapshot.broken}
    for action in plan(snapshot, POLICY, NOW):
        if isinstance(action, RemoveModule):
            assert action.target in snapshot.records
            there = snapshot.kernels.get(action.target.kernel)
            assert action.target.module not in shattered or there is None or not there.present
        elif isinstance(action, RemoveDropin):
            assert action.dropin in snapshot.dropins
            assert action.dropin.module not in shattered
        elif isinstance(action, (BuildModule, InstallModule, Wait)):
            assert action.target.module in snapshot.modules
            assert snapshot.kernels[action.target.kernel].present
        elif isinstance(action, RunDepmod):
            assert snapshot.kernels[action.kernel].present


@lenient
@given(worlds())
def test_planning_is_deterministic_and_changes_nothing(snapshot: Snapshot) -> None:
    before = copy.deepcopy(snapshot)
    first = plan(snapshot, POLICY, NOW)
    verdicts = judge(snapshot, POLICY, NOW)
    assert snapshot == before
    backwards = change(
        snapshot,
        modules=dict(reversed(list(snapshot.modules.items()))),
        kernels=dict(reversed(list(snapshot.kernels.items()))),
        records=dict(reversed(list(snapshot.records.items()))),
        inputs=dict(reversed(list(parts(snapshot, "inputs").items()))),
    )
    assert plan(backwards, POLICY, NOW) == first
    assert judge(backwards, POLICY, NOW) == verdicts


@lenient
@given(worlds())
def test_everything_has_a_reason_and_every_target_a_verdict(snapshot: Snapshot) -> None:
    assert all(action.reason for action in plan(snapshot, POLICY, NOW))
    verdicts = judge(snapshot, POLICY, NOW)
    assert all(judgement.reason for judgement in verdicts.values())
    present = [r for r, k in snapshot.kernels.items() if k.present]
    names = {*snapshot.modules, *(b.name for b in snapshot.broken)}
    assert set(verdicts) == {Target(n, r) for n in names for r in present}
    for target, judgement in verdicts.items():
        if judgement.verdict is Verdict.READY:
            assert snapshot.records[target].installed is not None
