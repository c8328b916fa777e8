"""A package with a dkms.conf beside a kernel that has the same module itself: as DKMS, kmodd leaves it newer ones."""

from __future__ import annotations

import json
import shutil

import pytest
from test_dkms import put, take
from test_dkms_command import dkms, status
from world import GOOD, World

pytestmark = pytest.mark.system


def versioned(name: str, version: str, more: str = "") -> str:
    said = f'MODULE_VERSION("{version}");\n' if version else ""
    return f"{GOOD.format(name=name)}{said}{more}"


def give_kernel(world: World, version: str, name: str = "own") -> None:
    """Have the kernel come with a module of its own: what kmodd builds of it becomes the kernel's."""
    world.add(name, {f"{name}.c": versioned(name, version)})
    world.sync()
    top = world.root / "lib/modules" / world.kernel
    (top / "kernel/drivers/misc").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(top / f"extra/{name}/{name}.ko", top / f"kernel/drivers/misc/{name}.ko")
    with (top / "modules.order").open("a") as stream:
        stream.write(f"kernel/drivers/misc/{name}.ko\n")
    assert world.ctl("remove", name, "--now").returncode in (0, 2)
    world.registry(name).unlink(missing_ok=True)
    shutil.rmtree(world.source(name))
    world.sync()
    assert world.extra() == []


@pytest.mark.parametrize(
    ("ours", "theirs", "more", "reason"),
    [
        ("1.9", "1.10", "", "the kernel's own own is newer: version 1.10, not 1.9"),
        ("1.10", "1.10", "", "the kernel's own own is made of the same source: srcversion "),
        ("1.10", "1.10", 'MODULE_INFO(more, "x");\n', ""),
        ("1.10", "1.9", "", ""),
        ("", "1.9", "", ""),
        ("", "", "", ""),
    ],
)
def test_a_newer_or_the_same_one_is_left_to_the_kernel(
    world: World, ours: str, theirs: str, more: str, reason: str
) -> None:
    give_kernel(world, theirs)
    put(world, files={"own.c": versioned("own", ours, more)})
    assert take(world)["own"]["error"] is None
    world.sync()
    target = world.target("own")
    if not reason:
        assert target["verdict"] == "ready"
        assert world.extra() == ["own/own.ko"]
        return
    assert (target["verdict"], target["problem"]) == ("excluded", "kernel-has-newer")
    assert target["reason"].startswith(reason)
    assert "dkms.force_version_override" in target["hint"]
    assert world.extra() == []
    assert world.plan() == "nothing to do"
    assert world.status()["kernels"][0]["verdict"] != "failed"
    world.settings('[dkms]\nforce_version_override = ["own"]\n')
    world.sync()
    assert world.verdict("own") == "ready"
    assert world.extra() == ["own/own.ko"]
    assert (world.root / "etc/depmod.d/kmodd-own.conf").exists()
    world.settings("")
    world.sync()
    assert world.verdict("own") == "excluded"
    assert world.extra() == []
    assert not (world.root / "etc/depmod.d/kmodd-own.conf").exists()


def test_of_several_objects_the_others_are_installed(world: World) -> None:
    give_kernel(world, "2.0")
    files = {"own.c": versioned("own", "1.0"), "second.c": versioned("second", "1.0")}
    files["Makefile"] = "obj-m := own.o second.o\n"
    put(world, 'BUILT_MODULE_NAME[1]="second"\nDEST_MODULE_LOCATION[1]="/extra"\n', files=files)
    take(world)
    world.sync()
    assert world.extra() == ["own/second.ko"]
    target = world.target("own")
    assert target["verdict"] == "ready"
    assert "version 2.0, not 1.0" in json.dumps(target)
    said = world.ctl("explain", "own").stdout
    assert "the kernel's own own is newer" in said


def test_the_command_dkms_ends_as_that_of_dkms(world: World) -> None:
    give_kernel(world, "2.0")
    put(world, files={"own.c": versioned("own", "1.0")})
    done = dkms(world, "install", "own/1.0")
    assert done.returncode == 6
    assert "Error! the kernel's own own is newer: version 2.0, not 1.0" in done.stderr
    assert done.stderr.endswith("Installation aborted.\n")
    assert status(world) == [f"own/1.0, {world.kernel}, x86_64: built"]
