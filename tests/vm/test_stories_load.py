"""Parts of the kernel's own source, built by kmodd: a real kernel loads them, and its own again once they are gone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ground import privateroot, stories
from machine import Outcome, Report, boot
from patience import LIMIT
from server import modinfo
from world import QUICK, Kernels, World

pytestmark = [pytest.mark.vm, pytest.mark.stories]

#: libcrc32c, which some of them need, finds it by the crypto API, which no modules.dep knows of.
FIRST = ("crc32c_generic",)
OBJECTS = {name.replace("-", "_"): module for module, names in stories.MODULES.items() for name in names}


@dataclass(frozen=True)
class Boots:
    """What the kernel did: with what kmodd installed, and after the module files were removed."""

    world: World
    said: dict[str, dict[str, str]]  # of each object as it was installed: what modinfo says
    sums: dict[str, tuple[str, str]]  # path and sha256 by the record
    ours: Report
    own: Report


@pytest.fixture(scope="module")
def boots() -> Iterator[Boots]:
    with tempfile.TemporaryDirectory(prefix="stories.", dir=privateroot.find_scratch(4096)) as name:
        top = Path(name)
        top.chmod(0o755)
        release, packages, srpm = stories.make_packages(top / "packages")
        stories.lay(top / "root", packages, srpm)
        world = World(top / "root", Kernels(release, release, release, {release: packages}))
        world.settings(QUICK + stories.SETTINGS)
        for module in stories.MODULES:
            stories.register(world.root, module)
        done = world.sync(timeout=3 * LIMIT)
        assert done.returncode == 0, done.stdout + done.stderr
        said, sums = {}, {}
        for target in world.status()["targets"]:
            for item in target["objects"]:
                path = world.root / item["path"].lstrip("/")
                fields = ("version", "srcversion", "signer", "description")
                key = item["name"].replace("-", "_")
                said[key] = {field: modinfo(path, field) for field in fields}
                sums[key] = (item["path"], item["sha256"])
        ours = boot(world.root, release, "", [*FIRST, *OBJECTS], top / "ours")
        for module in stories.MODULES:
            stories.unregister(world.root, module)
        assert world.sync().returncode == 0
        own = boot(world.root, release, "", [*FIRST, *OBJECTS], top / "own")
        yield Boots(world, said, sums, ours, own)
        world.stop()


@pytest.mark.parametrize("name", OBJECTS)
def test_the_kernel_loads_what_kmodd_built(boots: Boots, name: str) -> None:
    outcome = boots.ours.outcomes[name]
    assert (outcome.exit, outcome.live, outcome.stderr) == (0, True, ""), outcome
    assert boots.ours.inserted[name] == boots.sums[name]
    assert f"/extra/{OBJECTS[name]}/" in boots.sums[name][0]
    assert outcome.srcversion == boots.said[name]["srcversion"]
    assert outcome.version == boots.said[name]["version"]
    assert boots.said[name]["signer"].startswith("kmodd ")
    assert outcome.taint == "OE"


LOCAL = {"cifs": "1.45fixed", "libceph": "1+pools"}


@pytest.mark.parametrize(("name", "version"), LOCAL.items())
def test_local_versions_are_those_of_what_is_loaded(boots: Boots, name: str, version: str) -> None:
    assert boots.ours.outcomes[name].version == version


def test_users_of_a_patched_module_are_loaded_after_it(boots: Boots) -> None:
    order = list(boots.ours.inserted)
    assert order.index("libceph") < min(order.index("ceph"), order.index("rbd"))


def test_debug_messages_are_on_for_nbd_alone(boots: Boots) -> None:
    assert boots.ours.outcomes["nbd"].debug > 0
    assert {n for n, o in boots.ours.outcomes.items() if o.debug} == {"nbd"}


@pytest.mark.parametrize("name", [name for name in OBJECTS if name != "bcache"])
def test_the_kernels_own_module_loads_again_after_removal(boots: Boots, name: str) -> None:
    outcome: Outcome = boots.own.outcomes[name]
    assert (outcome.exit, outcome.live, outcome.taint, outcome.debug) == (0, True, "", 0), outcome
    assert boots.own.inserted[name][0].startswith(f"/lib/modules/{boots.world.kernel}/kernel/")


def test_what_the_vendor_disabled_is_gone_after_removal(boots: Boots) -> None:
    outcome = boots.own.outcomes["bcache"]
    assert not outcome.live
    assert "Module bcache not found" in outcome.stderr
