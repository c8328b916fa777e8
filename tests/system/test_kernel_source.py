"""A kernel's source RPM that is missing, late, wrong or hostile, and module files that ask it for what it has not."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ground import kernels, srpm
from ground.cache import find_cache
from world import QUICK, World

pytestmark = pytest.mark.system

PART = "drivers/block"  # enough of a kernel's source for nbd, and quick to unpack
NBD = '[source]\nkernel = ["drivers/block/nbd.c"]\n'
BAD_PATCH = """\
--- a/drivers/block/nbd.c
+++ b/drivers/block/nbd.c
@@ -1,3 +1,3 @@
 int never;
-int there;
+int here;
 int at_all;
"""


@dataclass(frozen=True)
class Sources:
    """The source RPM of the newer 6.1 kernel, and what it is made of."""

    rpm: Path
    tarball: Path


@pytest.fixture(scope="module")
def sources(ground: Path, releases: object) -> Iterator[Sources]:
    top = ground / "srpm"
    top.mkdir()
    (release,) = kernels.pick("6.1", 1, source=True)
    rpm = kernels.make_source(release, top, only=[PART])
    yield Sources(rpm, srpm.make_tarball(release, find_cache(), top, [PART]))
    shutil.rmtree(top)


@pytest.fixture(autouse=True)
def unsigned(world: World) -> None:
    """Let source RPMs be unsigned, as those of the ground are."""
    world.settings(f"{QUICK}[sources]\nallow_unsigned = true\n")


def put(world: World, path: Path, name: str = "") -> Path:
    """Put a source RPM where it is looked for."""
    place = world.root / "srv/srpms"
    place.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, place / (name or path.name)))


def variant(world: World, sources: Sources, release: str = "", prep: str = "", more: str = "") -> Path:
    """Return another source RPM of that content. prep: more lines of its %prep."""
    work = world.root.parent / "variant"
    work.mkdir(exist_ok=True)
    return srpm.build_srpm(release or world.kernel, sources.tarball, work, prep, more)


def test_module_waits_for_the_source_rpm_and_is_built_when_it_comes(world: World, sources: Sources) -> None:
    world.registry("nbd").write_text(NBD)
    world.start()
    world.wait_for("nbd", "waiting")
    target = world.target("nbd")
    assert target["problem"] == "kernel-source-missing"
    download = f"dnf --installroot={world.root} download --source --destdir={world.root}/srv/srpms"
    assert target["hint"] == f"{download} {sources.rpm.name[:-4]}"
    put(world, sources.rpm)
    world.wait_for("nbd", "ready")
    assert world.extra() == ["nbd/nbd.ko"]


def test_reload_takes_another_directory_of_source_rpms(world: World, sources: Sources) -> None:
    world.registry("nbd").write_text(NBD)
    world.start()
    world.wait_for("nbd", "waiting")
    place = world.root / "var/tmp/srpms"
    place.mkdir()
    shutil.copy(sources.rpm, place)
    world.settings('[sources]\nallow_unsigned = true\nsrpm_path = ["/srv/srpms", "/var/tmp/srpms"]\n')
    assert world.child is not None
    world.child.send_signal(signal.SIGHUP)
    world.wait_for("nbd", "ready")


def test_source_rpm_of_another_release_is_not_taken_and_is_named(world: World, sources: Sources) -> None:
    world.registry("nbd").write_text(NBD)
    put(world, variant(world, sources, more=".1"))
    assert world.sync().returncode == 4
    target = world.target("nbd")
    assert (target["verdict"], target["problem"]) == ("waiting", "kernel-source-missing")
    assert f"{sources.rpm.name[:-8]}.1.src.rpm there is of another release" in target["reason"]


WRONG_FILES = ["renamed", "garbage", "empty", "binary", "version"]


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_source_rpm_that_is_not_what_its_name_says_fails_its_modules_alone(
    world: World, sources: Sources, kind: str
) -> None:
    world.registry("nbd").write_text(NBD)
    world.add("alpha")
    path = put(world, sources.rpm)
    if kind == "renamed":
        shutil.copy(variant(world, sources, more=".1"), path)
    elif kind == "version":
        shutil.copy(variant(world, sources, prep="sed -i 's/^SUBLEVEL = .*/SUBLEVEL = 1/' Makefile"), path)
    elif kind == "binary":
        shutil.copy(world.releases.files[world.kernel][0], path)
    else:
        path.write_bytes(b"" if kind == "empty" else os.urandom(5000))
    assert world.sync().returncode == 1
    target = world.target("nbd")
    assert (target["verdict"], target["problem"]) == ("failed", "kernel-source-mismatch")
    assert path.name in target["reason"]
    assert world.verdict("alpha") == "ready"
    assert world.plan() == "nothing to do"
    shutil.copy(sources.rpm, path)
    assert world.sync().returncode == 0
    assert world.verdict("nbd") == "ready"


PREPS = [
    ("false", "kernel-source-unprepared"),
    ("a-program-that-is-not-here", "tool-missing"),
    ("cd ..; rm -rf *", "kernel-source-unprepared"),
    ("rm -rf drivers; ln -s /etc drivers", "kernel-source-path"),
    ("rm drivers/block/nbd.c; ln -s /etc/hostname drivers/block/nbd.c", "kernel-source-path"),
    ("rm drivers/block/nbd.c; mkfifo drivers/block/nbd.c", "kernel-source-path"),
]


@pytest.mark.parametrize(("prep", "code"), PREPS)
def test_what_prep_does_wrong_is_a_problem(world: World, sources: Sources, prep: str, code: str) -> None:
    world.registry("nbd").write_text(NBD)
    put(world, variant(world, sources, prep=prep))
    assert world.sync().returncode == 1
    attempt = world.target("nbd")["last_attempt"]
    assert (attempt["outcome"], attempt["problem"]) == ("failed", code), attempt


CONFINED = """\
test "$(id -u)" != 0
! test -e /etc/passwd
! test -w /usr/src/kernels
! (echo > /dev/tcp/127.0.0.1/22) 2>/dev/null
"""


def test_prep_runs_unprivileged_offline_and_sees_nothing(world: World, sources: Sources) -> None:
    world.registry("nbd").write_text(NBD)
    put(world, variant(world, sources, prep=CONFINED))
    assert world.sync().returncode == 0, world.build_log("nbd")


WRONG_FILES_OF_MODULES = [
    ('[source]\nkernel = ["drivers/block/nbdd.c"]\n', "kernel-source-path", "source.kernel: "),
    ('[source]\nkernel = ["drivers/blocks"]\n', "kernel-source-path", "drivers/blocks"),
    (f'{NBD}[build]\nconfig = {{ CONFIG_BLK_DEV_NDB = "m" }}\n', "config-unknown", "CONFIG_BLK_DEV_NDB"),
    ('[source]\nkernel = ["drivers/block"]\n[[object]]\nname = "nbdd"\n', "object-missing", "builds nbdd.o"),
    ('[source]\nkernel = ["drivers/block/null_blk"]\n[build]\nconfig = { CONFIG_BLK_DEV_NULL_BLK = "n" }\n',
     "no-objects", "yielded no .ko"),
    (f'{NBD}[build]\ndirectory = "drivers/net"\n', "kernel-source-makefile", "drivers/net"),
    ('[source]\nkernel = ["drivers/block/nbd.c"]\npatches = ["bad.patch"]\n', "patch-failed", "bad.patch"),
    ('[source]\nkernel = ["drivers/block/nbd.c"]\npatches = ["none.patch"]\n', "patch-missing", "none.patch"),
    (f'{NBD}[build]\ndepends = ["nbd"]\n', "depends-cycle", "depend on each other"),
    (f'{NBD}[build]\ndepends = ["omega"]\n', "depends-unknown", "omega"),
]  # fmt: skip


def test_wrong_module_files_fail_alone_and_say_why(world: World, sources: Sources) -> None:
    put(world, sources.rpm)
    names = {}
    for number, (text, code, said) in enumerate(WRONG_FILES_OF_MODULES):
        name = "nbd" if "depends-cycle" in code else f"wrong{number}"
        names[name] = (code, said)
        world.registry(name).write_text(text)
        patches = world.registry(name).with_suffix(".patches")
        patches.mkdir()
        (patches / "bad.patch").write_text(BAD_PATCH)
    world.registry("good").write_text(NBD)
    done = world.sync()
    assert done.returncode == 1
    found = {t["module"]: (t["verdict"], t["problem"], t["reason"]) for t in world.status()["targets"]}
    assert found.pop("good")[0] == "ready"
    for name, (code, said) in names.items():
        verdict, problem, reason = found[name]
        assert (verdict, problem) == ("failed", code), (name, reason)
        assert said in reason
    assert done.stderr.count("kernel source unpacked") == 1


def test_kill_while_unpacking_heals(world: World, sources: Sources) -> None:
    world.registry("nbd").write_text(NBD)
    path = put(world, variant(world, sources, prep="test -e /tmp/x || sleep 600"))
    world.start()
    scratch = world.root / "var/cache/kmodd/build"
    world.wait(lambda: any(scratch.glob("*/tmp/rpm/BUILD/*/*/Makefile")), "the source unpacked")
    world.kill(9)
    shutil.copy(sources.rpm, path)
    assert world.sync().returncode == 0
    assert list(scratch.iterdir()) == []
    assert len(list((world.root / "var/cache/kmodd/kernel-source").iterdir())) == 1
