"""Nothing is green that is not: what no target tells of is told wherever an administrator looks, on real roots."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from world import World

pytestmark = pytest.mark.system


def mistype(world: World) -> None:
    registered = world.registry("alpha")
    registered.write_text(registered.read_text() + '[kernels]\nmatch = ["6.21.*"]\n')


def leave(world: World) -> None:
    world.registry("alpha").with_suffix(".toml.rpmnew").write_text("[source]\n")
    world.registry("beta").with_suffix(".patches").mkdir()  # which is no mistake


def replace_key(world: World) -> None:
    key = world.root / "etc/kmodd/keys/signing.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    key.chmod(0o600)


CASES: dict[str, tuple[Callable[[World], None], str, str]] = {
    "rules": (mistype, "kernels-unmatched", "alpha is built for no kernel: kernels.match (6.21.*) matches none"),
    "file": (leave, "module-file-unread", "/etc/kmodd/modules.d/alpha.toml.rpmnew is not read"),
    "key": (replace_key, "signing-key-mismatch", "do not belong together"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_no_target_tells_of_is_told_everywhere(built: World, case: str) -> None:
    assert built.ctl("check").returncode == 0 and built.status()["warnings"] == []
    spoil, problem, text = CASES[case]
    spoil(built)
    (row,) = built.status()["warnings"]
    assert row["problem"] == problem and text in row["message"] and row["hint"]
    assert text in " ".join(built.ctl("status").stdout.split())
    checked = built.ctl("check")
    assert checked.returncode == 1 and text in checked.stdout.splitlines()[0]
    gate = built.ctl("gate", "--json")
    assert text in gate.stderr and gate.returncode == 0
    assert [w["problem"] for w in json.loads(gate.stdout)["warnings"]] == [problem]
    told = json.loads(built.ctl("doctor", "--json").stdout)["checks"]
    assert any(text in finding["text"] and finding["level"] != "ok" for finding in told)
    built.ctl("sync")
    assert text in (built.root / "run/motd.d/kmodd").read_text()


def test_enabling_a_module_whose_rules_match_no_kernel_warns(built: World) -> None:
    mistype(built)
    assert built.ctl("disable", "alpha").stderr == ""
    done = built.ctl("enable", "alpha")
    assert done.returncode == 0 and "alpha is built for no kernel" in done.stderr
