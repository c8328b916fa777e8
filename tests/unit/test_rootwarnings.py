"""What is wrong with a root although no target says so is told, and nothing is told where all is well."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import pytest
from test_gate import seen
from worlds import K2, NOW, POLICY, K, T, kernel, module, settled

from kmodd.alert import motd
from kmodd.core.model import Fault, Snapshot, TargetState
from kmodd.core.planner import judge
from kmodd.core.recipe import Recipe
from kmodd.core.report import make_report
from kmodd.core.rootwarnings import find_warnings, warning_rows
from kmodd.ctl import check

BOTH = {K: kernel(), K2: kernel(K2)}
KEY = Fault("signing-key-missing", "/etc/kmodd/keys/signing.key is gone", "put it back")


def with_rules(more: dict[str, Any], **tables: Any) -> Snapshot:
    return Snapshot(kernels=BOTH, modules={"m": module(kernels=more, **tables)})


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        (with_rules({}), ""),
        (with_rules({"match": ("6.1.0-2.*",)}), ""),
        (with_rules({"match": ("6.1.0-2.*", "6.12.*")}), ""),
        (with_rules({"match": ("6.21.*",)}), "m is built for no kernel: kernels.match (6.21.*) matches none that is"),
        (with_rules({"match": ("6.21.*",)}, module={"enabled": False}), ""),
        (with_rules({"minimum": "7.0"}), "6.1.0-1.el9.x86_64 is older than kernels.minimum (7.0), and so on"),
        (with_rules({"architectures": ("s390x",)}), "x86_64 is not in kernels.architectures (s390x)"),
        (replace(with_rules({"match": ("6.21.*",)}), kernels={}), ""),
        (
            Snapshot(
                kernels={K: kernel()},
                modules={"m": module()},
                targets={T: TargetState(recipe=Recipe(name="m", version="1", excluded="BUILD_EXCLUSIVE_KERNEL"))},
            ),
            "m is built for no kernel: BUILD_EXCLUSIVE_KERNEL",
        ),
    ],
)
def test_module_that_is_excluded_from_every_kernel_is_told(snapshot: Snapshot, said: str) -> None:
    found = find_warnings(snapshot)
    assert len(found) == bool(said)
    for warning in found:
        assert said in warning.fault.message and warning.fault.problem == "kernels-unmatched"
        assert "/etc/kmodd/modules.d/m.toml" in warning.fault.hint


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/etc/kmodd/modules.d/m.conf", "mv /etc/kmodd/modules.d/m.conf /etc/kmodd/modules.d/m.toml"),
        ("/etc/kmodd/modules.d/m", "mv /etc/kmodd/modules.d/m /etc/kmodd/modules.d/m.toml"),
        ("/etc/kmodd/modules.d/m.toml.bak", "mv /etc/kmodd/modules.d/m.toml.bak /etc/kmodd/modules.d/m.toml"),
        ("/etc/kmodd/modules.d/m.toml.rpmnew", "take what you want of it into /etc/kmodd/modules.d/m.toml"),
    ],
)
def test_file_that_is_not_read_is_told_with_what_to_do(path: str, hint: str) -> None:
    (found,) = find_warnings(Snapshot(unread=(path,)))
    assert found.fault.message.startswith(f"{path} is not read") and hint in found.fault.hint


def test_key_that_cannot_sign_matters_where_kernels_know_signatures() -> None:
    assert [w.fault.problem for w in find_warnings(Snapshot(kernels=BOTH, key_fault=KEY))] == ["signing-key-missing"]
    assert not find_warnings(Snapshot(kernels={K: kernel(signature_hash="")}, key_fault=KEY))


def test_check_and_motd_tell_what_they_called_well_before() -> None:
    snapshot = replace(settled(), key_fault=KEY, unread=("/etc/kmodd/modules.d/m.conf",))
    options = argparse.Namespace(kernel=None, default=False, all=False)
    rows = warning_rows(find_warnings(snapshot))
    answer = check.grade(seen(snapshot), options, None, rows)
    assert answer.state == check.WARNING
    assert "warning: nothing can be signed: /etc/kmodd/keys/signing.key is gone (and 1 more)" in answer.text
    assert [line.split(":")[0] for line in answer.details] == ["WARNING"] * 2
    line = motd.line(make_report(snapshot, judge(snapshot, POLICY, NOW), NOW, None))
    assert line.startswith("kmodd: warning: nothing can be signed") and line.count("\n") == 1
    assert motd.line(make_report(settled(), judge(settled(), POLICY, NOW), NOW, None)) == ""
