"""Both ways of asking rpm give the same answers on a real database in a private root, and never change it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import pytest

from kmodd.core.errors import Problem
from kmodd.core.remedy import Remedy
from kmodd.core.sysroot import Sysroot
from kmodd.host import rpmdb
from kmodd.host.rpmdb import BindingQueries, CommandQueries, open_queries
from kmodd.system.run import run

pytestmark = pytest.mark.system

#: Package name, epoch, and what it provides as kernel-devel-uname-r.
PACKAGES = (
    ("kernel-devel", "", " = 5.14.0-427.el9.x86_64"),
    ("kernel-debug-devel", "", " = 5.14.0-427.el9.x86_64+debug"),
    ("oddly-named", "7", " = 6.1.0-9.custom"),
    ("newer-than", "", " >= 6.12.0"),
    ("any-version", "", ""),
)
ANSWERS = {
    "5.14.0-427.el9.x86_64": "kernel-devel-1-1.noarch",
    "5.14.0-427.el9.x86_64+debug": "kernel-debug-devel-1-1.noarch",
    "6.1.0-9.custom": "oddly-named-7:1-1.noarch",
}
ASKED = (*ANSWERS, "6.12.0", "6.1.0", "5.14.0-427.el9.x86_64+rt")
SPEC = """\
Name: {name}
Version: 1
Release: 1
{epoch}
Summary: none
License: none
BuildArch: noarch
Provides: kernel-devel-uname-r{provide}
%description
%files
"""
Queries = Union[BindingQueries, CommandQueries]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    where = tmp_path_factory.mktemp("rpmbuild")
    for name, epoch, provide in PACKAGES:
        spec = where / f"{name}.spec"
        text = SPEC.format(name=name, epoch=f"Epoch: {epoch}" if epoch else "", provide=provide)
        spec.write_text(text.replace("\n\n", "\n"))
    argv = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {where}", *map(str, where.glob("*.spec"))]
    subprocess.run(argv, check=True, capture_output=True)
    return sorted(where.glob("RPMS/*/*.rpm"))


def rpm(root: Path, database: str, *argv: object) -> None:
    options = ["--nodeps", "--noscripts"]
    if Path("/etc/debian_version").exists():  # its rpm does not install packages unless told so
        options.append("--force-debian")
    base = ["rpm", "--root", str(root), "--dbpath", database, *options]
    subprocess.run([*base, *map(str, argv)], check=True, capture_output=True)


@pytest.fixture(params=["/var/lib/rpm", "/usr/lib/sysimage/rpm"])
def root(request: pytest.FixtureRequest, open_path: Path, packages: Sequence[Path]) -> Path:
    path = open_path / "root"
    path.mkdir()
    rpm(path, request.param, "-i", *packages)
    return path


def ways() -> list[type[Queries]]:
    found: list[type[Queries]] = [CommandQueries]
    if asyncio.run(BindingQueries.is_usable()):
        found.append(BindingQueries)
    return found


@pytest.fixture(params=ways())
def queries(request: pytest.FixtureRequest, root: Path) -> Queries:
    made: Queries = request.param(Sysroot(root))
    return made


def directory_of(queries: Queries) -> Path:
    return queries.sysroot.resolve(queries.sysroot.rpm_database)


def contents(directory: Path) -> dict[str, tuple[str, int]]:
    """Return what counts of a database; readers may leave an empty log and its index beside it."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
        if path.stat().st_size and not path.name.endswith("-shm")
    }


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls: list[object] = []

    async def counted(argv: Sequence[Union[str, Path]], **more: object) -> object:
        calls.append(argv)
        return await run(argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(rpmdb, "run", counted)
    return calls


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or not Path("/usr/lib/python3/dist-packages/rpm").is_dir(),
    reason="the system's binding is for its own Python",
)
def test_the_system_binding_is_found_through_the_shim() -> None:
    assert BindingQueries in ways()


def test_packages_are_found_by_what_they_provide(queries: Queries) -> None:
    assert asyncio.run(queries.devel_packages(ASKED)) == ANSWERS


def test_asking_changes_nothing_and_takes_no_lock(queries: Queries) -> None:
    before = contents(directory_of(queries))
    lock = directory_of(queries) / ".rpm.lock"
    had = lock.stat().st_mtime_ns if lock.exists() else None
    asyncio.run(queries.devel_packages(ASKED))
    assert contents(directory_of(queries)) == before
    assert (lock.stat().st_mtime_ns if lock.exists() else None) == had


def test_nothing_is_asked_again_until_the_database_changes(
    queries: Queries, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    calls = count_calls(monkeypatch)
    for _ in range(3):
        assert asyncio.run(queries.devel_packages(ASKED)) == ANSWERS
    assert len(calls) == 1
    rpm(root, queries.sysroot.rpm_database, "-e", "oddly-named")
    assert "6.1.0-9.custom" not in asyncio.run(queries.devel_packages(ASKED))
    assert len(calls) == 2


def test_a_running_transaction_does_not_block(queries: Queries) -> None:
    lock = directory_of(queries) / ".rpm.lock"
    code = (
        "import fcntl,sys; f=open(sys.argv[1],'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert asyncio.run(queries.devel_packages(ASKED)) == ANSWERS
        holder.communicate()


@pytest.mark.parametrize("way", ways())
def test_no_database_is_no_answer_and_makes_none(tmp_path: Path, way: type[Queries]) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    assert asyncio.run(way(Sysroot(tmp_path)).devel_packages(ASKED)) == {}
    assert list((tmp_path / "var/lib/rpm").iterdir()) == []


@pytest.mark.parametrize("way", ways())
def test_an_empty_database_has_no_answer(tmp_path: Path, way: type[Queries]) -> None:
    subprocess.run(["rpmdb", "--root", tmp_path, "--dbpath", "/var/lib/rpm", "--initdb"], check=True)
    assert asyncio.run(way(Sysroot(tmp_path)).devel_packages(ASKED)) == {}


@pytest.mark.parametrize("damage", ["garbage", "truncated", "page"])
def test_a_corrupt_database_is_a_transient_problem(queries: Queries, damage: str) -> None:
    path = directory_of(queries) / "rpmdb.sqlite"
    for name in ("rpmdb.sqlite-wal", "rpmdb.sqlite-shm"):
        (directory_of(queries) / name).unlink(missing_ok=True)
    data = path.read_bytes()
    broken = {"garbage": b"not a database " * 4096, "truncated": data[:6000], "page": data[:100] + b"\xff" * 60000}[
        damage
    ]
    path.write_bytes(broken)
    with pytest.raises(Problem) as caught:
        asyncio.run(queries.devel_packages(ASKED))
    assert caught.value.code == "rpmdb-unreadable"
    assert caught.value.transient
    assert "rpm --verifydb" in caught.value.hint
    assert path.read_bytes() == broken
    path.write_bytes(data)
    assert asyncio.run(queries.devel_packages(ASKED)) == ANSWERS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_database_that_this_user_may_not_read_is_a_problem(queries: Queries) -> None:
    directory_of(queries).chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(Problem) as caught:
            asyncio.run(queries.devel_packages(ASKED))
    finally:
        os.seteuid(0)
    assert caught.value.code == "rpmdb-unreadable"


def test_without_a_binding_the_command_is_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = BindingQueries if BindingQueries in ways() else CommandQueries
    assert type(asyncio.run(open_queries(Sysroot(root)))) is expected
    broken = root / "broken.py"
    broken.write_text("raise ImportError('a shim without a system binding')")
    monkeypatch.setattr(rpmdb, "CHILD", broken)
    assert type(asyncio.run(open_queries(Sysroot(root)))) is CommandQueries


def test_the_daemon_itself_does_not_load_librpm(queries: Queries) -> None:
    asyncio.run(queries.devel_packages(ASKED))
    assert "rpm" not in sys.modules
    assert "librpm" not in Path(f"/proc/{os.getpid()}/maps").read_text()


@pytest.mark.parametrize(
    "root, line",
    [
        ("/", "dnf install 'kernel-devel-uname-r = 6.1.0+rt'"),
        ("/mnt/a b", "dnf '--installroot=/mnt/a b' install 'kernel-devel-uname-r = 6.1.0+rt'"),
    ],
)
def test_the_line_for_the_administrator(root: str, line: str) -> None:
    assert Remedy("fetch-devel", "6.1.0+rt").shown(Sysroot(Path(root))) == line
