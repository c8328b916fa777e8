"""Links are followed inside the root, exactly as the kernel follows them for a process that was chrooted there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmodd.core.errors import Problem
from kmodd.core.sysroot import Sysroot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "usr/lib/modules").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    return tmp_path


LINKS = [
    ("/lib", "usr/lib", "/lib/modules", "/usr/lib/modules"),
    ("/lib", "/usr/lib", "/lib/modules", "/usr/lib/modules"),
    ("/etc/a", "../../../../../usr", "/etc/a/lib", "/usr/lib"),
    ("/etc/a", "/../../etc", "/etc/a/x", "/etc/x"),
    ("/etc/a", "missing", "/etc/a/b", "/etc/missing/b"),
    ("/etc/a", "/", "/etc/a/usr", "/usr"),
    ("/etc/a", "/etc/passwd", "/etc/a", "/etc/passwd"),
    ("/etc/a", "./././../etc//b", "/etc/a", "/etc/b"),
    ("/etc/a", "b", "/etc/../etc/a/../c", "/etc/c"),
]


@pytest.mark.parametrize(("link", "to", "path", "expected"), LINKS)
def test_links_stay_inside_the_root(root: Path, link: str, to: str, path: str, expected: str) -> None:
    (root / link[1:]).symlink_to(to)
    sysroot = Sysroot.at(str(root))
    assert sysroot.resolve(path) == Path(f"{root}{expected}")
    assert sysroot.inside(sysroot.resolve(path)) == expected


@pytest.mark.parametrize("path", ["/", "/..", "/../..", "/usr/..", "/usr/../..", "/usr/lib/../../../.."])
def test_nothing_is_above_the_root(root: Path, path: str) -> None:
    assert Sysroot(root).resolve(path) == root
    assert Sysroot(root).inside(root) == "/"


@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "a/b"}, {"a": "/etc/a"}])
def test_loop_is_a_problem(root: Path, links: dict[str, str]) -> None:
    for name, to in links.items():
        (root / "etc" / name).symlink_to(to)
    with pytest.raises(Problem, match="/etc/a: too many levels") as caught:
        Sysroot(root).resolve("/etc/a")
    assert caught.value.code == "symlink-loop"


def test_as_many_links_as_the_kernel_follows(root: Path) -> None:
    for number in range(41):
        (root / f"etc/{number}").symlink_to(str(number + 1))
    assert Sysroot(root).resolve("/etc/1") == root / "etc/41"
    with pytest.raises(Problem):
        Sysroot(root).resolve("/etc/0")


def test_root_must_be_a_directory(root: Path) -> None:
    (root / "file").touch()
    for path in ("file", "missing"):
        with pytest.raises(Problem) as caught:
            Sysroot.at(str(root / path))
        assert caught.value.code == "root-missing"


def test_host_is_the_root_directory_itself(root: Path) -> None:
    assert Sysroot.at("/").is_host
    assert Sysroot.at("/..").is_host
    assert not Sysroot(root).is_host


def test_places_follow_the_roots_links(root: Path) -> None:
    (root / "lib").symlink_to("usr/lib")
    sysroot = Sysroot(root)
    assert sysroot.extra("6.1", "m") == root / "usr/lib/modules/6.1/extra/m"
    assert sysroot.dropin("modprobe", "m") == root / "etc/modprobe.d/kmodd-m.conf"


@pytest.mark.parametrize("name", ["rpmdb.sqlite", "Packages", "Packages.db"])
@pytest.mark.parametrize("place", ["/usr/lib/sysimage/rpm", "/var/lib/rpm"])
def test_rpm_database_is_where_its_files_are(root: Path, place: str, name: str) -> None:
    assert Sysroot(root).rpm_database == "/var/lib/rpm"
    (root / place[1:]).mkdir(parents=True)
    (root / place[1:] / name).touch()
    assert Sysroot(root).rpm_database == place
    assert Sysroot(root).rpm_lock == root / place[1:] / ".rpm.lock"


PARTS = ["a", "b", "c", "..", "."]
names = st.sampled_from(PARTS)
paths = st.lists(names, min_size=1, max_size=5).map("/".join)
targets = st.builds(lambda lead, path: lead + path, st.sampled_from(["", "/"]), paths)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    links=st.lists(st.tuples(st.sampled_from(["a", "b", "c", "a/b", "a/c", "b/a", "b/c"]), targets), max_size=5),
    asked=st.lists(paths, min_size=4, max_size=4),
)
def test_agrees_with_a_real_chroot(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, str]], asked: list[str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    for place, to in links:
        if not os.path.lexists(root / place) and (root / place).parent.is_dir() and not links_above(root, place):
            (root / place).symlink_to(to)
    for name in "abc":
        if not os.path.lexists(root / name):
            (root / name).mkdir()
    theirs = chrooted(root, asked)
    for path, identity in zip(asked, theirs):
        if identity is None:
            continue
        found = Sysroot(root).resolve(f"/{path}").lstat()
        assert (found.st_dev, found.st_ino) == identity


def links_above(root: Path, place: str) -> bool:
    return (root / place).parent.is_symlink()


def chrooted(root: Path, asked: list[str]) -> list[object]:
    """Return device and inode of what a process in a chroot finds under some paths, None for what it does not."""
    if os.geteuid() != 0:
        pytest.fail("run as root: chroot(2) is compared with")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chroot(root)
            os.chdir("/")
            lines = []
            for path in asked:
                try:
                    found = os.stat(f"/{path}")
                    lines.append(f"{found.st_dev} {found.st_ino}")
                except OSError:
                    lines.append("")
            os.write(writer, "\n".join(lines).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        lines = stream.read().split("\n")
    os.waitpid(child, 0)
    assert len(lines) == len(asked), sys.platform
    return [tuple(int(n) for n in line.split()) if line else None for line in lines]
