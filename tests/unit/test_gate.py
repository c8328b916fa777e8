"""What a snapshot means for a reboot and for a monitoring system."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
from worlds import K2, MISSING, NOW, POLICY, K, T, broken, change, failed, kernel, module, parts, record, settled, world

from kmodd.core.errors import Problem
from kmodd.core.model import Fault, Snapshot, Target
from kmodd.core.planner import judge, plan
from kmodd.core.settings import Settings
from kmodd.core.sysroot import Sysroot
from kmodd.ctl import check, daemonunit, gate
from kmodd.ctl.inprocess import Observed

FAULT = {T: (Fault("object-shadowed", "another file would be loaded", "remove it"),)}
OTHER = Target("other", K)
WAITING = world(kernels=(kernel(build_tree=None, build_tree_fault=MISSING),))
FAILED = world(records={T: record(built=None, installed=None, attempt=failed())})
RETRIED = world(records={T: record(built=None, installed=None, attempt=failed(transient=True))})
BLOCKED = settled(faults=FAULT)


def with_other(snapshot: Snapshot, **tables: Any) -> Snapshot:
    """Return a snapshot with a further module that was never built."""
    return change(
        snapshot,
        modules={**snapshot.modules, "other": module("other", **tables)},
        inputs={**parts(snapshot, "inputs"), OTHER: {"source": "other"}},
    )


def seen(snapshot: Snapshot, holder: Optional[str] = "kmodd (pid 1)") -> Observed:
    return Observed(
        Sysroot(Path("/nowhere")), Settings(), snapshot, plan(snapshot, POLICY, NOW), judge(snapshot, POLICY, NOW),
        holder, NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("snapshot", "transaction", "is_open", "hopeless"),
    [
        (settled(), None, True, False),
        (settled(), 12, False, False),
        (world(), None, False, False),
        (WAITING, None, False, False),
        (FAILED, None, False, True),
        (FAILED, 12, False, False),
        (RETRIED, None, False, False),
        (BLOCKED, None, False, True),
        (with_other(BLOCKED), None, False, False),
        (with_other(FAILED), None, False, True),
        (with_other(settled()), None, False, False),
        (with_other(settled(), module={"required": False}), None, True, False),
        (change(settled(), modules={}), None, True, False),
        (change(settled(), modules={}, broken=(broken(),)), None, False, True),
    ],
    ids=[
        "ready", "in a transaction", "building", "waiting", "failed", "failed in a transaction", "tried again",
        "blocked", "blocked while another is built", "failed while another is built", "another is built",
        "an optional one is built", "nothing registered", "broken module file",
    ],
)  # fmt: skip
def test_gate_opens_when_every_required_module_is_ready_and_gives_up_where_only_a_human_helps(
    snapshot: Snapshot, transaction: Optional[int], is_open: bool, hopeless: bool
) -> None:
    finding = gate.find(seen(snapshot), None, transaction)
    assert (finding.is_open, finding.hopeless) == (is_open, hopeless)


def kernels(*facts: dict[str, Any]) -> Snapshot:
    made = [kernel(**fact) for fact in facts]
    return Snapshot(kernels={k.release: k for k in made})


@pytest.mark.parametrize(
    ("facts", "asked", "chosen"),
    [
        (({"release": "6.1.9"}, {"release": "6.1.10"}), None, ("6.1.10", "newest")),
        (({"release": "6.1.9"}, {"release": "6.1.10"}), "6.1.9", ("6.1.9", "option")),
        (({"release": "6.1.9"}, {"release": "6.1.10", "present": False}), None, ("6.1.9", "newest")),
        (
            ({"release": "6.1.9", "running": True}, {"release": "6.1.10+debug", "flavour": "debug"}),
            None,
            ("6.1.9", "newest"),
        ),
        (({"release": "6.1.9", "running": True, "flavour": "rt"}, {"release": "6.1.10"}), None, ("6.1.9", "newest")),
        (({"release": "6.1.9", "default_boot": True}, {"release": "6.1.10"}), None, ("6.1.9", "default-boot")),
        (({"release": "6.1.10+debug", "flavour": "debug"},), None, ("6.1.10+debug", "newest")),
    ],
)
def test_gate_looks_at_the_kernel_asked_for_else_at_the_newest_of_the_running_flavour(
    facts: tuple[dict[str, Any], ...], asked: Optional[str], chosen: tuple[str, str]
) -> None:
    assert gate.choose_kernel(kernels(*facts), asked) == chosen


@pytest.mark.parametrize(("asked", "hint"), [("6.1.8", "did you mean 6.1.9?"), (None, "")])
def test_gate_stays_shut_for_kernels_that_are_gone(asked: Optional[str], hint: str) -> None:
    snapshot = kernels({"release": "6.1.9", "present": asked is not None}, {"release": "6.1.8", "present": False})
    with pytest.raises(Problem, match="installed") as caught:
        gate.choose_kernel(snapshot, asked)
    assert caught.value.code == ("kernel-unknown" if asked else "kernel-missing") and hint in caught.value.hint


def test_wait_takes_time_spans_and_refuses_others() -> None:
    assert [gate._span(text) for text in (None, "90", "90s", "30min", "1h")] == [0, 90, 90, 1800, 3600]
    with pytest.raises(Problem, match=r"--wait must be a time span .* 'soon'") as caught:
        gate._span("soon")
    assert caught.value.code == "usage-wait"


# -- check -----------------------------------------------------------------------------------------------------------
def asked(**options: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"kernel": None, "default": False, "all": False, **options})


OLD_WAITS = change(
    settled(kernels=(kernel(build_tree=None, build_tree_fault=MISSING), kernel(K2))),
    records={Target("m", K2): record(release=K2)},
    inputs={Target("m", K2): dict(record().built.inputs)},  # type: ignore[union-attr]
)
OLD_RUNS = replace(OLD_WAITS, kernels={**OLD_WAITS.kernels, K: replace(OLD_WAITS.kernels[K], running=True)})


@pytest.mark.parametrize(
    ("snapshot", "options", "holder", "transaction", "state"),
    [
        (settled(), {}, True, None, check.OK),
        (settled(), {}, False, None, check.OK),
        (Snapshot(), {}, True, None, check.OK),
        (world(), {}, True, None, check.WARNING),
        (world(), {}, False, None, check.CRITICAL),
        (WAITING, {}, True, None, check.CRITICAL),
        (WAITING, {}, True, 12, check.WARNING),
        (FAILED, {}, True, None, check.CRITICAL),
        (BLOCKED, {}, True, None, check.CRITICAL),
        (OLD_WAITS, {}, True, None, check.WARNING),
        (OLD_WAITS, {"default": True}, True, None, check.OK),
        (OLD_WAITS, {"kernel": K2}, True, None, check.OK),
        (OLD_WAITS, {"kernel": K}, True, None, check.CRITICAL),
        (OLD_WAITS, {"all": True}, True, None, check.CRITICAL),
        (OLD_RUNS, {}, True, None, check.CRITICAL),
        (with_other(settled(), module={"required": False}), {}, False, None, check.WARNING),
        (change(settled(), modules={}, broken=(broken(),)), {}, True, None, check.CRITICAL),
    ],
)
def test_check_grades_by_kernel_and_verdict(
    snapshot: Snapshot, options: dict[str, Any], holder: bool, transaction: Optional[int], state: int
) -> None:
    answer = check.grade(seen(snapshot, "kmodd (pid 1)" if holder else None), asked(**options), transaction)
    assert answer.state == state, answer


def test_check_prints_one_line_with_performance_data_and_then_details() -> None:
    answer = check.grade(seen(OLD_RUNS), asked(), None)
    first, *details = check.as_text(answer).splitlines()
    assert first == (
        f"KMODD CRITICAL - {K} (running): m waiting | "
        "ready=1;;;0;2 building=0;;;0;2 waiting=1;;;0;2 blocked=0;;;0;2 failed=0;;;0;2"
    )
    assert details == [
        f"CRITICAL: m on {K}: waiting, kernel-devel for {K} is not installed -> dnf install kernel-devel"
    ]
    text = check.as_text(check.grade(seen(settled()), asked(), None))
    assert text.startswith("KMODD OK - 1 ready on 1 kernel | ready=1")


def test_check_keeps_what_would_break_its_format_out_of_the_text() -> None:
    text = check.as_text(check.Answer(check.UNKNOWN, "a | b\nc", details=("d | e\r\nf\x1b[2J",)))
    assert text == "KMODD UNKNOWN - a / b c\nd / e f\\x1b[2J"
    assert not re.search(r"\|", text)


UNITS = {
    "attended": (daemonunit.UnitState("disabled", "inactive"), False, check.OK),
    "no unit": (daemonunit.UnitState("", "inactive"), False, check.OK),
    "no systemd": (None, False, check.OK),
    "runs": (daemonunit.UnitState("enabled", "active"), True, check.OK),
    "restarts": (daemonunit.UnitState("enabled", "activating"), False, check.OK),
    "stopped": (daemonunit.UnitState("enabled", "inactive"), False, check.WARNING),
    "stopped, and a kernel is held": (daemonunit.UnitState("enabled", "inactive"), True, check.CRITICAL),
    "failed": (daemonunit.UnitState("enabled", "failed"), False, check.CRITICAL),
}


@pytest.mark.parametrize("case", UNITS)
def test_dead_daemon_of_an_unattended_host_is_no_ok(case: str) -> None:
    unit, holds, state = UNITS[case]
    answer = check.with_unit(check.grade(seen(settled(), None), asked(), None), unit, holds)
    assert answer.state == state
    assert ("so that new kernels get no modules" in answer.text) == bool(state)
    assert bool(answer.details) == bool(state)


def test_kernel_is_held_by_what_status_says() -> None:
    assert not check.has_held({"kernels": [{"release": K}, {"release": K2, "held": None}]})
    assert check.has_held({"kernels": [{"release": K, "held": 0.0}]})
