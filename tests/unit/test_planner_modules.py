"""What is due where modules depend on each other or want drop-ins, and what is said of whole kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from worlds import (
    BROKEN,
    INPUTS,
    K2,
    MISSING,
    NOW,
    POLICY,
    SIGNER,
    T2,
    K,
    T,
    broken,
    build,
    built,
    change,
    do,
    failed,
    installed,
    kernel,
    module,
    record,
    settled,
    verdict,
    world,
)  # fmt: skip

from kmodd.core.actions import BuildModule, InstallModule, RemoveDropin, RemoveModule, RunDepmod, Wait, WriteDropin
from kmodd.core.dropincontent import dropins, exactly
from kmodd.core.model import Dropin, Fault, Judgement, Signer, Snapshot, Target, Verdict, fingerprint, worst
from kmodd.core.planner import judge, judge_kernel
from kmodd.core.recipe import Recipe
from kmodd.core.record import Attempt

SIGNING = Signer(fault=Fault("signing-key-unreadable", "the key cannot be read", "chmod it"))
NO_DEVEL = kernel(build_tree=None, build_tree_fault=MISSING)


def took(name: str, release: str, seconds: float, ended: float = 500) -> dict[Target, Any]:
    """Return the record of a build that took so long and belongs to another kernel."""
    attempt = Attempt(began=ended - seconds, ended=ended, stage="build", outcome="succeeded")
    return {Target(name, release): record(name, release, attempt=attempt)}


def begin(snapshot: Snapshot) -> list[str]:
    """Return the modules of the builds that are due, in their order."""
    return [action.target.module for action in do(snapshot) if isinstance(action, BuildModule)]


# -- the order of builds ---------------------------------------------------------------------------------------------
def test_what_took_longest_is_built_first() -> None:
    records = {**took("a", K2, 2), **took("b", K2, 9), **took("c", K2, 5)}
    assert begin(world(module("a"), module("b"), module("c"), records=records)) == ["b", "c", "a"]


def test_the_last_build_counts_whatever_kernel_it_was_for() -> None:
    records = {**took("a", K2, 90, ended=100), **took("a", "6.1.0-3", 1, ended=900), **took("b", K2, 9)}
    assert begin(world(module("a"), module("b"), records=records)) == ["b", "a"]


def test_a_short_build_that_a_long_one_waits_for_comes_before_what_is_shorter_than_both() -> None:
    modules = (module("a"), module("b", build={"depends": ("z",)}), module("z"))
    records = {**took("a", K2, 6), **took("b", K2, 9), **took("z", K2, 1)}
    assert begin(world(*modules, records=records)) == ["z", "b", "a"]


def test_what_was_never_built_is_ordered_by_how_many_objects_it_yields() -> None:
    objects = ({"name": "x"}, {"name": "y"})
    assert begin(world(module("a"), module("b", object=objects))) == ["b", "a"]


def test_kernels_are_served_one_after_the_other() -> None:
    records = {**took("a", "6.0", 1), **took("b", "6.0", 9)}
    builds = [
        action.target
        for action in do(world(module("a"), module("b"), kernels=(kernel(K), kernel(K2)), records=records))
        if isinstance(action, BuildModule)
    ]
    assert builds == [Target("b", K), Target("a", K), Target("b", K2), Target("a", K2)]


# -- dependencies ----------------------------------------------------------------------------------------------------
A, B = Target("a", K), Target("b", K)


def pair(a: Any = None, b: Any = None, **more: Any) -> Snapshot:
    """Return b that a depends on, sorted the other way round."""
    return world(module("a", build={"depends": ("b",)}, **(a or {})), module("b", **(b or {})), **more)


def with_b() -> dict[str, str]:
    return {**INPUTS, "depends:b": fingerprint(INPUTS)}


def test_dependency_is_built_before_its_dependant() -> None:
    assert do(pair()) == [
        BuildModule(B, "never built for this kernel", INPUTS),
        BuildModule(A, "never built for this kernel", with_b(), (B,)),
        InstallModule(B, "once it is built"),
        InstallModule(A, "once it is built"),
        RunDepmod(K, "objects are installed"),
    ]


def test_built_dependency_is_not_waited_for() -> None:
    found = do(pair(records={B: record("b")}))
    assert found[0] == BuildModule(A, "never built for this kernel", with_b())


def test_changed_dependency_rebuilds_its_dependant() -> None:
    records = {B: record("b"), A: record("a", built=built("a", with_b()))}
    assert do(pair(records=records)) == []
    snapshot = pair(records=records, inputs={A: INPUTS, B: {**INPUTS, "source": "new"}})
    assert [(type(a).__name__, a.reason) for a in do(snapshot)[:2]] == [
        ("BuildModule", "its source changed"),
        ("BuildModule", "b, which it depends on, changed"),
    ]


DEPENDS: list[tuple[str, Snapshot, str, str]] = [
    (
        "unknown",
        world(module("a", build={"depends": ("x",)})),
        "depends-unknown",
        "depends on x, which is not registered",
    ),
    (
        "broken file",
        world(module("a", build={"depends": ("b",)}), broken=(broken("b"),)),
        "depends-unknown",
        "whose module file is broken",
    ),
    ("excluded", pair(b={"module": {"enabled": False}}), "depends-excluded", "which is excluded: module.enabled"),
    ("itself", world(module("a", build={"depends": ("a",)})), "depends-cycle", "a"),
    (
        "each other",
        world(module("a", build={"depends": ("b",)}), module("b", build={"depends": ("a",)})),
        "depends-cycle",
        "a",
    ),
]


@pytest.mark.parametrize(("snapshot", "problem", "reason"), [c[1:] for c in DEPENDS], ids=[c[0] for c in DEPENDS])
def test_dependency_that_can_never_be_met_fails(snapshot: Snapshot, problem: str, reason: str) -> None:
    assert [a for a in do(snapshot) if getattr(a, "target", None) == A] == []
    found = verdict(snapshot, A)
    assert (found.verdict, found.problem) == (Verdict.FAILED, problem)
    assert reason in found.reason


def test_module_beside_a_cycle_is_built() -> None:
    cycle = [module(n, build={"depends": (d,)}) for n, d in (("a", "b"), ("b", "c"), ("c", "a"))]
    snapshot = world(*cycle, module("z"))
    assert do(snapshot) == build(Target("z", K))
    assert {verdict(snapshot, Target(n, K)).problem for n in "abc"} == {"depends-cycle"}


def test_dependant_of_a_cycle_fails_or_waits_but_is_not_built() -> None:
    snapshot = world(module("a", build={"depends": ("b",)}), module("b", build={"depends": ("b",)}))
    assert do(snapshot) == []
    assert verdict(snapshot, A).verdict is Verdict.FAILED


def test_cycle_beside_a_dependency_that_is_waited_for_is_found() -> None:
    modules = (
        module("a", build={"depends": ("b",)}),
        module("b", build={"depends": ("z", "a")}),
        module("z", kernels={}),
    )
    failure = {Target("z", K): record("z", built=None, installed=None, attempt=failed())}
    snapshot = world(*modules, records=failure)
    assert do(snapshot) == []
    assert {verdict(snapshot, Target(n, K)).problem for n in "ab"} == {"depends-cycle"}


def test_cycle_through_a_module_that_lacks_another_ends() -> None:
    snapshot = world(module("a", build={"depends": ("b",)}), module("b", build={"depends": ("unknown", "a")}))
    assert [type(action) for action in do(snapshot)] in ([], [Wait])
    assert verdict(snapshot, B).verdict is Verdict.FAILED


def test_many_paths_to_one_dependency_are_planned_at_once() -> None:
    names = [f"m{number:02}" for number in range(40)]
    chain = [module(n, build={"depends": tuple(names[i + 1 : i + 3])}) for i, n in enumerate(names)]
    builds = [a.target.module for a in do(world(*chain)) if isinstance(a, BuildModule)]
    assert builds == names[::-1]


def test_dependant_of_a_failed_module_waits_and_names_it() -> None:
    snapshot = pair(records={B: record("b", built=None, installed=None, attempt=failed())})
    reason = "needs b, which is not built: m.c:1: error: x"
    assert do(snapshot) == [Wait(A, reason, "depends-not-ready")]
    assert verdict(snapshot, A) == Judgement(Verdict.WAITING, reason, "depends-not-ready")


def test_dependency_without_a_source_makes_its_dependant_wait() -> None:
    fault = Fault("source-missing", "it does not exist")
    snapshot = change(pair(), inputs={A: INPUTS}, input_faults={B: fault})
    assert do(snapshot) == [Wait(A, "needs b, which is not built: it does not exist", "depends-not-ready", "")]


def test_two_modules_with_one_object_collide_and_the_installed_one_stays() -> None:
    mine, theirs = (
        record("a", built=built("x"), installed=None),
        record("b", built=built("x"), installed=installed("x")),
    )
    snapshot = world(module("a"), module("b"), records={A: mine, B: theirs})
    assert do(snapshot) == []
    assert verdict(snapshot, A).problem == "object-collision"
    assert "a and b both yield x.ko" in verdict(snapshot, A).reason
    assert verdict(snapshot, B).verdict is Verdict.READY


def test_collision_of_two_new_modules_is_decided_by_name() -> None:
    mine, theirs = (record(name, built=built("x-y"), installed=None) for name in "ab")
    snapshot = world(module("a"), module("b"), records={A: mine, B: theirs})
    assert do(snapshot) == [InstallModule(A, "not installed"), RunDepmod(K, "objects are installed")]
    assert verdict(snapshot, B).problem == "object-collision"


# -- drop-ins --------------------------------------------------------------------------------------------------------
LOAD = {"load": {"at_boot": ("m",), "options": {"m": "a=1"}}}
BOOT, PROBE = dropins(module(**LOAD), {})


def test_dropins_are_written_with_the_first_installation() -> None:
    assert do(world(module(**LOAD)))[2:4] == [WriteDropin(BOOT, "is missing"), WriteDropin(PROBE, "is missing")]


def test_dropins_wait_for_something_to_be_installed() -> None:
    snapshot = world(module(**LOAD), kernels=(NO_DEVEL,))
    assert [type(a) for a in do(snapshot)] == [Wait]


def test_dropin_that_says_something_else_is_written_again() -> None:
    other = replace(BOOT, content="# Generated by kmodd\nx\n")
    assert do(settled(module(**LOAD), dropins=(other, PROBE))) == [WriteDropin(BOOT, "says something else")]
    assert do(settled(module(**LOAD), dropins=(BOOT, PROBE))) == []


@pytest.mark.parametrize(
    "snapshot",
    [
        settled(dropins=(BOOT,)),
        change(world(dropins=(BOOT,)), modules={}, inputs={}),
        settled(module(module={"enabled": False}, **LOAD), records={}, dropins=(BOOT,)),
    ],
    ids=["no longer in the file", "unregistered", "disabled"],
)
def test_dropin_that_is_not_wanted_is_removed(snapshot: Snapshot) -> None:
    assert do(snapshot) == [RemoveDropin(BOOT, "no longer wanted")]


@pytest.mark.parametrize("name", ["m", "other"])
def test_dropins_of_a_module_whose_file_is_broken_stay(name: str) -> None:
    file = broken(name, "/etc/kmodd/modules.d/m.toml")
    assert do(change(settled(dropins=(BOOT,)), modules={}, broken=(file,))) == []


def test_override_is_written_only_for_kernels_with_their_own_copy() -> None:
    own = kernel(K2, in_tree=frozenset({"m"}))
    snapshot = settled(kernels=(kernel(), own))
    (override,) = dropins(module(), {K2: {"m"}})
    assert override.kernels == (K2,)
    assert do(snapshot) == [WriteDropin(override, "is missing"), RunDepmod(K2, "overrides change")]


def test_an_override_names_the_object_as_its_file_is_named() -> None:
    own = kernel(K, in_tree=frozenset({"a_b"}))
    records = {T: record(built=built("a-b"), installed=installed("a-b"))}
    (override,) = dropins(module(), {K: {"a-b"}})
    assert WriteDropin(override, "is missing") in do(world(kernels=(own,), records=records))
    assert f"override a-b {exactly(K)} extra/m\n" in override.content


def test_override_for_a_kernel_that_is_gone_is_removed() -> None:
    (override,) = dropins(module(), {K2: {"m"}})
    assert do(settled(dropins=(override,))) == [RemoveDropin(override, "no longer wanted")]


def test_foreign_dropin_of_a_removed_kernel_needs_no_depmod_elsewhere() -> None:
    old = Dropin("depmod", "gone", f"# Generated by kmodd\noverride x {exactly(K2)} extra/gone\n", (K2,))
    snapshot = settled(kernels=(kernel(), kernel(K2)), dropins=(old,))
    assert do(snapshot) == [RemoveDropin(old, "no longer wanted"), RunDepmod(K2, "overrides change")]


# -- kernels ---------------------------------------------------------------------------------------------------------
def judged(required: Verdict, optional: Verdict) -> Judgement:
    snapshot = world(module("a"), module("b", module={"required": False}))
    judgements = {A: Judgement(required, "ra"), B: Judgement(optional, "rb")}
    return judge_kernel(K, snapshot, judgements)


@pytest.mark.parametrize(
    ("required", "optional", "verdict", "reason"),
    [
        (Verdict.READY, Verdict.FAILED, Verdict.READY, "1 required module ready"),
        (Verdict.FAILED, Verdict.READY, Verdict.FAILED, "a: ra"),
        (Verdict.WAITING, Verdict.FAILED, Verdict.WAITING, "a: ra"),
        (Verdict.BLOCKED, Verdict.READY, Verdict.BLOCKED, "a: ra"),
        (Verdict.EXCLUDED, Verdict.FAILED, Verdict.READY, "nothing is required of it"),
    ],
)
def test_kernel_is_as_good_as_its_required_modules(
    required: Verdict, optional: Verdict, verdict: Verdict, reason: str
) -> None:
    assert judged(required, optional) == Judgement(verdict, reason)


def test_kernel_with_a_broken_file_is_failed() -> None:
    snapshot = change(settled(), modules={}, broken=(broken(),))
    found = judge_kernel(K, snapshot, judge(snapshot, POLICY, NOW))
    assert (found.verdict, found.problem) == (Verdict.FAILED, BROKEN.problem)


def test_kernel_counts_its_ready_modules_and_no_other_kernels_ones() -> None:
    snapshot = settled(module("a"), module("b"), kernels=(kernel(), kernel(K2)))
    judgements = judge(snapshot, POLICY, NOW)
    judgements[Target("a", K2)] = Judgement(Verdict.FAILED, "x")
    assert judge_kernel(K, snapshot, judgements) == Judgement(Verdict.READY, "2 required modules ready")
    assert judge_kernel(K2, snapshot, judgements).verdict is Verdict.FAILED


def test_worst_of_equals_is_the_first() -> None:
    first, second = Judgement(Verdict.FAILED, "1"), Judgement(Verdict.FAILED, "2")
    assert worst([Judgement(Verdict.READY, "0"), first, second]) is first
    assert worst([]).verdict is Verdict.READY


def test_fingerprint_does_not_hang_on_order() -> None:
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"}) != fingerprint({"a": "2", "b": "1"})


def test_signer_state_names_the_key_or_what_is_wrong_with_it() -> None:
    assert [s.state for s in (SIGNER, SIGNING, Signer())] == ["key1", "signing-key-unreadable", "absent"]


# -- recipes: what a dkms.conf says for a kernel ---------------------------------------------------------------------
def recipe(name: str, **more: Any) -> Recipe:
    return Recipe(name=name, version="1", **more)


def test_a_recipe_excludes_one_kernel_and_not_another() -> None:
    snapshot = world(kernels=(kernel(), kernel(K2)), recipes={T: recipe("m", excluded="x is too old"), T2: recipe("m")})
    assert (verdict(snapshot).verdict, verdict(snapshot).reason) == (Verdict.EXCLUDED, "x is too old: dkms.conf")
    assert [action.target for action in do(snapshot) if isinstance(action, BuildModule)] == [T2]


def test_what_a_recipe_excludes_is_removed() -> None:
    snapshot = settled(recipes={T: recipe("m", excluded="x")})
    assert RemoveModule(T, "x: dkms.conf") in do(snapshot)


def test_a_recipe_depends_on_others_for_its_kernel_alone() -> None:
    recipes = {Target("a", K): recipe("a", depends=("b",))}
    snapshot = world(module("a"), module("b"), kernels=(kernel(), kernel(K2)), recipes=recipes)
    builds = {action.target: action.after for action in do(snapshot) if isinstance(action, BuildModule)}
    assert builds[Target("a", K)] == (Target("b", K),)
    assert builds[Target("a", K2)] == ()


def test_recipes_that_depend_on_each_other_fail() -> None:
    recipes = {Target(one, K): recipe(one, depends=(other,)) for one, other in (("a", "b"), ("b", "a"))}
    snapshot = world(module("a"), module("b"), recipes=recipes)
    assert {verdict(snapshot, Target(name, K)).problem for name in "ab"} == {"depends-cycle"}
