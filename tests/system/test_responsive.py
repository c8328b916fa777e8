"""Whatever a build prints, does to the jobserver or has in its dkms.conf, the daemon answers and feeds the watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from patience import LIMIT
from world import GOOD, World

from kmodd.control.client import Client
from kmodd.dkms.conf import LARGEST_CONF

pytestmark = pytest.mark.system

#: Keeps every token, fills the pipes, makes them block, and stays for ever.
JOBSERVER = """\
import os, re
source, sink = (int(n) for n in re.search(r"auth=(\\d+),(\\d+)", os.environ["MAKEFLAGS"]).groups())
os.set_blocking(source, False)
try:
    os.read(source, 100)
except BlockingIOError:
    pass
os.set_blocking(source, True)
os.set_blocking(sink, True)
while True:
    os.write(sink, b"+" * 4096)
"""
#: 16 MiB of lines that mislead; then it fails.
NOISE = """\
for _ in range(9000):
    print("make: *** [" * 90 + " x:1: error")
    print("x" * 900 + "not found")
raise SystemExit(1)
"""
ANSWERS = 10


def run_script(world: World, script: str) -> None:
    """Add a module that is built by a script."""
    files = {"hostile.c": GOOD.format(name="hostile"), "run.py": script, "Makefile": "all:\n\t+@python3 run.py\n"}
    world.add("hostile", files, '[build]\ncommand = ["make"]\n')


def hostile_jobserver(world: World) -> None:
    run_script(world, JOBSERVER)


def hostile_log(world: World) -> None:
    run_script(world, NOISE)


def hostile_conf(world: World) -> None:
    source = world.source("hostile")
    source.mkdir(parents=True)
    text = "PACKAGE_NAME=hostile\nPACKAGE_VERSION=1\n" + "\n" * (LARGEST_CONF - 200)
    (source / "dkms.conf").write_text(f"{text}BUILT_MODULE_NAME[0]=hostile\nDEST_MODULE_LOCATION[0]=/nowhere\n")
    world.registry("hostile").write_text('[source]\ndkms = "/usr/src/hostile-1.0/dkms.conf"\n')


@pytest.mark.parametrize("attack", [hostile_jobserver, hostile_log, hostile_conf])
def test_daemon_answers_and_feeds_the_watchdog_meanwhile(world: World, attack: Callable[[World], None]) -> None:
    """It answers as quickly as it does when idle, within what a busy machine adds, and others are built."""
    world.settings('[build]\njobs = 2\n[retry]\nfirst = "1h"\nlongest = "1h"\n[sign]\nalgorithm = "ecdsa"\n')
    world.start(env={"WATCHDOG_USEC": "2000000"})
    with Client(str(world.root / "run/kmodd/io.kmodd.Manager"), timeout=LIMIT) as client:
        idle = max(answer(client) for _ in range(ANSWERS))
        attack(world)
        world.add("alpha")
        slowest, answers, beats = 0.0, 0, world.heard().count("WATCHDOG=1")
        end = time.monotonic() + LIMIT
        while answers < ANSWERS or fed(world) < beats + 2 or not is_ready(client, "alpha"):
            assert world.is_alive() and time.monotonic() < end, world.log.read_text()[-4000:]
            slowest = max(slowest, answer(client))
            answers += 1
        if attack is hostile_log:
            world.wait_for("hostile", "failed")
            slowest = max(slowest, answer(client, "Explain", module="hostile"))
    assert slowest < 10 * idle + 1, f"{slowest:.2f} s, {idle:.2f} s when idle, {answers} answers"


def answer(client: Client, method: str = "Status", **parameters: str) -> float:
    began = time.monotonic()
    client.call(method, **parameters)
    return time.monotonic() - began


def is_ready(client: Client, module: str) -> bool:
    return (module, "ready") in {(t["module"], t["verdict"]) for t in client.call("Status")["targets"]}


def fed(world: World) -> int:
    return world.heard().count("WATCHDOG=1")
