"""Parts of the kernel's own source, from module files of a few lines to what modprobe takes; and back."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import stories
from patience import LIMIT
from world import QUICK, Kernels, World

pytestmark = [pytest.mark.system, pytest.mark.stories]


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What the syncs said, one after the other."""
    return []


@pytest.fixture(scope="module")
def world(ground: Path, told: list[str]) -> Iterator[World]:
    """A root on which kmodd built all stories at once."""
    with tempfile.TemporaryDirectory(prefix="stories.", dir=ground) as name:
        release, packages, srpm = stories.make_packages(Path(name) / "packages")
        root = Path(name) / "root"
        stories.lay(root, packages, srpm)
        world = World(root, Kernels(release, release, release, {release: packages}))
        world.settings(QUICK + stories.SETTINGS)
        for module in stories.MODULES:
            stories.register(root, module)
        done = world.sync(timeout=3 * LIMIT)
        told.append(done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        yield world
        world.stop()


def installed(world: World, module: str, name: str) -> Path:
    return world.root / "lib/modules" / world.kernel / "extra" / module / f"{name}.ko"


def modinfo(path: Path, field: str) -> str:
    return subprocess.run(["modinfo", "-F", field, path], capture_output=True, text=True, check=True).stdout.strip()


def asked(world: World, name: str) -> list[str]:
    """Return the files that modprobe would load for a module, relative to the kernel's directory."""
    argv = ["modprobe", "--show-depends", "-d", world.root, "-S", world.kernel, "-C", world.root / "etc/modprobe.d"]
    done = subprocess.run([*argv, name], capture_output=True, text=True, check=True)
    return re.findall(rf"insmod \S*/{world.kernel}/(\S+)", done.stdout)


def crcs(path: Path) -> dict[str, str]:
    """Return the symbols that a module needs, with their CRCs."""
    done = subprocess.run(["modprobe", "--dump-modversions", path], capture_output=True, text=True, check=True)
    return {name: crc for crc, name in (line.split() for line in done.stdout.splitlines())}


@pytest.mark.parametrize("module", stories.MODULES)
def test_module_is_ready_with_its_objects_signed_and_stripped(world: World, module: str) -> None:
    assert world.verdict(module) == "ready"
    for name in stories.MODULES[module]:
        path = installed(world, module, name)
        assert modinfo(path, "signer").startswith("kmodd ")
        assert modinfo(path, "name") == name.replace("-", "_")
        sections = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
        assert ".modinfo" in sections and ".debug" not in sections
        assert asked(world, name)[-1] == f"extra/{module}/{name}.ko"


def test_nothing_else_is_installed(world: World) -> None:
    objects = {f"{module}/{name}.ko" for module, names in stories.MODULES.items() for name in names}
    assert set(world.extra()) == objects


def test_disabled_module_needs_nothing_of_ours_but_itself(world: World) -> None:
    config = (world.root / "lib/modules" / world.kernel / "config").read_text()
    assert "# CONFIG_BCACHE is not set" in config
    assert all(path.startswith("kernel/") for path in asked(world, "bcache")[:-1])


def test_patched_provider_is_what_its_users_are_built_with(world: World) -> None:
    symvers = (world.root / "usr/src/kernels" / world.kernel / "Module.symvers").read_text()
    old = {line.split("\t")[1]: line.split("\t")[0] for line in symvers.splitlines() if "net/ceph/libceph" in line}
    kept = world.root / "var/lib/kmodd/targets" / world.kernel / "libceph.objects/Module.symvers"
    new = {line.split("\t")[1]: line.split("\t")[0] for line in kept.read_text().splitlines()}
    assert new.keys() == old.keys()
    changed = {name for name in new if int(new[name], 16) != int(old[name], 16)}
    assert "ceph_osdc_start_request" in changed  # the header's patch changed the types that it is about
    for user in ("ceph", "rbd"):
        needs = crcs(installed(world, user, user))
        assert needs.keys() & changed
        assert {int(needs[name], 16) for name in needs.keys() & changed} <= {int(new[n], 16) for n in changed}
        assert "extra/libceph/libceph.ko" in asked(world, user)
    assert modinfo(installed(world, "libceph", "libceph"), "version") == "1+pools"


def test_local_version_is_shown_by_status_and_modinfo(world: World) -> None:
    assert world.target("cifs")["version"] == "1.45fixed"
    assert modinfo(installed(world, "cifs", "cifs"), "version") == "1.45fixed"
    assert modinfo(installed(world, "cifs", "cifs"), "srcversion") != ""


def test_the_distributions_own_patches_are_in(world: World) -> None:
    assert modinfo(installed(world, "nbd", "nbd"), "description") == "Network Block Device, patched by the vendor"
    text = (world.root / "etc/modprobe.d/kmodd-nbd.conf").read_text()
    assert "options nbd dyndbg=+p\n" in text


def test_kernel_devel_stays_as_its_package_has_it(world: World) -> None:
    world.rpm("-V", f"kernel-devel-{world.kernel.removesuffix('-amd64')}")


def test_source_is_unpacked_once_and_little_of_it_kept(world: World, told: list[str]) -> None:
    assert told[0].count("kernel source unpacked") == 1
    (kept,) = (world.root / "var/cache/kmodd/kernel-source").iterdir()
    assert kept.name == f"kernel-{world.kernel.removesuffix('-amd64')}"
    assert sum(p.stat().st_size for p in kept.rglob("*") if p.is_file()) < 32 << 20
    assert world.plan() == "nothing to do"


def test_changed_patch_builds_its_users_anew_without_unpacking(world: World) -> None:
    patch = world.root / "etc/kmodd/modules.d/libceph.patches/pool.patch"
    patch.write_text(patch.read_text().replace("1+pools", "2+pools"))
    done = world.sync()
    assert set(re.findall(r"module built module=(\w+)", done.stderr)) == {"libceph", "ceph", "rbd"}
    assert "unpacked" not in done.stderr
    assert modinfo(installed(world, "libceph", "libceph"), "version") == "2+pools"


def test_source_rpm_may_go_once_it_was_unpacked(world: World) -> None:
    (srpm,) = (world.root / "srv/srpms").iterdir()
    aside = srpm.rename(world.root.parent / srpm.name)
    assert world.plan() == "nothing to do"
    registry = world.registry("nbd")
    registry.write_text(registry.read_text() + "[build]\nstrip = false\n")
    done = world.sync()
    assert done.returncode == 0 and "module built module=nbd" in done.stderr, done.stderr
    aside.rename(srpm)


def test_the_kernels_own_modules_come_back(world: World) -> None:
    for module in stories.MODULES:
        stories.unregister(world.root, module)
    assert world.sync().returncode == 0
    assert world.extra() == []
    assert list((world.root / "etc/depmod.d").iterdir()) == []
    for name in stories.IN_TREE:
        assert asked(world, name)[-1].startswith("kernel/")
    gone = subprocess.run(["modprobe", "-n", "-d", world.root, "-S", world.kernel, "bcache"], capture_output=True)
    assert gone.returncode != 0
