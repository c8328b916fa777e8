"""The plugin of dnf 4 in a root of its own: the kernel that kmodd names stays, and dnf never fails for want of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ground import privateroot
from ground.command import run
from nspawn import TOP, overlay
from patience import LIMIT

pytestmark = pytest.mark.booted

SPEC = """\
Name: kernel-core
Version: 5.14.0
Release: {number}
Summary: A kernel of nothing
License: MIT
BuildArch: noarch
Provides: installonlypkg(kernel)
%description
%{{summary}}.
%install
mkdir -p %{{buildroot}}/usr/lib/modules/5.14.0-{number}.noarch
touch %{{buildroot}}/usr/lib/modules/5.14.0-{number}.noarch/vmlinuz
%files
/usr/lib/modules/5.14.0-{number}.noarch
"""
CONF = "[main]\ninstallonly_limit=3\nplugins=1\npluginpath=/plugins\npluginconfpath=/plugins\ngpgcheck=0\n"


def make_kernels(out: Path, count: int) -> list[str]:
    names = []
    for number in range(1, count + 1):
        with tempfile.TemporaryDirectory() as work:
            spec = Path(work) / "kernel.spec"
            spec.write_text(SPEC.format(number=number))
            run(["rpmbuild", "-bb", "--quiet", "--nodeps", "--define", f"_topdir {work}", spec])
            (made,) = Path(work).rglob("*.rpm")
            shutil.copy(made, out / made.name)
            names.append(made.name)
    return names


class Root:
    """A root with dnf, which keeps three kernels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "plugins").mkdir()
        (path / "kernels").mkdir()
        self.packages = make_kernels(path / "kernels", 5)
        shutil.copy(TOP / "packaging/dnf/kmodd.py", path / "plugins/kmodd.py")
        shutil.copy(TOP / "packaging/dnf/kmodd.conf", path / "plugins/kmodd.conf")
        (path / "etc/dnf").mkdir(parents=True, exist_ok=True)
        (path / "etc/dnf/dnf.conf").write_text(CONF)
        (path / "var/lib/kmodd/boot").mkdir(parents=True)

    def keep(self, text: str) -> None:
        (self.path / "var/lib/kmodd/boot/dnf.json").write_text(text)

    def dnf(self, *words: str) -> str:
        argv = ["unshare", "--mount", "--pid", "--fork", "chroot", str(self.path), "dnf", "-y", "-q", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def install(self, number: int) -> str:
        return self.dnf("install", f"/kernels/{self.packages[number - 1]}")

    @property
    def kernels(self) -> list[int]:
        return sorted(
            int(path.name[len("5.14.0-") : -len(".noarch")])
            for path in (self.path / "usr/lib/modules").glob("5.14.0-*")
        )


@pytest.fixture
def root() -> Iterator[Root]:
    directory = Path(tempfile.mkdtemp(prefix="kmodd-dnf.", dir=privateroot.find_scratch(2000)))
    try:
        yield Root(overlay(directory))
    finally:
        subprocess.run(["umount", "-l", directory / "root"], check=True)
        shutil.rmtree(directory)


def named(release: str) -> str:
    return json.dumps({"schema": 1, "keep": release})


def test_three_updates_in_a_row_leave_the_proven_kernel_installed(root: Root) -> None:
    root.keep(named("5.14.0-1.noarch"))
    for number in (1, 2, 3, 4, 5):
        root.install(number)
    assert root.kernels == [1, 2, 3, 4, 5]
    root.keep(named("5.14.0-5.noarch"))  # proven by now: what is too old goes with the next transaction that is due
    root.dnf("remove", "--oldinstallonly")
    assert 5 in root.kernels and len(root.kernels) <= 3


Doubt = Callable[[Root], object]
DOUBTS: dict[str, Doubt] = {
    "no file": lambda root: None,
    "none is named": lambda root: root.keep(named("")),
    "no JSON": lambda root: root.keep("{"),
    "another schema": lambda root: root.keep('{"schema": 2, "keep": "5.14.0-1.noarch"}'),
    "no text": lambda root: root.keep('{"schema": 1, "keep": ["5.14.0-1.noarch"]}'),
    "a path": lambda root: root.keep(named("../5.14.0-1.noarch")),
    "one that is not installed": lambda root: root.keep(named("5.14.0-9.noarch")),
    "one that would stay anyway": lambda root: root.keep(named("5.14.0-3.noarch")),
}


def test_in_doubt_dnf_does_as_ever(root: Root) -> None:
    for number in (1, 2, 3):
        root.install(number)
    for doubt in DOUBTS.values():
        doubt(root)
        root.dnf("remove", "kernel-core-5.14.0-4", "kernel-core-5.14.0-5")
        root.install(4)
        assert root.kernels == [2, 3, 4]
        root.dnf("remove", "kernel-core-5.14.0-4")
        root.dnf("install", f"/kernels/{root.packages[0]}")
        assert root.kernels == [1, 2, 3]
