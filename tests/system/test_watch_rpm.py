"""A real rpm, in a private root, as seen by the watcher and settle."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from patience import LIMIT, turns, until, within_limit

from kmodd.core.sysroot import Sysroot
from kmodd.watch.inotify import Watcher
from kmodd.watch.transaction import settle, transaction_holder
from kmodd.watch.triggers import Triggers

pytestmark = pytest.mark.system

SPEC = """
Name: kernel-devel
Version: 6.1.0
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
%install
mkdir -p %{buildroot}/usr/src/kernels/6.1.0-1
echo x >%{buildroot}/usr/src/kernels/6.1.0-1/Makefile
%files
/usr/src/kernels/6.1.0-1
%posttrans -p <lua>
while not posix.stat("/opt/seen") do end
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("rpmbuild")
    (top / "x.spec").write_text(SPEC)
    argv = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {top}", str(top / "x.spec")]
    subprocess.run(argv, check=True, capture_output=True)
    (built,) = top.glob("RPMS/*/*.rpm")
    return built


def rpm(root: Path, *words: str) -> list[str]:
    return ["rpm", "--root", str(root), "--dbpath", "/var/lib/rpm", *words]


async def start(argv: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)


@pytest.mark.parametrize("database", ["present", "absent"])
def test_transaction_is_waited_for_and_its_end_rings(tmp_path: Path, package: Path, database: str) -> None:
    async def main() -> None:
        sysroot, triggers = Sysroot.at(str(tmp_path)), Triggers()
        told: list[int] = []
        seen = tmp_path / "opt/seen"  # the transaction goes on until then
        seen.parent.mkdir()

        tree = sysroot.kernel_trees / "6.1.0-1"
        inside = f"/{tree.relative_to(tmp_path)}"

        async def end_transaction() -> None:
            await until(lambda: bool(told) and inside in watcher.watched)
            seen.touch()

        watcher = Watcher(sysroot, triggers)
        watcher.start()
        try:
            for verb in (["-i", "--nosignature", str(package)], ["-e", "kernel-devel"]):
                triggers.collect()
                told.clear()
                child = await start(rpm(tmp_path, *verb))
                ending = asyncio.ensure_future(end_transaction() if verb[0] == "-i" else turns())
                reasons: tuple[str, ...] = ()
                while "an rpm transaction ended" not in reasons:  # a slow rpm may make directories and lock later
                    assert await triggers.arrival(LIMIT)
                    # a long poll: it is the triggers that tells of the end
                    settled = settle(sysroot, triggers, quiet=0.5, poll=3 * LIMIT, on_transaction=told.append)
                    reasons = await within_limit(settled)
                assert transaction_holder(sysroot) is None
                assert await within_limit(child.wait()) == 0
                await ending
                assert tree.exists() == (verb[0] == "-i")
                if verb[0] == "-i":  # -e is over too soon to be surely seen
                    assert set(told) == {child.pid}
                    # the lock's end is the last thing that rings
                    assert reasons[-1] == "an rpm transaction ended"
                    assert inside in watcher.watched
                assert not await triggers.arrival(0.5), triggers.collect()
        finally:
            watcher.stop()

    if database == "present":
        subprocess.run(rpm(tmp_path, "--initdb"), check=True)
    asyncio.run(main())


def test_queries_do_not_ring(tmp_path: Path, package: Path) -> None:
    async def main() -> None:
        triggers = Triggers()
        watcher = Watcher(Sysroot.at(str(tmp_path)), triggers)
        watcher.start()
        try:
            for words in (["-qa"], ["-q", "--whatprovides", "kernel-devel"], ["-V", "kernel-devel"]):
                child = await start(rpm(tmp_path, *words))
                assert await child.wait() == 0
            assert not await triggers.arrival(0.5), triggers.collect()
        finally:
            watcher.stop()

    subprocess.run(rpm(tmp_path, "-i", "--nosignature", "--noscripts", str(package)), check=True)
    asyncio.run(main())
