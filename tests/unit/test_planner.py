"""What is due for which snapshot, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest
from worlds import (
    BROKEN,
    INPUTS,
    K2,
    MISSING,
    SIGNER,
    K,
    T,
    broken,
    built,
    failed,
    installed,
    kernel,
    module,
    record,
    settled,
    world,
)  # fmt: skip

from kmodd.loading import dropins
from kmodd.model import (
    Action,
    BuildModule,
    Dropin,
    Fault,
    InstallModule,
    Judgement,
    Policy,
    RemoveDropin,
    RemoveModule,
    RunDepmod,
    Signer,
    Snapshot,
    Target,
    Verdict,
    Wait,
    WriteDropin,
    fingerprint,
    worst,
)
from kmodd.planner import install_inputs, judge, judge_kernel, plan

NOW = 1000.0
POLICY = Policy(retry_first=60, retry_longest=3600)
T2 = Target("m", K2)


def do(snapshot: Snapshot, now: float = NOW) -> list[Action]:
    return list(plan(snapshot, POLICY, now))


def verdict(snapshot: Snapshot, target: Target = T, now: float = NOW) -> Judgement:
    return judge(snapshot, POLICY, now)[target]


def build(target: Target = T, reason: str = "never built for this kernel", **more: Any) -> list[Action]:
    return [
        BuildModule(target, reason, {**INPUTS, **more.pop("inputs", {})}, **more),
        InstallModule(target, "once it is built"),
        RunDepmod(target.kernel, "objects are installed"),
    ]


def install(reason: str) -> list[Action]:
    return [InstallModule(T, reason), RunDepmod(K, "objects are installed")]


def remove(reason: str, target: Target = T) -> list[Action]:
    return [RemoveModule(target, reason), RunDepmod(target.kernel, "objects are removed")]


def changed(**inputs: str) -> Snapshot:
    return settled(inputs={T: {**INPUTS, **inputs}})


GONE = kernel(present=False)
SIGNING = Signer(fault=Fault("signing-key-unreadable", "the key cannot be read", "chmod it"))
FIRST = Signer(fault=Fault("signing-key-absent", "no key yet", ""))
NO_DEVEL = kernel(build_tree=None, build_tree_fault=MISSING)
INSTALL_FAILED = failed("install", inputs=install_inputs(T, settled()), problem="signing-failed", message="no")

Case = tuple[str, Snapshot, list[Action], Optional[Verdict], str]

#: (name, snapshot, actions, verdict of m for K, a part of its reason)
CASES: list[Case] = [
    ("first build", world(), build(), Verdict.BUILDING, "is to be built: never built"),
    ("up to date", settled(), [], Verdict.READY, "built, installed and checked"),
    ("no module", replace(world(), modules={}, inputs={}), [], None, ""),
    ("no kernel", replace(world(), kernels={}, inputs={}), [], None, ""),
    (
        "built, not installed",
        settled(records={T: record(installed=None)}),
        install("not installed"),
        Verdict.BUILDING,
        "not installed",
    ),
    (
        "running",
        world(running=frozenset({T})),
        build(),
        Verdict.BUILDING,
        "is being built",
    ),
    # what is gone, unregistered, excluded
    (
        "kernel gone",
        settled(kernels=(GONE,), records={T: record()}),
        [RemoveModule(T, "the kernel was removed")],
        None,
        "",
    ),
    (
        "kernel's directory gone",
        replace(settled(), kernels={}, inputs={}),
        [RemoveModule(T, "the kernel was removed")],
        None,
        "",
    ),
    ("unregistered", replace(settled(), modules={}), remove("the module is no longer registered"), None, ""),
    (
        "failed build of an unregistered module",
        replace(world(), modules={}, records={T: record(built=None, installed=None, attempt=failed())}),
        remove("the module is no longer registered"),
        None,
        "",
    ),
    (
        "disabled",
        settled(module(module={"enabled": False})),
        remove("module.enabled is false"),
        Verdict.EXCLUDED,
        "module.enabled is false",
    ),
    ("disabled and never built", world(module(module={"enabled": False})), [], Verdict.EXCLUDED, "enabled is false"),
    (
        "masked",  # a link to /dev/null hides the vendor's file, so the module is not registered
        replace(settled(), modules={}, inputs={}),
        remove("the module is no longer registered"),
        None,
        "",
    ),
    ("broken file, installed", replace(settled(), modules={}, broken=(broken(),)), [], Verdict.FAILED, BROKEN.message),
    (
        "broken file of another name",  # module.name differs from the file's stem; the record knows the file
        replace(settled(), modules={}, broken=(broken("x", "/etc/kmodd/modules.d/m.toml"),)),
        [],
        None,
        "",
    ),
    (
        "another file is broken",
        replace(settled(), modules={}, broken=(broken("x"),)),
        remove("the module is no longer registered"),
        None,
        "",
    ),
    (
        "broken file, kernel gone",
        replace(settled(kernels=(GONE,), records={T: record()}), modules={}, broken=(broken(),)),
        [RemoveModule(T, "the kernel was removed")],
        None,
        "",
    ),
    # the build tree
    (
        "kernel-devel missing",
        world(kernels=(NO_DEVEL,)),
        [Wait(T, MISSING.message, MISSING.problem, MISSING.hint)],
        Verdict.WAITING,
        "kernel-devel",
    ),
    (
        "kernel-devel removed after installation",
        replace(settled(), kernels={K: NO_DEVEL}, inputs={}),
        [],
        Verdict.READY,
        "installed; kernel-devel",
    ),
    (
        "kernel-devel removed, installed object changed",
        replace(settled(damaged={T: "m.ko is gone"}), kernels={K: NO_DEVEL}, inputs={}),
        install("m.ko is gone"),
        Verdict.BUILDING,
        "m.ko is gone",
    ),
    (
        "kernel-devel removed, built and not installed",
        settled(kernels=(NO_DEVEL,), records={T: record(installed=None)}),
        [Wait(T, MISSING.message, MISSING.problem, MISSING.hint)],
        Verdict.WAITING,
        "kernel-devel",
    ),
    (
        "source unreadable",
        replace(world(), inputs={}, input_faults={T: Fault("source-missing", "it does not exist")}),
        [],
        Verdict.FAILED,
        "it does not exist",
    ),
    (
        "source gone after installation",
        replace(settled(), inputs={}, input_faults={T: Fault("source-missing", "it does not exist")}),
        [],
        Verdict.READY,
        "installed; it does not exist",
    ),
    # inputs
    *(
        (
            f"{name} changed",
            changed(**{name: "new"}),
            build(reason=reason, inputs={name: "new"}),
            Verdict.BUILDING,
            reason + "; the previous build stays installed",
        )
        for name, reason in {
            "source": "its source changed",
            "patches": "its patches changed",
            "module": "its module file changed",
            "build_tree": "the kernel's configuration or symvers changed",
            "compiler": "the compiler changed",
        }.items()
    ),
    (
        "two inputs changed",
        changed(source="new", compiler="gcc 13"),
        build(reason="the compiler changed; its source changed", inputs={"source": "new", "compiler": "gcc 13"}),
        Verdict.BUILDING,
        "the compiler changed; its source changed",
    ),
    # attempts
    (
        "failed with these inputs",
        world(records={T: record(built=None, installed=None, attempt=failed())}),
        [],
        Verdict.FAILED,
        "m.c:1: error: x",
    ),
    (
        "failed with these inputs, an older build is installed",
        settled(records={T: record(built=built(inputs={**INPUTS, "source": "old"}), attempt=failed())}),
        [],
        Verdict.FAILED,
        "m.c:1: error: x; the previous build stays installed",
    ),
    (
        "failed with other inputs",
        world(records={T: record(built=None, installed=None, attempt=failed(inputs={**INPUTS, "source": "old"}))}),
        build(),
        Verdict.BUILDING,
        "never built",
    ),
    (
        "failed for a passing reason",
        world(records={T: record(built=None, installed=None, attempt=failed(transient=True))}),
        [Wait(T, "m.c:1: error: x", "build-failed", "", 1060)],
        Verdict.FAILED,
        "m.c:1: error: x",
    ),
    (
        "installation failed",
        settled(records={T: record(installed=None, attempt=INSTALL_FAILED)}),
        [],
        Verdict.FAILED,
        "no",
    ),
    (
        "installation failed with another key",
        settled(records={T: record(installed=None, attempt=INSTALL_FAILED)}, signer=Signer("key2")),
        install("not installed"),
        Verdict.BUILDING,
        "not installed",
    ),
    # signing
    (
        "no key was ever made",
        settled(records={T: record(installed=None)}, signer=FIRST),
        install("not installed"),
        Verdict.BUILDING,
        "not installed",
    ),
    (
        "key unreadable",
        settled(records={T: record(installed=None)}, signer=SIGNING),
        [],
        Verdict.FAILED,
        "the key cannot be read",
    ),
    ("key unreadable, all installed", settled(signer=SIGNING), [], Verdict.READY, "built, installed"),
    (
        "key unreadable, kernel without signatures",
        settled(kernels=(kernel(signature_hash=""),), records={T: record(installed=None)}, signer=SIGNING),
        install("not installed"),
        Verdict.BUILDING,
        "not installed",
    ),
    ("another key", settled(signer=Signer("key2")), install("signed by another key"), Verdict.BUILDING, "another key"),
    (
        "signed, kernel without signatures",
        settled(kernels=(kernel(signature_hash=""),)),
        install("signed by another key"),
        Verdict.BUILDING,
        "another key",
    ),
    # installed objects
    ("damaged", settled(damaged={T: "m.ko is gone"}), install("m.ko is gone"), Verdict.BUILDING, "m.ko is gone"),
    (
        "built anew",
        settled(records={T: record(built=built(sha256="u2"))}),
        install("built anew"),
        Verdict.BUILDING,
        "built anew",
    ),
    (
        "interrupted installation",
        settled(records={T: record(installed=installed().model_copy(update={"superseded": ("/old.ko",)}))}),
        install("an interrupted installation is to be finished"),
        Verdict.BUILDING,
        "interrupted",
    ),
    (
        "compression changed",
        settled(kernels=(kernel(compression="xz"),)),
        install("the kernel's own modules are xz compressed"),
        Verdict.BUILDING,
        "xz compressed",
    ),
    (
        "store lost, installed objects whole",
        settled(store_damaged=frozenset({T})),
        [],
        Verdict.READY,
        "built, installed",
    ),
    (
        "store lost, installed object gone",
        settled(store_damaged=frozenset({T}), damaged={T: "m.ko is gone"}),
        build(reason="its stored objects were lost"),
        Verdict.BUILDING,
        "stored objects were lost",
    ),
    (
        "store lost, not installed",
        settled(store_damaged=frozenset({T}), records={T: record(installed=None)}),
        build(reason="its stored objects were lost"),
        Verdict.BUILDING,
        "stored objects were lost",
    ),
    # depmod
    (
        "depmod stale",
        settled(kernels=(kernel(depmod_stale="modules.dep is missing"),)),
        [RunDepmod(K, "modules.dep is missing")],
        Verdict.BUILDING,
        "depmod is to run: modules.dep is missing",
    ),
    (
        "depmod stale, nothing of ours installed",
        replace(world(kernels=(kernel(depmod_stale="modules.dep is missing"),)), modules={}),
        [],
        None,
        "",
    ),
    (
        "depmod failed a moment ago",
        settled(kernel_attempts={K: failed("install", True, problem="depmod-failed", message="depmod: no")}),
        [Wait(T, "depmod: no", "depmod-failed", "", 1060)],
        Verdict.FAILED,
        "depmod: no",
    ),
    # verify
    (
        "would not load",
        settled(faults={T: (Fault("in-tree-wins", "the kernel's own wins", "do x"), Fault("b", "c"))}),
        [],
        Verdict.BLOCKED,
        "the kernel's own wins",
    ),
]


@pytest.mark.parametrize(
    ("snapshot", "actions", "expected", "reason"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_plan_and_verdict(snapshot: Snapshot, actions: list[Action], expected: Optional[Verdict], reason: str) -> None:
    assert do(snapshot) == actions
    found = judge(snapshot, POLICY, NOW)
    if expected is None:
        assert T not in found
    else:
        assert found[T].verdict is expected
        assert reason in found[T].reason


# -- which kernels ---------------------------------------------------------------------------------------------------
RULES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"match": ("5.*",)}, {}, f"{K} matches none of kernels.match (5.*)"),
    ({"match": ("5.*", "6.1.*")}, {}, ""),
    ({"exclude": ("*+debug",)}, {"release": f"{K}+debug"}, f"{K}+debug matches kernels.exclude (*+debug)"),
    ({"exclude": ("*+debug",)}, {}, ""),
    ({"minimum": "6.2"}, {}, f"{K} is older than kernels.minimum (6.2)"),
    ({"minimum": "6.1"}, {}, ""),
    ({"maximum": "6.0"}, {}, f"{K} is newer than kernels.maximum (6.0)"),
    ({"maximum": "6.10"}, {}, ""),
    ({"architectures": ("aarch64",)}, {}, "x86_64 is not in kernels.architectures (aarch64)"),
    ({"architectures": ("aarch64", "x86_64")}, {}, ""),
    ({"config": ("CONFIG_A",)}, {}, "the kernel lacks CONFIG_A (kernels.config)"),
    ({"config": ("CONFIG_A",)}, {"config": {"CONFIG_A": "n"}}, "the kernel lacks CONFIG_A (kernels.config)"),
    ({"config": ("CONFIG_A",)}, {"config": {"CONFIG_A": "m"}}, ""),
    ({"config": ("!CONFIG_A",)}, {"config": {"CONFIG_A": "y"}}, "the kernel has CONFIG_A (kernels.config)"),
    ({"config": ("!CONFIG_A",)}, {}, ""),
    ({"match": ("6.*",), "config": ("CONFIG_A",)}, {}, "the kernel lacks CONFIG_A (kernels.config)"),
]


@pytest.mark.parametrize(("rules", "facts", "reason"), RULES, ids=[str(r[0]) for r in RULES])
def test_rules_of_kernels_exclude_and_say_why(rules: dict[str, Any], facts: dict[str, Any], reason: str) -> None:
    snapshot = settled(module(kernels=rules), kernels=(kernel(**facts),))
    (target,) = snapshot.records
    if reason:
        assert do(snapshot) == remove(reason, target)
        assert verdict(snapshot, target) == Judgement(Verdict.EXCLUDED, reason)
    else:
        assert do(snapshot) == []
        assert verdict(snapshot, target).verdict is Verdict.READY


def test_every_kernel_is_planned_for_itself() -> None:
    snapshot = world(kernels=(kernel(), kernel(K2, build_tree=None, build_tree_fault=MISSING)))
    assert do(snapshot) == [*build(), Wait(T2, MISSING.message, MISSING.problem, MISSING.hint)]
    assert verdict(snapshot, T2).verdict is Verdict.WAITING


# -- pauses ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("failures", "pause"), [(0, 60), (1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (50, 3600), (5000, 3600)]
)
def test_pause_after_a_passing_failure_doubles_up_to_the_longest(failures: int, pause: int) -> None:
    last = failed(transient=True, failures=failures)
    snapshot = world(records={T: record(built=None, installed=None, attempt=last)})
    assert do(snapshot, NOW) == [Wait(T, last.message, last.problem, "", NOW + pause)]
    assert do(snapshot, NOW + pause - 0.1) == do(snapshot, NOW)
    assert do(snapshot, NOW + pause) == build()


def test_changed_input_ends_a_pause() -> None:
    last = failed(transient=True, inputs={**INPUTS, "source": "old"})
    assert do(world(records={T: record(built=None, installed=None, attempt=last)})) == build()


def test_depmod_that_failed_runs_again_after_its_pause() -> None:
    last = failed("install", True, 2, problem="depmod-failed", message="depmod: no")
    snapshot = settled(kernel_attempts={K: last})
    assert do(snapshot, NOW + 119) == [Wait(T, "depmod: no", "depmod-failed", "", NOW + 120)]
    assert do(snapshot, NOW + 120) == [RunDepmod(K, "the last one failed")]


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


def test_dependant_of_a_failed_module_waits_and_names_it() -> None:
    snapshot = pair(records={B: record("b", built=None, installed=None, attempt=failed())})
    reason = "needs b, which is not built: m.c:1: error: x"
    assert do(snapshot) == [Wait(A, reason, "depends-not-ready")]
    assert verdict(snapshot, A) == Judgement(Verdict.WAITING, reason, "depends-not-ready")


def test_dependency_without_a_source_makes_its_dependant_wait() -> None:
    fault = Fault("source-missing", "it does not exist")
    snapshot = replace(pair(), inputs={A: INPUTS}, input_faults={B: fault})
    assert do(snapshot) == [Wait(A, "the inputs of a module that it depends on are unknown", "depends-not-ready", "")]


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
        replace(world(dropins=(BOOT,)), modules={}, inputs={}),
        settled(module(module={"enabled": False}, **LOAD), records={}, dropins=(BOOT,)),
    ],
    ids=["no longer in the file", "unregistered", "disabled"],
)
def test_dropin_that_is_not_wanted_is_removed(snapshot: Snapshot) -> None:
    assert do(snapshot) == [RemoveDropin(BOOT, "no longer wanted")]


@pytest.mark.parametrize("name", ["m", "other"])
def test_dropins_of_a_module_whose_file_is_broken_stay(name: str) -> None:
    file = broken(name, "/etc/kmodd/modules.d/m.toml")
    assert do(replace(settled(dropins=(BOOT,)), modules={}, broken=(file,))) == []


def test_override_is_written_only_for_kernels_with_their_own_copy() -> None:
    own = kernel(K2, in_tree=frozenset({"m"}))
    snapshot = settled(kernels=(kernel(), own))
    (override,) = dropins(module(), {K2: {"m"}})
    assert f"override m {K2} extra/m" in override.content
    assert K not in override.content
    assert do(snapshot) == [WriteDropin(override, "is missing"), RunDepmod(K2, "overrides change")]


def test_override_for_a_kernel_that_is_gone_is_removed() -> None:
    (override,) = dropins(module(), {K2: {"m"}})
    assert do(settled(dropins=(override,))) == [RemoveDropin(override, "no longer wanted")]


def test_foreign_dropin_of_a_removed_kernel_needs_no_depmod_elsewhere() -> None:
    old = Dropin("depmod", "gone", f"# Generated by kmodd\noverride x {K2} extra/gone\n")
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
    snapshot = replace(settled(), modules={}, broken=(broken(),))
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
