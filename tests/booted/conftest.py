"""One machine for all tests of a session: they run in order, as the life of a server."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ground import kernels, privateroot, system
from machine import Machine

TOP = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Repository:
    """The packages that the machine installs, as /repo on it."""

    old: str  # kernel releases
    new: str
    kernels: dict[str, list[str]]  # release -> paths on the machine: core, modules-core, devel
    kmodd: str
    standing: str
    later: str  # the same kmodd with a higher release


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
