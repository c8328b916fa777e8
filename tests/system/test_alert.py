"""What the daemon tells besides its log: metrics, a line for those who log in, the administrator's command."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from world import World

pytestmark = pytest.mark.system

TEXTFILE = "/var/lib/node_exporter/textfile_collector/kmodd.prom"
BAD = {"bad.c": "#error no\n"}


def samples(world: World) -> dict[str, list[tuple[dict[str, str], float]]]:
    path = world.root / TEXTFILE.lstrip("/")
    if not path.exists():
        return {}
    return {f.name: [(s.labels, s.value) for s in f.samples] for f in text_string_to_metric_families(path.read_text())}


def verdict_of(world: World, module: str) -> str:
    return next(
        (
            labels["verdict"]
            for labels, value in samples(world).get("kmodd_target_verdict", [])
            if labels["module"] == module and value
        ),
        "",
    )


@pytest.fixture
def mailbox(world: World) -> Path:
    """A directory that an unprivileged command can write to."""
    for path in (world.root.parent, *list(world.root.parents)[:1]):
        path.chmod(0o755)
    box = world.root.parent / "mailbox"
    box.mkdir()
    box.chmod(0o777)
    program = world.root.parent / "alert"
    program.write_text(f'#!/bin/sh\nset -e\ncd {box}\nid -u > uid\ncat > new\nmv new "$(date +%s%N)"\necho told\n')
    program.chmod(0o755)
    world.settings(
        f'[metrics]\ntextfile = "{TEXTFILE}"\n[notify]\ncommand = ["{program}"]\nuser = "nobody"\n'
        '[retry]\nfirst = "1s"\nlongest = "2s"\n'
    )
    return box


def letters(box: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(box.glob("[0-9]*"))]


def told(box: Path) -> list[tuple[Any, str, Any, str]]:
    return [(c["module"], c["kernel"], c["previous"], c["verdict"]) for one in letters(box) for c in one["changes"]]


def test_all_ways_tell_the_same(world: World, mailbox: Path) -> None:
    motd, k = world.root / "run/motd.d/kmodd", world.kernel
    world.add("alpha")
    world.add("bad", BAD)
    world.start()
    world.wait_for("alpha", "ready")
    world.wait(lambda: ("bad", k, None, "failed") in told(mailbox), "the command to hear of the failure")
    world.wait(lambda: verdict_of(world, "bad") == "failed" and verdict_of(world, "alpha") == "ready", "the metrics")
    found = samples(world)
    assert ({"kernel": k, "running": "false", "default_boot": "unknown"}, 0) in found["kmodd_kernel_ready"]
    assert ({"module": "bad", "kernel": k}, 1) in found["kmodd_build_failures"]
    assert all(seconds > 0 for _, seconds in found["kmodd_build_duration_seconds"])
    assert stat.S_IMODE((world.root / TEXTFILE.lstrip("/")).stat().st_mode) == 0o644
    assert motd.read_text() == f"kmodd: not ready: bad on {k} (failed). See: kmoddctl status\n"
    if os.geteuid() == 0:
        assert (mailbox / "uid").read_text() == "65534\n"
    (change,) = [c for one in letters(mailbox) for c in one["changes"] if c["module"] == "bad"]
    assert change["problem"] == "build-failed" and change["reason"].startswith("bad.c:1:2: error: #error no")
    assert "#error no" in (world.root / change["log"].lstrip("/")).read_text()
    assert (None, k, None, "failed") in told(mailbox)

    world.registry("bad").unlink()
    world.wait(lambda: (None, k, "failed", "ready") in told(mailbox), "the command to hear of the kernel")
    world.wait(lambda: not motd.exists(), "the line to go")
    assert "line=told" in world.log.read_text()
    written = (world.root / TEXTFILE.lstrip("/")).stat()
    assert samples(world)["kmodd_kernel_ready"][0][1] == 1
    assert written.st_ino == (world.root / TEXTFILE.lstrip("/")).stat().st_ino


def test_slow_command_delays_nothing_and_goes_with_the_daemon(world: World, mailbox: Path) -> None:
    program = world.root.parent / "alert"
    program.write_text(f"#!/bin/sh\necho $$ > {mailbox}/pid\nexec sleep 300\n")
    world.add("bad", BAD)
    world.start()
    world.wait(lambda: (mailbox / "pid").exists() and (mailbox / "pid").read_text() != "", "the command to start")
    world.add("alpha")
    world.wait_for("alpha", "ready")
    pid = int((mailbox / "pid").read_text())
    assert Path(f"/proc/{pid}").exists()
    assert world.kill(signal.SIGTERM) == 0
    assert not Path(f"/proc/{pid}").exists()


def test_reload_takes_other_ways(world: World, mailbox: Path) -> None:
    world.settings("")
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    assert samples(world) == {} and letters(mailbox) == []
    world.settings(f'[metrics]\ntextfile = "{TEXTFILE}"\n')
    assert world.child is not None
    world.child.send_signal(signal.SIGHUP)
    world.wait(lambda: verdict_of(world, "alpha") == "ready", "metrics after the reload")


def test_sync_without_a_daemon_writes_the_files(world: World) -> None:
    motd = world.root / "run/motd.d/kmodd"
    world.settings(f'[metrics]\ntextfile = "{TEXTFILE}"\n')
    world.add("bad", BAD)
    world.sync()
    assert verdict_of(world, "bad") == "failed" and "bad on" in motd.read_text()
    world.registry("bad").unlink()
    world.add("alpha")
    world.sync()
    assert verdict_of(world, "alpha") == "ready" and verdict_of(world, "bad") == "" and not motd.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[metrics]\ntextfile = "/var/kmodd.txt"\n', "metrics.textfile: must end with .prom"),
        ('[metrics]\ntextfile = "kmodd.prom"\n', "metrics.textfile: must be an absolute path"),
        ('[notify]\ncommand = ["mail", "root"]\n', "notify.command: must begin with the absolute path of a program"),
        ('[notify]\ncommand = "mail root"\n', "notify.command: "),
    ],
)
def test_settings_that_cannot_work_are_refused(world: World, text: str, said: str) -> None:
    world.settings(text)
    done = world.ctl("status")
    assert done.returncode == 1 and said in done.stderr, done.stderr
