"""What depmod writes: durable, repaired where it is not whole, and what it omits is that module's fault alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from powercut import KINDS, Disk
from world import World

from kmodd.core.sysroot import DEPMOD_OUTPUTS
from kmodd.system.moduleindex import find_flaw

pytestmark = pytest.mark.system


def directory(world: World) -> Path:
    return world.root / "lib/modules" / world.kernel


def fake(world: World, text: str) -> dict[str, str]:
    """Return an environment in which a script is depmod, but for tries (-n)."""
    programs = world.root.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "depmod").write_text(f'#!/bin/sh\n[ "$1" = -n ] && exec /sbin/depmod "$@"\n{text}\n')
    (programs / "depmod").chmod(0o755)
    return {"KMODD_PROGRAM_PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.mark.parametrize("kind", KINDS)
def test_power_cut_after_a_sync_takes_nothing_away(built: World, kind: str, tmp_path: Path) -> None:
    with Disk(tmp_path / "disk", kind) as disk:
        root = disk.top / "root"
        subprocess.run(["cp", "-a", built.root, root], check=True)
        world = World(root, built.releases)
        world.add("beta", more='[load]\nat_boot = ["beta"]\n')
        os.sync()
        assert world.sync().returncode == 0
        disk.crash()
        assert find_flaw(directory(world), {}) == ""
        assert world.extra() == ["alpha/alpha.ko", "beta/beta.ko"]
        assert (world.verdict("alpha"), world.verdict("beta"), world.plan()) == ("ready", "ready", "nothing to do")
        assert (root / "etc/modules-load.d/kmodd-beta.conf").read_text()


@pytest.mark.parametrize("name", ["dep", "dep.bin", "alias.bin", "symbols.bin", "softdep", "builtin.bin"])
@pytest.mark.parametrize("size", [0, 100, -1])
def test_output_that_is_cut_is_repaired(built: World, name: str, size: int) -> None:
    path = directory(built) / f"modules.{name}"
    whole = path.read_bytes()
    for keep in (True, False):  # with the time that it had, as after a power cut, or written by another depmod
        times = path.stat()
        path.unlink()  # it may be a hard link of the template's
        path.write_bytes(whole[:size])
        if keep:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert "depmod" in built.plan()
        assert built.sync().returncode == 0
        assert path.read_bytes() == whole
        assert built.plan() == "nothing to do"


def test_stale_index_takes_nothing_from_what_modprobe_still_finds(built: World) -> None:
    other = directory(built) / "extra/other/other.ko"
    other.parent.mkdir(exist_ok=True)
    shutil.copy(built.root / f"lib/modules/{built.kernel}/extra/alpha/alpha.ko", other)
    subprocess.run(["depmod", "-b", built.root, built.kernel], check=True)
    other.unlink()
    status = built.ctl("status", "alpha")
    assert (built.verdict("alpha"), "depmod" in built.plan()) == ("ready", True), status.stdout
    for name in ("modules.dep", "modules.dep.bin"):
        (directory(built) / name).unlink()
    assert built.verdict("alpha") == "building"
    assert built.sync().returncode == 0
    assert (built.verdict("alpha"), built.plan()) == ("ready", "nothing to do")


def test_leftovers_of_a_killed_depmod_are_healed(built: World) -> None:
    left = directory(built) / "modules.alias.bin.99999999.123.1700000000"
    killed = fake(built, f"echo half > {left}; kill -9 $$")
    shutil.copy(directory(built) / "modules.dep", directory(built) / "modules.dep.mine")
    built.add("beta")
    assert built.sync(env=killed).returncode == 1
    assert not left.exists()
    left.write_text("half")  # now kmodd is killed with it
    built.wait(lambda: built.sync().returncode == 0, "the pause to be over")
    assert not left.exists()
    assert (directory(built) / "modules.dep.mine").exists()


def test_leftovers_of_a_killed_depmod_keep_no_directory_of_a_removed_kernel(built: World) -> None:
    (directory(built) / "modules.alias.bin.99999999.123.1700000000").write_text("half")
    packages = [path.name[: -len(".rpm")] for path in built.releases.files[built.kernel]]
    built.rpm("-e", *packages)
    built.sync()
    assert not directory(built).exists()


def test_depmod_that_ends_well_and_writes_nothing_is_a_failure(built: World) -> None:
    built.add("beta")
    empty = fake(built, f"cd {directory(built)}; rm modules.*.bin; : > modules.dep.bin")
    assert built.sync(env=empty).returncode == 1
    assert built.target("beta")["problem"] == "depmod-failed"
    assert "ended well, but modules.alias.bin is missing" in built.target("beta")["reason"]
    built.wait(lambda: built.sync().returncode == 0, "the pause to be over")
    assert built.verdict("beta") == "ready"


def test_what_depmod_omits_is_its_own_fault_alone(built: World) -> None:
    built.add("beta")
    assert built.sync().returncode == 0
    configuration = built.root / "etc/depmod.d/local.conf"
    configuration.parent.mkdir(exist_ok=True)
    configuration.write_text("exclude alpha\n")
    assert "depmod" in built.plan()
    runs = built.root.parent / "runs"
    counted = fake(built, f'echo run >> {runs}; exec /sbin/depmod "$@"')
    for _ in range(3):
        assert built.sync(env=counted).returncode == 4
    assert runs.read_text().count("run") == 1
    assert built.plan() == "nothing to do"
    assert built.verdict("beta") == "ready"
    alpha = built.target("alpha")
    assert (alpha["verdict"], alpha["problem"]) == ("blocked", "depmod-omits")
    configuration.unlink()
    assert built.sync(env=counted).returncode == 0
    assert runs.read_text().count("run") == 2
    assert built.verdict("alpha") == "ready"


def test_damaged_object_that_cannot_be_installed_again_is_its_own_fault_alone(built: World) -> None:
    built.add("beta")
    assert built.sync().returncode == 0
    path = directory(built) / "extra/alpha/alpha.ko"
    path.unlink()
    path.write_text("no module at all")
    subprocess.run(["depmod", "-b", built.root, built.kernel], check=False)  # of a foreign hand: it omits alpha
    for key in (built.root / "etc/kmodd/keys").iterdir():
        key.write_text("no key")
    built.sync()
    assert built.verdict("alpha") == "failed"
    assert built.verdict("beta") in ("ready", "blocked")
    assert "depmod" not in built.target("beta")["reason"]


def test_copy_of_a_root_is_up_to_date(built: World, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", built.root, tmp_path / "root"], check=True)
    copy = World(tmp_path / "root", built.releases)
    assert (copy.verdict("alpha"), copy.plan()) == ("ready", "nothing to do")


def test_objects_of_a_clock_that_was_ahead_do_not_call_for_depmod_for_ever(built: World) -> None:
    built.sync()
    for name in DEPMOD_OUTPUTS:
        if (directory(built) / name).exists():
            os.utime(directory(built) / name, (0, 0))  # no clock but the kernel's sets when an object was changed
    assert built.plan() == "nothing to do"
    assert built.sync().returncode == 0
    assert built.plan() == "nothing to do"


NEEDY = """\
#include <linux/module.h>
int needy_one(int n);
int needy_two(int n);
int needy_one(int n) { return needy_two(n); }
EXPORT_SYMBOL_GPL(needy_one);
MODULE_LICENSE("GPL");
"""


def needs_itself(world: World) -> bytes:
    """Return an object that needs a symbol which it exports itself: depmod takes that for a cycle."""
    work = world.root / "tmp/needy"
    work.mkdir()
    (work / "needy.c").write_text(NEEDY)
    (work / "Makefile").write_text("obj-m := needy.o\n")
    tree = world.root / "usr/src/kernels" / world.kernel
    argv = ["make", "-C", tree, f"M={work}", "KBUILD_MODPOST_WARN=1", "KCFLAGS=-g0", "modules"]
    subprocess.run(argv, check=True, capture_output=True)
    return (work / "needy.ko").read_bytes().replace(b"needy_two", b"needy_one")


def without_names(world: World) -> bytes:
    """Return an object whose header names no section of section names: depmod crashes."""
    content = needs_itself(world)
    return content[:62] + b"\xff\xff" + content[64:]  # e_shstrndx of elf(5)


@pytest.mark.parametrize("make", [needs_itself, without_names])
def test_object_that_depmod_fails_over_takes_no_others_along(world: World, make: Callable[[World], bytes]) -> None:
    world.add("alpha")
    content = make(world)
    world.add("needy", {"built": ""}, '[build]\ncommand = ["cp", "built", "needy.ko"]\nstrip = false\n')
    (world.source("needy") / "built").write_bytes(content)
    assert world.sync().returncode == 1
    needy = world.target("needy")
    assert (needy["verdict"], needy["problem"]) == ("failed", "object-breaks-depmod"), needy["reason"]
    assert (world.verdict("alpha"), world.extra()) == ("ready", ["alpha/alpha.ko"])
    assert world.plan() == "nothing to do"


@pytest.mark.parametrize("make", [needs_itself, without_names])
def test_file_of_others_that_depmod_fails_over_is_named(world: World, make: Callable[[World], bytes]) -> None:
    world.add("alpha")
    path = directory(world) / "updates" / "needy.ko"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(make(world))
    world.sync()
    alpha = world.target("alpha")
    assert alpha["verdict"] != "ready" and alpha["problem"] == "depmod-failed", alpha["reason"]
    named = f"/{path.relative_to(world.root)}"
    assert f"fails over {named}: " in alpha["reason"] and named in alpha["hint"], alpha
    path.unlink()
    assert world.sync().returncode == 0
