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
    NOW,
    POLICY,
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
)

from kmodd.core.actions import Action, InstallModule, RemoveModule, RunDepmod, Wait
from kmodd.core.model import Check, Fault, Judgement, Signer, Snapshot, Target, Verdict
from kmodd.core.planner import install_inputs, judge
from kmodd.core.record import Installed
from kmodd.core.remedy import Remedy


def install(reason: str) -> list[Action]:
    return [InstallModule(T, reason), RunDepmod(K, "objects are installed")]


def remove(reason: str, target: Target = T) -> list[Action]:
    return [RemoveModule(target, reason), RunDepmod(target.kernel, "objects are removed")]


def changed(**inputs: str) -> Snapshot:
    return settled(inputs={T: {**INPUTS, **inputs}})


GONE = kernel(present=False)
STALE = kernel(depmod_stale="modules.dep lists x, which is gone")
PASSED = Check("m", "index", "passed", "is found")
OPEN = Fault("source-unsafe", "m.toml belongs to uid 1000", "chown it")
SIGNING = Signer(fault=Fault("signing-key-unreadable", "the key cannot be read", "chmod it"))
FIRST = Signer(fault=Fault("signing-key-absent", "no key yet", ""))
NO_DEVEL = kernel(build_tree=None, build_tree_fault=MISSING)
INSTALL_FAILED = failed("install", inputs=install_inputs(T, settled()), problem="signing-failed", message="no")

Case = tuple[str, Snapshot, list[Action], Optional[Verdict], str]

#: (name, snapshot, actions, verdict of m for K, a part of its reason)
CASES: list[Case] = [
    ("first build", world(), build(), Verdict.BUILDING, "is to be built: never built"),
    ("up to date", settled(), [], Verdict.READY, "built, installed and checked"),
    ("no module", change(world(), modules={}, inputs={}), [], None, ""),
    ("no kernel", change(world(), kernels={}, inputs={}), [], None, ""),
    (
        "built, not installed",
        settled(records={T: record(installed=None)}),
        install("not installed"),
        Verdict.BUILDING,
        "not installed",
    ),
    (
        "left to the kernel's own",
        settled(records={T: record(installed=None)}, left={T: {"m": "the kernel's is newer"}}),
        [],
        Verdict.EXCLUDED,
        "the kernel's is newer",
    ),
    (
        "left to the kernel's own when it was installed",
        settled(left={T: {"m": "the kernel's is newer"}}),
        install("the kernel's own is as new"),
        Verdict.BUILDING,
        "the kernel's own is as new",
    ),
    (
        "left to the kernel's own, and taken out",
        settled(records={T: record(installed=Installed())}, left={T: {"m": "the kernel's is newer"}}),
        [],
        Verdict.EXCLUDED,
        "the kernel's is newer",
    ),
    (
        "left to the kernel's own, and interrupted when it was taken out",
        settled(
            records={T: record(installed=Installed(superseded=("/lib/modules/x/extra/m/m.ko",)))},
            left={T: {"m": "the kernel's is newer"}},
        ),
        install("an interrupted installation is to be finished"),
        Verdict.BUILDING,
        "an interrupted installation is to be finished",
    ),
    (
        "no longer left to the kernel's own",
        settled(records={T: record(installed=Installed())}),
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
        change(settled(), kernels={}, inputs={}),
        [RemoveModule(T, "the kernel was removed")],
        None,
        "",
    ),
    ("unregistered", change(settled(), modules={}), remove("the module is no longer registered"), None, ""),
    (
        "failed build of an unregistered module",
        change(world(), modules={}, records={T: record(built=None, installed=None, attempt=failed())}),
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
        change(settled(), modules={}, inputs={}),
        remove("the module is no longer registered"),
        None,
        "",
    ),
    ("broken file, installed", change(settled(), modules={}, broken=(broken(),)), [], Verdict.FAILED, BROKEN.message),
    (
        "file that others can change, installed",
        change(settled(), modules={}, broken=(replace(broken("x", "/etc/kmodd/modules.d/m.toml"), fault=OPEN),)),
        [],
        Verdict.READY,
        f"installed; {OPEN.message}",
    ),
    (
        "file that others can change, installed object changed",
        change(settled(), modules={}, broken=(replace(broken(), fault=OPEN),), damaged={T: "is gone"}),
        [],
        Verdict.FAILED,
        OPEN.message,
    ),
    (
        "broken file of another name",  # module.name differs from the file's stem; the record knows the file
        change(settled(), modules={}, broken=(broken("x", "/etc/kmodd/modules.d/m.toml"),)),
        [],
        None,
        "",
    ),
    (
        "another file is broken",
        change(settled(), modules={}, broken=(broken("x"),)),
        remove("the module is no longer registered"),
        None,
        "",
    ),
    (
        "broken file, kernel gone",
        change(settled(kernels=(GONE,), records={T: record()}), modules={}, broken=(broken(),)),
        [RemoveModule(T, "the kernel was removed")],
        None,
        "",
    ),
    # the build tree
    (
        "kernel-devel missing",
        world(kernels=(NO_DEVEL,)),
        [Wait(T, MISSING.message, MISSING.problem, MISSING.hint, remedy=Remedy("fetch-devel", K))],
        Verdict.WAITING,
        "kernel-devel",
    ),
    (
        "kernel-devel removed after installation",
        change(settled(), kernels={K: NO_DEVEL}, inputs={}),
        [],
        Verdict.READY,
        "installed; kernel-devel",
    ),
    (
        "kernel-devel removed, installed object changed",
        change(settled(damaged={T: "m.ko is gone"}), kernels={K: NO_DEVEL}, inputs={}),
        install("m.ko is gone"),
        Verdict.BUILDING,
        "m.ko is gone",
    ),
    (
        "kernel-devel removed, built and not installed",
        settled(kernels=(NO_DEVEL,), records={T: record(installed=None)}),
        [Wait(T, MISSING.message, MISSING.problem, MISSING.hint, remedy=Remedy("fetch-devel", K))],
        Verdict.WAITING,
        "kernel-devel",
    ),
    (
        "source unreadable",
        change(world(), inputs={}, input_faults={T: Fault("source-missing", "it does not exist")}),
        [],
        Verdict.FAILED,
        "it does not exist",
    ),
    (
        "source gone after installation",
        change(settled(), inputs={}, input_faults={T: Fault("source-missing", "it does not exist")}),
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
        "failed, and asked for again",
        world(records={T: record(built=None, installed=None, attempt=failed(), asked=True)}),
        build(),
        Verdict.BUILDING,
        "never built",
    ),
    (
        "up to date, and asked for again",
        settled(records={T: record(asked=True)}),
        build(reason="a rebuild was asked for"),
        Verdict.BUILDING,
        "a rebuild was asked for; the previous build stays installed",
    ),
    (
        "asked for again without a build tree",
        settled(kernels=(NO_DEVEL,), inputs={}, records={T: record(asked=True)}),
        [],
        Verdict.READY,
        "installed; ",
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
    ("another key", settled(signer=Signer("key2")), install("signed by another key"), Verdict.READY, "another key"),
    (
        "signed, kernel without signatures",
        settled(kernels=(kernel(signature_hash=""),)),
        install("signed by another key"),
        Verdict.READY,
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
        "depmod stale, and all checks passed",
        settled(kernels=(STALE,), checks={T: (PASSED,)}),
        [RunDepmod(K, "modules.dep lists x, which is gone")],
        Verdict.READY,
        "installed and checked; depmod is to run: modules.dep lists x, which is gone",
    ),
    (
        "depmod stale, and modprobe would not find it",
        settled(kernels=(STALE,), checks={T: (PASSED, Check("m", "name", "failed", "is not found", "x"))}),
        [RunDepmod(K, "modules.dep lists x, which is gone")],
        Verdict.BUILDING,
        "depmod is to run: modules.dep lists x, which is gone",
    ),
    (
        "depmod stale, and one check could not tell",
        settled(kernels=(STALE,), checks={T: (PASSED, Check("m", "name", "untold", "cannot be determined"))}),
        [RunDepmod(K, "modules.dep lists x, which is gone")],
        Verdict.BUILDING,
        "depmod is to run: modules.dep lists x, which is gone",
    ),
    (
        "depmod stale, nothing of ours installed",
        change(world(kernels=(kernel(depmod_stale="modules.dep is missing"),)), modules={}),
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
    remedy = Remedy("fetch-devel", K2)
    assert do(snapshot) == [*build(), Wait(T2, MISSING.message, MISSING.problem, MISSING.hint, remedy=remedy)]
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


@pytest.mark.parametrize("ahead", [0.1, 60, 5 * 3600, 1e9])
@pytest.mark.parametrize("failures", [1, 7])
def test_failure_of_a_clock_that_was_ahead_is_not_waited_for(ahead: float, failures: int) -> None:
    last = failed(transient=True, failures=failures, ended=NOW + ahead)
    assert do(world(records={T: record(built=None, installed=None, attempt=last)})) == build()
    last = failed("install", True, failures, inputs=install_inputs(T, settled()), ended=NOW + ahead)
    assert do(settled(records={T: record(installed=None, attempt=last)})) == install("not installed")
    last = failed("install", True, failures, problem="depmod-failed", ended=NOW + ahead)
    assert do(settled(kernel_attempts={K: last})) == [RunDepmod(K, "the last one failed")]


def test_changed_input_ends_a_pause() -> None:
    last = failed(transient=True, inputs={**INPUTS, "source": "old"})
    assert do(world(records={T: record(built=None, installed=None, attempt=last)})) == build()


@pytest.mark.parametrize(("failures", "paused"), [(1, False), (2, True)])
def test_source_that_changes_at_every_copy_is_not_copied_without_pause(failures: int, paused: bool) -> None:
    last = failed(transient=True, failures=failures, problem="source-changed", inputs={**INPUTS, "source": "old"})
    snapshot = world(records={T: record(built=None, installed=None, attempt=last)})
    assert do(snapshot) == ([Wait(T, last.message, last.problem, "", NOW + 120)] if paused else build())
    assert do(snapshot, NOW + 120) == build()


def test_depmod_that_failed_runs_again_after_its_pause() -> None:
    last = failed("install", True, 2, problem="depmod-failed", message="depmod: no")
    snapshot = settled(kernel_attempts={K: last})
    assert do(snapshot, NOW + 119) == [Wait(T, "depmod: no", "depmod-failed", "", NOW + 120)]
    assert do(snapshot, NOW + 120) == [RunDepmod(K, "the last one failed")]
