"""A real dnf fetches what kernels lack from a local repository, where the settings say so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ground import kernels, repository
from world import World

pytestmark = pytest.mark.system

FETCH = "[kernels]\nfetch_devel = true\n[sources]\nfetch = true\nallow_unsigned = true\n"
NBD = '[source]\nkernel = ["drivers/block/nbd.c"]\n'


@pytest.fixture
def lacking(bare: World, ground: Path) -> World:
    """A root with a kernel but neither its kernel-devel nor its source RPM; dnf knows a repository of both."""
    core, modules_core, devel = bare.releases.files[bare.kernel]
    bare.rpm("-i", core, modules_core)
    top = bare.root.parent
    source = kernels.make_source(bare.kernel, top / "made", only=["drivers/block"])
    binaries = repository.make_repository(top / "binaries", [devel])
    repository.configure(bare.root, binaries, repository.make_repository(top / "sources", [source]))
    return bare


def test_nothing_is_fetched_unless_the_settings_say_so(lacking: World) -> None:
    lacking.add("alpha")
    done = lacking.sync()
    assert (done.returncode, lacking.target("alpha")["problem"]) == (4, "kernel-devel-missing")
    assert "fetch" not in done.stderr


def test_missing_kernel_devel_and_source_are_fetched(lacking: World) -> None:
    lacking.settings(FETCH)
    lacking.registry("nbd").write_text(NBD)
    lacking.add("alpha")
    lacking.start()
    lacking.wait_for("alpha", "ready")
    lacking.wait_for("nbd", "ready")
    (srpm,) = (lacking.root / "srv/srpms").iterdir()
    assert srpm.name == f"kernel-{lacking.kernel.replace('-amd64', '')}.src.rpm"
    devel = f"kernel-devel-{lacking.kernel.replace('-amd64', '')}"
    lacking.rpm("-V", devel)
    assert lacking.log.read_text().count("fetch started") == 2


def test_what_the_repository_no_longer_has_stays_waited_for_with_the_command(lacking: World) -> None:
    lacking.settings(FETCH + '[retry]\nfirst = "1h"\nlongest = "1h"\n')
    shutil.rmtree(lacking.root.parent / "binaries")
    repository.make_repository(lacking.root.parent / "binaries", lacking.releases.files[lacking.releases.old][2:])
    lacking.add("alpha")
    done = lacking.sync()
    target = lacking.target("alpha")
    assert (done.returncode, target["verdict"], target["problem"]) == (4, "waiting", "kernel-devel-missing")
    assert target["hint"].startswith("dnf --installroot=")
    assert "fetch failed problem=fetch-failed" in done.stderr and "Unable to find a match" in done.stderr
    assert done.stderr.count("fetch started") == 1
