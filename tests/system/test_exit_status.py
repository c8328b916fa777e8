"""Exit codes tell what a command did, on real roots with real builds."""

from __future__ import annotations

import json
import shutil

import pytest
from world import GOOD, World

pytestmark = pytest.mark.system
LACKING = "obj-m := beta.o\nifeq ($(wildcard $(srctree)/include/lacking.h),)\n$(error no lacking.h)\nendif\n"


@pytest.mark.parametrize("daemon", [False, True], ids=["alone", "daemon"])
def test_rebuild_that_fails_exits_1_though_the_module_stays_ready(built: World, daemon: bool) -> None:
    lack = built.root / f"usr/src/kernels/{built.kernel}/include/lacking.h"
    lack.touch()
    built.add("beta", {"beta.c": GOOD.format(name="beta"), "Makefile": LACKING})
    assert built.sync().returncode == 0
    lack.unlink()
    if daemon:
        built.start()
    done = built.ctl("rebuild", "beta")
    assert done.returncode == 1 and "beta on " in done.stderr and "lacking.h" in done.stderr
    assert built.verdict("beta") == "ready"
    assert "the last build failed" in " ".join(built.ctl("status").stdout.split())
    assert built.ctl("sync").returncode == 0  # which does nothing now
    (failure,) = json.loads(built.ctl("rebuild", "beta", "--json").stdout)["failures"]
    assert (failure["module"], failure["kernel"]) == ("beta", built.kernel)
    lack.touch()
    assert built.ctl("rebuild", "beta").returncode == 0


@pytest.mark.parametrize("daemon", [False, True], ids=["alone", "daemon"])
def test_sync_tries_at_once_what_failed_for_a_passing_reason(built: World, daemon: bool) -> None:
    built.settings('[retry]\nfirst = "2h"\nlongest = "3h"\n[sign]\nalgorithm = "ecdsa"\n')
    sign_file = built.root / f"usr/src/kernels/{built.kernel}/scripts/sign-file"
    away = sign_file.with_name("away")
    shutil.copy2(sign_file, away)
    sign_file.unlink()
    built.add("beta")
    assert built.ctl("sync").returncode == 1
    if daemon:
        built.start()
        built.wait_for("beta", "failed")
    target = built.target("beta")
    assert target["problem"] == "sign-file-missing" and target["next_try"] > target["last_attempt"]["ended"] + 7000
    assert "or now by kmoddctl sync" in " ".join(built.ctl("status").stdout.split())
    away.rename(sign_file)
    done = built.ctl("sync")
    assert done.returncode == 0, done.stdout
    assert built.verdict("beta") == "ready" and built.target("beta")["next_try"] is None
