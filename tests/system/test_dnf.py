"""A real dnf with more kernels than installonly_limit allows: the newest proven one stays installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Optional

import pytest
from ground import repository
from ground.command import run

pytestmark = pytest.mark.system

TOP = Path(__file__).resolve().parents[2]
PLUGIN = TOP / "packaging/dnf"
SPEC = """\
Name: {name}
Version: 5.14.0
Release: {release}
Summary: A kernel's package without a kernel
License: MIT
BuildArch: noarch
AutoReqProv: no
Provides: installonlypkg(kernel)
{more}
%description
%{{summary}}.
%files
"""
FULL = "5.14.0-{}.noarch"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of kernel-core and kernel-modules 5.14.0-1 to -6; the running release's name has -0."""
    top = tmp_path_factory.mktemp("packages")
    for number in range(1, 7):
        for name in ("kernel-core", "kernel-modules"):
            more = f"Requires: kernel-core = 5.14.0-{number}" if name == "kernel-modules" else ""
            spec = top / "one.spec"
            spec.write_text(SPEC.format(name=name, release=number, more=more))
            run(["rpmbuild", "-bb", "--quiet", "--nodeps", "--define", f"_topdir {top / 'work'}", spec])
    return repository.make_repository(top / "repository", sorted((top / "work").rglob("*.rpm")))


class Server:
    """A private root whose dnf keeps two kernels, with or without the plugin."""

    def __init__(self, root: Path, packages: Path, plugin: bool = True) -> None:
        self.root = root
        root.mkdir()
        repository.configure(root, packages, packages)
        self.state = root / "var/lib/kmodd/boot/dnf.json"
        self.state.parent.mkdir(parents=True)
        settings = root / "etc/dnf/dnf.conf"
        settings.write_text(f"{settings.read_text()}installonly_limit=2\npluginpath={PLUGIN}\nplugins={int(plugin)}\n")
        shutil.copy(PLUGIN / "kmodd.conf", root / "etc/dnf/plugins")

    def prove(self, release: object) -> None:
        self.state.write_text(json.dumps({"schema": 1, "keep": release}))

    def dnf(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = ["dnf", f"--installroot={self.root}", "--releasever=9", "-y", f"--config={self.root}/etc/dnf/dnf.conf"]
        done = subprocess.run([*argv, *words], capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def install(self, *numbers: int) -> str:
        """Install kernels one transaction after the other, and return what the last one printed."""
        for number in numbers:
            done = self.dnf("install", f"kernel-modules-5.14.0-{number}")
        return done.stdout + done.stderr

    def kernels(self, name: str = "kernel-core") -> list[int]:
        found = run(["rpm", "--root", self.root, "-q", "--qf", "%{RELEASE}\n", name])
        return sorted(int(line) for line in found.split())


@pytest.fixture
def server(tmp_path: Path, packages: Path) -> Server:
    return Server(tmp_path / "root", packages)


def test_without_the_plugin_the_oldest_goes_although_it_is_the_proven_one(tmp_path: Path, packages: Path) -> None:
    server = Server(tmp_path / "root", packages, plugin=False)
    server.prove(FULL.format(1))
    server.install(1, 2, 3)
    assert server.kernels() == [2, 3]


def test_proven_kernel_stays_through_three_updates_and_it_is_said(server: Server) -> None:
    server.install(1, 2)
    server.prove(FULL.format(1))
    said = server.install(3, 4, 5)
    assert server.kernels() == [1, 2, 3, 4, 5]
    assert server.kernels("kernel-modules") == [1, 2, 3, 4, 5]
    assert "keeps 5 kernels in this run instead of 2: 5.14.0-1.noarch is the newest that is proven" in said


def test_once_a_newer_one_is_proven_the_limit_is_dnfs_own(server: Server) -> None:
    server.install(1, 2)
    server.prove(FULL.format(1))
    server.install(3)
    server.prove(FULL.format(3))
    said = server.install(4)
    assert server.kernels() == [3, 4]
    assert "kmodd" not in said


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", '{"schema": 2, "keep": "5.14.0-1.noarch"}', '{"schema": 1}', '{"schema": 1, "keep": 7}',
     '{"schema": 1, "keep": ""}', '{"schema": 1, "keep": "5.14.0-9.noarch"}', "\0" * 70000, "[" * 60000],
    ids=["missing", "empty", "cut", "a list", "another schema", "no key", "a number", "none", "gone", "zeros", "deep"],
)  # fmt: skip
def test_whatever_the_file_holds_dnf_does_its_work(server: Server, content: Optional[str]) -> None:
    server.install(1, 2)
    if content is not None:
        server.state.write_text(content)
    server.install(3)
    assert server.kernels() == [2, 3]


def test_a_file_that_cannot_be_read_is_no_failure(server: Server) -> None:
    server.install(1, 2)
    server.state.mkdir()
    server.install(3)
    assert server.kernels() == [2, 3]


def limit(server: Server, told: str) -> str:
    """Return what the program for dnf5 prints."""
    argv = ["/usr/bin/python3", "-I", PLUGIN / "kmodd.py", server.root, told]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_program_for_dnf5_prints_the_limit_as_its_manual_says(server: Server) -> None:
    server.install(1, 2)
    server.prove(FULL.format(1))
    assert limit(server, "2").splitlines()[0] == "conf.installonly_limit=3"
    assert limit(server, "3") == limit(server, "0") == limit(server, "") == limit(server, "many") == ""


def test_an_older_running_kernel_has_a_place_of_its_own(server: Server, tmp_path: Path) -> None:
    """dnf deletes the running one last, so that the proven one would go before it."""
    server.install(1, 2)
    server.prove(FULL.format(2))
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('keep', sys.argv[1]);"
        "keep = importlib.util.module_from_spec(spec); spec.loader.exec_module(keep);"
        "print(keep.count_needed(sys.argv[2], '5.14.0-2.noarch', sys.argv[3]))"
    )
    argv = ["/usr/bin/python3", "-c", code, PLUGIN / "kmodd.py", server.root]
    told = {
        running: int(subprocess.run([*map(os.fspath, argv), running], check=True, capture_output=True).stdout)
        for running in ("5.14.0-1.noarch", "5.14.0-2.noarch", "6.1.0-0-other")
    }
    assert told == {"5.14.0-1.noarch": 3, "5.14.0-2.noarch": 2, "6.1.0-0-other": 2}
