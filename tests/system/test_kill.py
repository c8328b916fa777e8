"""kill -9 at every step: the next run finishes or undoes, never wedges."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import LIMIT
from world import GOOD, World

pytestmark = pytest.mark.system

KILLED = Path(__file__).with_name("killed.py")


class Saved:
    """What kmodd writes to, as it was at one moment."""

    def __init__(self, world: World, name: str) -> None:
        self.kept = world.root.parent / name
        self.parts = [world.root / "etc", world.root / "var", world.root / "run"]
        self.parts += [world.root / "usr/lib/modules" / world.kernel / "extra", world.root / "usr/src"]
        self.plain = world.root / "usr/lib/modules" / world.kernel
        for number, part in enumerate(self.parts[:-1]):
            if part.is_dir():
                subprocess.run(["cp", "-a", part, self.kept.with_suffix(f".{number}")], check=True)
        self.files = {p.name: p.read_bytes() for p in self.plain.glob("modules.*")}

    def restore(self) -> None:
        for number, part in enumerate(self.parts[:-1]):
            shutil.rmtree(part, ignore_errors=True)
            kept = self.kept.with_suffix(f".{number}")
            if kept.is_dir():
                subprocess.run(["cp", "-a", kept, part], check=True)
        for name, data in self.files.items():
            (self.plain / name).unlink(missing_ok=True)
            (self.plain / name).write_bytes(data)


def leftovers(world: World) -> list[str]:
    found = [str(p) for p in world.root.rglob("*.kmodd-new*")]
    found += [str(p) for p in world.root.glob("var/lib/kmodd/targets/*/*.objects.new")]
    for name in ("build", "sign"):
        directory = world.root / "var/cache/kmodd" / name
        found += [str(p) for p in directory.iterdir()] if directory.is_dir() else []
    return found


MOST = 10_000  # steps, more than there are
#: Quarters of the steps, for tests that run beside each other.
QUARTERS = pytest.mark.parametrize("first", range(1, 5))


def kill_everywhere(world: World, state: Saved, check: Callable[[dict[str, str]], None], steps: range) -> int:
    """Kill a run before each of some steps; each time the next run must put all right.

    Returns how many steps there are; those to be tried end there, too.
    """
    for number in steps:
        state.restore()
        argv = [sys.executable, str(KILLED), str(number), str(world.root)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode >= 0:
            found = re.search(r"steps=(\d+)", done.stdout)
            assert found, done.stdout + done.stderr
            return int(found[1])
        after = json.loads(world.ctl("sync", "--json").stdout)
        try:
            check({target["module"]: target["verdict"] for target in after["targets"]})
            assert not leftovers(world)
            if number % 5 == 1:  # sync itself goes on until nothing is due
                assert world.plan() == "nothing to do"
        except AssertionError as error:
            raise AssertionError(f"after a kill before step {number}: {error}") from error
    raise AssertionError("the run never ends")


def uninstall(world: World, name: str) -> None:
    """Make a target look built and never installed."""
    shutil.rmtree(world.root / "usr/lib/modules" / world.kernel / "extra", ignore_errors=True)
    record = world.root / "var/lib/kmodd/targets" / world.kernel / f"{name}.json"
    data = json.loads(record.read_text())
    data["installed"] = None
    record.write_text(json.dumps(data))
    for kind in ("modules-load", "modprobe", "depmod"):
        (world.root / f"etc/{kind}.d/kmodd-{name}.conf").unlink(missing_ok=True)


@QUARTERS
def test_installing_the_first_key_included(world: World, first: int) -> None:
    world.add("alpha", more='[load]\nat_boot = ["alpha"]\n')
    world.sync()
    uninstall(world, "alpha")
    shutil.rmtree(world.root / "etc/kmodd/keys")
    (world.root / "var/lib/kmodd/signing.x509").unlink()

    def check(verdicts: dict[str, str]) -> None:
        assert verdicts["alpha"] == "ready"
        assert world.extra() == ["alpha/alpha.ko"]
        assert (world.root / "etc/modules-load.d/kmodd-alpha.conf").exists()
        assert (world.root / "etc/kmodd/keys/signing.key").stat().st_mode & 0o777 == 0o600

    assert kill_everywhere(world, Saved(world, "before"), check, range(first, MOST, 4)) > 20


@QUARTERS
def test_replacing_a_set_of_objects_by_a_smaller_one(world: World, first: int) -> None:
    both = {
        "one.c": GOOD.format(name="one"),
        "two.c": GOOD.format(name="two"),
        "Makefile": "obj-m := one.o two.o\n",
    }
    world.add("pair", both)
    world.sync()
    assert world.extra() == ["pair/one.ko", "pair/two.ko"]
    installed = Saved(world, "installed")
    (world.source("pair") / "Makefile").write_text("obj-m := one.o\n")
    world.sync()
    record = world.root / "var/lib/kmodd/targets" / world.kernel / "pair.json"
    built = json.loads(record.read_text())["built"]
    objects = world.root.parent / "objects"
    shutil.copytree(record.with_suffix(".objects"), objects)
    installed.restore()
    data = json.loads(record.read_text())
    data["built"] = built
    record.write_text(json.dumps(data))
    shutil.rmtree(record.with_suffix(".objects"))
    shutil.copytree(objects, record.with_suffix(".objects"))

    def check(verdicts: dict[str, str]) -> None:
        assert verdicts["pair"] == "ready"
        assert world.extra() == ["pair/one.ko"]

    assert kill_everywhere(world, Saved(world, "before"), check, range(first, MOST, 4)) > 10


@QUARTERS
def test_removing(world: World, first: int) -> None:
    world.add("alpha", more='[load]\nat_boot = ["alpha"]\n')
    world.add("beta")
    world.sync()
    world.registry("alpha").unlink()

    def check(verdicts: dict[str, str]) -> None:
        assert world.extra() == ["beta/beta.ko"]
        assert verdicts["beta"] == "ready"
        assert not (world.root / "etc/modules-load.d/kmodd-alpha.conf").exists()
        assert "extra/alpha" not in (world.root / "lib/modules" / world.kernel / "modules.dep").read_text()

    assert kill_everywhere(world, Saved(world, "before"), check, range(first, MOST, 4)) > 3


@pytest.mark.parametrize("first", range(1, 28, 7))
def test_building(world: World, first: int) -> None:
    world.add("alpha")

    def check(verdicts: dict[str, str]) -> None:
        assert verdicts["alpha"] == "ready"
        assert world.extra() == ["alpha/alpha.ko"]

    assert kill_everywhere(world, Saved(world, "before"), check, range(first, MOST, 28)) > 20
