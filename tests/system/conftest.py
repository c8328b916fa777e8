"""Fixtures of the system tests: real kernels by real rpm in private roots, gone again after each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import kernels, privateroot
from world import Kernels, World


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A scratch directory for the whole session, on a tmpfs where there is one."""
    with tempfile.TemporaryDirectory(prefix="kmodd-test.", dir=privateroot.find_scratch(4096)) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def releases(ground: Path) -> Kernels:
    """Two 6.1 kernels and a 6.12 one, as RPMs."""
    new, old = kernels.pick("6.1", 2)
    (other,) = kernels.pick("6.12", 1)
    return Kernels(old, new, other, {r: kernels.make(r, ground / "rpms", slim=True) for r in (old, new, other)})


@pytest.fixture(scope="session")
def template(ground: Path, releases: Kernels) -> Path:
    """A root with the newer 6.1 kernel, to be copied."""
    root = privateroot.make_root(ground / "template")
    privateroot.rpm(root, "-i", *releases.files[releases.new])
    return root


def _copy(template: Path, root: Path) -> None:
    """Copy a root; the big read-only trees as hard links."""
    root.mkdir()
    for path in template.iterdir():
        subprocess.run(["cp", "-al" if path.name in ("usr", "boot") else "-a", path, root], check=True)


@pytest.fixture
def bare(ground: Path, releases: Kernels) -> Iterator[World]:
    """A root without kernels."""
    yield from _world(privateroot.make_root(Path(tempfile.mkdtemp(dir=ground)) / "root"), releases)


@pytest.fixture
def world(ground: Path, template: Path, releases: Kernels) -> Iterator[World]:
    """A root with the newer 6.1 kernel."""
    root = Path(tempfile.mkdtemp(dir=ground)) / "root"
    _copy(template, root)
    yield from _world(root, releases)


@pytest.fixture(scope="session")
def built_template(ground: Path, template: Path, releases: Kernels) -> Path:
    """A root with a kernel and a module "alpha" that is installed, to be copied."""
    root = ground / "built-template/root"
    root.parent.mkdir()
    _copy(template, root)
    made = World(root, releases)
    made.add("alpha")
    assert made.sync().returncode == 0
    return root


@pytest.fixture
def built(ground: Path, built_template: Path, releases: Kernels) -> Iterator[World]:
    """A root with a kernel and a module "alpha" that is installed."""
    root = Path(tempfile.mkdtemp(dir=ground)) / "root"
    _copy(built_template, root)
    for path in root.glob("lib/modules/*/modules.dep"):
        os.utime(path)  # the copied files changed (ctime) after it was written
    yield from _world(root, releases)


def _world(root: Path, releases: Kernels) -> Iterator[World]:
    made = World(root, releases)
    yield made
    try:
        made.stop()
    finally:
        made.reap()
    for mount in reversed(made.mounts):
        subprocess.run(["umount", "-l", mount], check=True)
    left = [p for p in _processes() if str(root) in p[1]]
    assert not left, f"processes were left behind: {left}"
    scratch = root / "var/cache/kmodd/build"
    leftovers = list(scratch.iterdir()) if scratch.is_dir() else []
    shutil.rmtree(root.parent)
    assert not leftovers, f"scratch directories were left behind: {leftovers}"


def _processes() -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(path.parent.name) != os.getpid():
            found.append((int(path.parent.name), text))
    return found
