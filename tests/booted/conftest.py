"""One machine for all tests of a session: they run in order, as the life of a server."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import kernels, privateroot, system
from nspawn import Machine, Repository

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    made = Machine(Path(tempfile.mkdtemp(prefix="kmodd-booted.", dir=privateroot.find_scratch(6000))))
    yield made
    made.close()


@pytest.fixture(scope="session")
def repository(machine: Machine) -> Repository:
    """Put all packages into /repo of the machine, with createrepo_c's index."""
    top = machine.root / "repo"
    new, old = kernels.pick("6.1", 2)
    files = {release: kernels.make(release, top) for release in (old, new)}
    subprocess.run([TOP / "packaging/make-rpm", top, "1", "2"], check=True, capture_output=True)
    (first,) = top.glob("kmodd-*-1.x86_64.rpm")
    (second,) = top.glob("kmodd-*-2.x86_64.rpm")
    (machine.root / "later").mkdir()
    final = second.rename(machine.root / "later" / second.name)
    standing = system.make_standing(top)
    subprocess.run(["createrepo_c", "--quiet", top], check=True)
    inside = {release: [f"/repo/{path.name}" for path in paths] for release, paths in files.items()}
    return Repository(old, new, inside, f"/repo/{first.name}", f"/repo/{standing.name}", f"/later/{final.name}")
