"""The metrics as a Prometheus client reads them, and the line for those who log in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from worlds import (
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
    settings_of,
    settled,
    world,
)

from kmodd.alert import Alerts
from kmodd.alert.metrics import HELP, _labels, render
from kmodd.alert.motd import line
from kmodd.core.model import Snapshot, Target, Verdict
from kmodd.core.planner import judge
from kmodd.core.report import Report, make_report
from kmodd.core.sysroot import Sysroot

WAITING = world(kernels=(kernel(build_tree=None, build_tree_fault=MISSING),))
FAILED = world(records={T: record(built=None, installed=None, attempt=failed(failures=3))})


def report(snapshot: Snapshot) -> Report:
    return make_report(snapshot, judge(snapshot, POLICY, NOW), NOW, None)


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the samples of each metric."""
    families = list(text_string_to_metric_families(text))
    assert all(family.type == "gauge" and family.documentation for family in families)
    return {f.name: [(sample.labels, sample.value) for sample in f.samples] for f in families}


def test_ready_target_is_told_in_full() -> None:
    snapshot = settled(kernels=(kernel(running=True, default_boot=True), kernel(K2)))
    snapshot = change(snapshot, records={T: record(attempt=failed(outcome="succeeded", began=900, ended=912.5))})
    found = read(render(report(snapshot)))
    assert found["kmodd_last_look_timestamp_seconds"] == [({}, NOW)]
    assert found["kmodd_module_files_broken"] == [({}, 0)]
    assert found["kmodd_kernel_ready"] == [
        ({"kernel": K, "running": "true", "default_boot": "true"}, 1),
        ({"kernel": K2, "running": "false", "default_boot": "unknown"}, 0),
    ]
    assert ({"module": "m", "kernel": K, "required": "true"}, 1) in found["kmodd_target_ready"]
    assert found["kmodd_build_duration_seconds"] == [({"module": "m", "kernel": K}, 12.5)]
    assert found["kmodd_build_failures"] == [({"module": "m", "kernel": K}, 0)]


def test_one_verdict_of_each_target_is_1() -> None:
    found = read(render(report(FAILED)))["kmodd_target_verdict"]
    expected = {verdict.value: float(verdict is Verdict.FAILED) for verdict in Verdict}
    assert {labels["verdict"]: value for labels, value in found} == expected
    assert read(render(report(FAILED)))["kmodd_build_failures"] == [({"module": "m", "kernel": K}, 3)]


def test_excluded_and_optional_targets_raise_no_alarm() -> None:
    snapshot = change(
        world(),
        modules={"m": module("m", kernels={"match": ("5.*",)}), "n": module("n", module={"required": False})},
    )
    found = read(render(report(snapshot)))
    assert found["kmodd_target_ready"] == [({"module": "n", "kernel": K, "required": "false"}, 0)]
    assert ({"module": "m", "kernel": K, "verdict": "excluded"}, 1) in found["kmodd_target_verdict"]


def test_every_metric_has_help_and_type_even_without_samples() -> None:
    text = render(report(Snapshot()))
    assert [name for name in HELP if f"# HELP {name} " not in text or f"# TYPE {name} gauge\n" not in text] == []
    read(text)


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc",), include_characters='\n\\"')))
def test_labels_survive_whatever_they_hold(text: str) -> None:
    (family,) = text_string_to_metric_families(f"m{_labels({'kernel': text})} 1\n")
    assert family.samples[0].labels == {"kernel": text}


# -- files -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def alerts(tmp_path: Path) -> Alerts:
    settings = settings_of('[metrics]\ntextfile = "/var/metrics/kmodd.prom"\n')
    return Alerts(Sysroot(tmp_path), settings, lambda _: (0, 0))


def test_files_follow_the_reports(alerts: Alerts, tmp_path: Path) -> None:
    textfile, motd = tmp_path / "var/metrics/kmodd.prom", tmp_path / "run/motd.d/kmodd"
    alerts(None, report(WAITING))
    assert 'verdict="waiting"} 1' in textfile.read_text()
    assert motd.read_text() == f"kmodd: not ready: m on {K} (waiting). See: kmoddctl status\n"
    assert (textfile.stat().st_mode & 0o777, motd.stat().st_mode & 0o777) == (0o644, 0o644)
    before = motd.stat().st_ino
    alerts(None, report(WAITING))
    assert motd.stat().st_ino == before
    alerts(None, report(settled()))
    assert 'verdict="ready"} 1' in textfile.read_text() and not motd.exists()


def test_link_in_a_directory_of_others_is_replaced_and_not_followed(alerts: Alerts, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "var/metrics").mkdir(parents=True)
    (tmp_path / "var/metrics/kmodd.prom").symlink_to(victim)
    alerts(None, report(settled()))
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "var/metrics/kmodd.prom").is_symlink()


def test_file_that_cannot_be_written_is_told_once_and_stops_no_other(
    alerts: Alerts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "var").write_text("no directory")
    for _ in range(2):
        alerts(None, report(WAITING))
    assert capsys.readouterr().out.count("alert not written") == 1
    assert (tmp_path / "run/motd.d/kmodd").exists()


def two(**facts: Any) -> Snapshot:
    """Return a snapshot with many modules that are not ready on two kernels, of which the older boots next."""
    names = [f"m{n}" for n in range(4)]
    return change(
        world(kernels=(kernel(default_boot=True), kernel(K2, default_boot=False))),
        modules={name: module(name) for name in names},
        inputs={Target(name, release): {"source": name} for name in names for release in (K, K2)},
        **facts,
    )


def test_motd_names_what_boots_next_first_and_not_too_much() -> None:
    text = line(report(two(broken=(broken("zz"),))))
    marked = "which boots next"
    assert text == (
        f"kmodd: not ready: zz on {K} (failed, {marked}), 4 modules on {K} (building, {marked}), "
        f"zz on {K2} (failed) and 1 more. See: kmoddctl status\n"
    )
    assert line(report(settled())) == "" == line(report(Snapshot()))
