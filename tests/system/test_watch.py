"""The watcher on a real inotify."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable

import pyinotify
import pytest
from patience import meanwhile
from watching import KERNEL, LOCK, USUAL, go, no_leak, replace, rings, root, silent, watching, write

from kmodd.core.sysroot import Sysroot
from kmodd.watch.directories import find_places
from kmodd.watch.inotify import Watcher
from kmodd.watch.transaction import settle, transaction_holder
from kmodd.watch.triggers import Triggers

__all__ = ["no_leak", "root"]  # fixtures
pytestmark = pytest.mark.system


def ring(root: Path) -> None:
    """As the package's triggers do."""
    (root / "run/kmodd/ring").open("w").close()


CHANGES: list[tuple[str, Callable[[Path], object], Callable[[Path], object]]] = [
    ("kernel appears", lambda r: None, lambda r: (r / KERNEL).mkdir()),
    ("build link appears", lambda r: (r / KERNEL).mkdir(), lambda r: (r / KERNEL / "build").symlink_to("/usr/src/x")),
    ("depmod ran", lambda r: write(r / KERNEL / "modules.dep"), lambda r: replace(r / KERNEL / "modules.dep")),
    ("foreign object", lambda r: write(r / KERNEL / "extra/m/m.ko"), lambda r: write(r / KERNEL / "extra/m/m.ko")),
    ("deep object", lambda r: write(r / KERNEL / "extra/a/b/m.ko"), lambda r: (r / KERNEL / "extra/a/b/m.ko").unlink()),
    ("object's mode", lambda r: write(r / KERNEL / "extra/m.ko"), lambda r: (r / KERNEL / "extra/m.ko").chmod(0o600)),
    ("kernel tree appears", lambda r: None, lambda r: (r / "usr/src/kernels/6.1").mkdir()),
    ("tree's Makefile", lambda r: (r / "usr/src/kernels/6").mkdir(), lambda r: write(r / "usr/src/kernels/6/Makefile")),
    (
        "symvers rewritten",
        lambda r: write(r / "usr/src/kernels/6.1/Module.symvers"),
        lambda r: write(r / "usr/src/kernels/6.1/Module.symvers"),
    ),
    ("module file", lambda r: None, lambda r: write(r / "etc/kmodd/modules.d/a.toml")),
    ("vendor's module file", lambda r: None, lambda r: write(r / "usr/lib/kmodd/modules.d/a.toml")),
    (
        "patch",
        lambda r: write(r / "etc/kmodd/modules.d/a.patches/1.patch"),
        lambda r: replace(r / "etc/kmodd/modules.d/a.patches/1.patch"),
    ),
    ("configuration", lambda r: None, lambda r: write(r / "etc/kmodd/kmodd.toml")),
    ("key", lambda r: None, lambda r: write(r / "etc/kmodd/keys/signing.pem")),
    ("modprobe.d", lambda r: None, lambda r: write(r / "etc/modprobe.d/a.conf")),
    ("modules-load.d", lambda r: None, lambda r: write(r / "etc/modules-load.d/a.conf")),
    ("depmod.d", lambda r: None, lambda r: write(r / "etc/depmod.d/a.conf")),
    ("transaction ends", lambda r: None, lambda r: write(r / LOCK)),
    ("a trigger's first ring", lambda r: None, lambda r: ring(r)),
    ("a trigger's next ring", lambda r: ring(r), lambda r: ring(r)),
    ("a ring after a wipe", lambda r: (r / "run/kmodd").rmdir(), lambda r: (r / "run/kmodd").mkdir() or ring(r)),
]


@pytest.mark.parametrize(("before", "change"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_change_rings(root: Path, before: Callable[[Path], object], change: Callable[[Path], object]) -> None:
    async def main() -> None:
        before(root)
        with watching(root) as (watcher, triggers):
            await silent(triggers)
            change(root)
            assert await rings(triggers)
            assert watcher.faults == []

    go(main)


QUIET: list[tuple[str, Callable[[Path], object]]] = [
    ("objects are read", lambda r: (r / KERNEL / "extra/m.ko").read_bytes()),
    ("directories are listed", lambda r: list((r / KERNEL).iterdir())),
    ("in-tree modules", lambda r: write(r / KERNEL / "kernel/fs/x.ko")),
    ("a tree's other files", lambda r: write(r / "usr/src/kernels/6.1/Makefile")),
    ("rpm's other files", lambda r: replace(r / "var/lib/rpm/rpmdb.sqlite-shm")),
    ("neighbours of what is missing", lambda r: write(r / "etc/passwd")),
    ("what kmodd tells of its work", lambda r: replace(r / "run/kmodd/progress.json")),
    ("the lock is asked about", lambda r: transaction_holder(Sysroot(r))),
]


@pytest.mark.parametrize("change", [c[1] for c in QUIET], ids=[c[0] for c in QUIET])
def test_what_does_not_matter_does_not_ring(root: Path, change: Callable[[Path], object]) -> None:
    async def main() -> None:
        for path in (f"{KERNEL}/extra/m.ko", f"{KERNEL}/kernel/fs/x.ko", "usr/src/kernels/6.1/Makefile", LOCK):
            write(root / path)
        (root / "etc/modprobe.d").rmdir()
        with watching(root) as (_watcher, triggers):
            change(root)
            await silent(triggers)

    go(main)


def test_missing_directories_are_picked_up_when_they_come(tmp_path: Path) -> None:
    async def main() -> None:
        with watching(tmp_path) as (watcher, triggers):
            assert watcher.watched == {"/"}
            for path in USUAL:
                (tmp_path / path).mkdir(parents=True)
                assert f"/{path} appeared" in await rings(triggers)
            write(tmp_path / "usr/lib/kmodd/modules.d/a.toml")
            assert "/usr/lib/kmodd/modules.d changed" in await rings(triggers)
            assert {f"/{path}" for path in USUAL} <= watcher.watched
            assert "/" not in watcher.watched

    go(main)


def test_file_made_along_with_its_missing_directories_rings(root: Path) -> None:
    async def main() -> None:
        shutil.rmtree(root / "usr/lib")
        with watching(root) as (_watcher, triggers):
            write(root / "usr/lib/kmodd/modules.d/a.toml")
            assert "/usr/lib/kmodd/modules.d appeared" in await rings(triggers)
            write(root / "usr/lib/kmodd/modules.d/b.toml")
            assert "/usr/lib/kmodd/modules.d changed" in await rings(triggers)

    go(main)


def test_directory_behind_a_link_that_comes_later_is_watched(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "usr/lib/modules").mkdir(parents=True)
        with watching(tmp_path) as (_watcher, triggers):
            (tmp_path / "lib").symlink_to("/usr/lib")
            assert "/usr/lib/modules appeared" in await rings(triggers)
            (tmp_path / "usr/lib/modules/6.1").mkdir()
            assert "/usr/lib/modules/6.1 appeared" in await rings(triggers)

    go(main)


def test_new_kernel_with_all_its_content_is_watched_to_the_bottom(root: Path) -> None:
    async def main() -> None:
        with watching(root) as (watcher, triggers):
            write(root / KERNEL / "extra/m/deep/m.ko")
            await rings(triggers)
            assert f"/{KERNEL}/extra/m/deep" in watcher.watched
            write(root / KERNEL / "extra/m/deep/m.ko")
            assert await rings(triggers) == f"/{KERNEL}/extra/m/deep changed"

    go(main)


@pytest.mark.parametrize("away", ["removed", "renamed"])
def test_directory_that_went_away_and_came_back_still_rings(root: Path, away: str) -> None:
    async def main() -> None:
        registry = root / "etc/kmodd/modules.d"
        with watching(root) as (watcher, triggers):
            if away == "removed":
                registry.rmdir()
            else:
                registry.rename(root / "old")
            assert "/etc/kmodd/modules.d went away" in await rings(triggers)
            assert "/etc/kmodd/modules.d" not in watcher.watched
            registry.mkdir()
            assert "/etc/kmodd/modules.d appeared" in await rings(triggers)
            write(registry / "a.toml")
            assert "/etc/kmodd/modules.d changed" in await rings(triggers)
            if away == "renamed":
                write(root / "old/b.toml")
                await silent(triggers)

    go(main)


def test_directory_that_was_replaced_within_one_turn_still_rings(root: Path) -> None:
    async def main() -> None:
        registry = root / "etc/kmodd/modules.d"
        with watching(root) as (_watcher, triggers):
            for _ in range(3):
                registry.rmdir()
                registry.mkdir()
                await rings(triggers)
                write(registry / "a.toml")
                assert await rings(triggers) == "/etc/kmodd/modules.d changed"
                (registry / "a.toml").unlink()
                await rings(triggers)

    go(main)


def test_root_that_went_away_is_survived(root: Path) -> None:
    async def main() -> None:
        with watching(root) as (watcher, triggers):
            shutil.rmtree(root)
            await rings(triggers)
            assert watcher.watched == frozenset()
            watcher.rearm()
            await silent(triggers)

    go(main)


def test_burst_is_one_settled_trigger(root: Path) -> None:
    async def main() -> None:
        extra = root / KERNEL / "extra/m"
        extra.mkdir(parents=True)
        with watching(root) as (_watcher, triggers):
            for number in range(5000):
                (extra / f"{number}.ko").touch()
                if number % 100 == 0:
                    await asyncio.sleep(0)
            assert await settle(Sysroot(root), triggers) == (f"/{KERNEL}/extra/m changed",)
            await silent(triggers)

    go(main)


def overflow_for_real(root: Path, _watcher: Watcher) -> None:
    size = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if size > 200_000:
        pytest.skip("the queue is very long here")
    directory = root / "etc/depmod.d"
    for number in range(size // 2 + 10):  # each a create and a close
        (directory / str(number)).touch()


def overflow_by_hand(_root: Path, watcher: Watcher) -> None:
    notifier = watcher._notifier
    assert notifier is not None
    notifier.append_event(pyinotify._RawEvent(-1, pyinotify.IN_Q_OVERFLOW, 0, ""))
    notifier.process_events()


@pytest.mark.parametrize("overflow", [overflow_for_real, overflow_by_hand])
def test_overflow_rings_and_rearms(root: Path, overflow: Callable[[Path, Watcher], None]) -> None:
    async def main() -> None:
        with watching(root) as (watcher, triggers):
            overflow(root, watcher)
            (root / KERNEL / "extra").mkdir(parents=True)  # in the real case, nothing tells of it
            assert "events were lost" in await rings(triggers)
            assert f"/{KERNEL}/extra" in watcher.watched
            write(root / KERNEL / "extra/m.ko")
            assert f"/{KERNEL}/extra changed" in await rings(triggers)

    go(main)


def test_names_that_are_not_utf8_do_no_harm(root: Path) -> None:
    async def main() -> None:
        registry = os.fsencode(root / "etc/kmodd/modules.d")
        with watching(root) as (_watcher, triggers):
            os.close(os.open(os.path.join(registry, b"\xff\xfe.toml"), os.O_CREAT | os.O_WRONLY))
            assert "modules.d changed" in await rings(triggers)
            os.makedirs(os.path.join(os.fsencode(root / KERNEL), b"extra", b"\xff"))
            assert f"/{KERNEL}/extra appeared" in await rings(triggers)

    go(main)


def test_one_directory_by_two_names_keeps_both_interests(root: Path) -> None:
    async def main() -> None:
        (root / "etc/depmod.d").rmdir()
        (root / "etc/depmod.d").symlink_to("/var/lib/rpm")
        with watching(root) as (_watcher, triggers):
            write(root / LOCK)
            assert "an rpm transaction ended" in await rings(triggers)
            write(root / "var/lib/rpm/a.conf")
            assert "/var/lib/rpm changed" in await rings(triggers)

    go(main)


def test_loop_of_links_is_a_fault_of_one_place_only(root: Path) -> None:
    async def main() -> None:
        (root / "etc/depmod.d").rmdir()
        (root / "etc/depmod.d").symlink_to("depmod.d")
        with watching(root) as (watcher, triggers):
            assert [problem.code for problem in watcher.faults] == ["symlink-loop"]
            write(root / "etc/modprobe.d/a.conf")
            await rings(triggers)

    go(main)


def test_idle_watcher_wakes_nobody(root: Path) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with watching(root) as (_watcher, triggers):
            write(root / KERNEL / "extra/m/m.ko")
            await rings(triggers)
            turns = 0
            select = loop._selector.select

            def counted(timeout: Any = None) -> Any:
                nonlocal turns
                turns += 1
                return select(timeout)

            loop._selector.select = counted
            try:
                await meanwhile(0.5)
            finally:
                loop._selector.select = select
            assert turns <= 2  # those of this sleep itself

    go(main)


def test_rearm_that_finds_nothing_new_is_silent(root: Path) -> None:
    async def main() -> None:
        write(root / KERNEL / "extra/m/m.ko")
        with watching(root) as (watcher, triggers):
            before = watcher.watched
            for _ in range(3):
                watcher.rearm()
            await silent(triggers)
            assert watcher.watched == before

    go(main)


def test_start_and_stop_may_be_repeated(root: Path) -> None:
    async def main() -> None:
        triggers = Triggers()
        watcher = Watcher(Sysroot(root), triggers)
        watcher.rearm()
        assert watcher.watched == frozenset()
        for number in range(3):
            watcher.start()
            watcher.start()
            write(root / f"etc/kmodd/modules.d/{number}.toml")
            await rings(triggers, watcher)
            (root / KERNEL / str(number)).mkdir(parents=True)
            await asyncio.sleep(0)
            watcher.stop()  # with events unread
            watcher.stop()
            triggers.collect()
            watcher.rearm()
            await silent(triggers, watcher)

    go(main)


def test_descriptor_is_not_inherited(root: Path) -> None:
    async def main() -> None:
        with watching(root) as (watcher, _bell):
            assert not os.get_inheritable(watcher._manager.get_fd())

    go(main)


def test_limit_of_watches_is_a_fault_told_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add = pyinotify.WatchManager.add_watch

    def limited(self: Any, path: str, *arguments: Any, **more: Any) -> Any:
        if "modprobe.d" in path:
            ctypes.set_errno(errno.ENOSPC)
            return {path: -1}
        return add(self, path, *arguments, **more)

    async def main() -> None:
        monkeypatch.setattr(pyinotify.WatchManager, "add_watch", limited)
        with watching(root) as (watcher, triggers):
            watcher.rearm()
            (fault,) = watcher.faults
            assert fault.code == "watch-limit"
            assert "fs.inotify.max_user_watches" in fault.hint
            assert capsys.readouterr().out.count("watch incomplete") == 1
            write(root / "etc/depmod.d/a.conf")
            await rings(triggers)
            monkeypatch.setattr(pyinotify.WatchManager, "add_watch", add)
            watcher.rearm()
            assert watcher.faults == []

    go(main)


def test_lack_of_an_instance_is_a_fault_that_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        ctypes.set_errno(errno.EMFILE)
        raise OSError("Cannot initialize new instance of inotify")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(pyinotify.WatchManager, "__init__", refuse)
            triggers = Triggers()
            watcher = Watcher(Sysroot(root), triggers)
            watcher.start()
        assert [(p.code, p.attributes["sysctl"]) for p in watcher.faults] == [
            ("watch-limit", "fs.inotify.max_user_instances")
        ]
        watcher.rearm()
        assert watcher.faults == []
        assert "/lib/modules appeared" in await rings(triggers, watcher)
        watcher.stop()

    go(main)


@pytest.mark.parametrize("limit", ["watches", "instances"])
def test_real_limits_are_faults(root: Path, limit: str) -> None:
    number = {"watches": 5, "instances": 0}[limit]
    code = f"""
        import asyncio, pathlib
        from kmodd.core.sysroot import Sysroot
        from kmodd.watch.triggers import Triggers
        from kmodd.watch.inotify import Watcher
        pathlib.Path("/proc/sys/user/max_inotify_{limit}").write_text("{number}")
        async def main():
            watcher = Watcher(Sysroot(pathlib.Path({str(root)!r})), Triggers())
            watcher.start()
            print(len(watcher.watched), *((p.code, p.attributes["sysctl"]) for p in watcher.faults))
        asyncio.run(main())
    """
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Ur", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces")
    done = subprocess.run(
        [unshare, "-Ur", sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{number} ('watch-limit', 'fs.inotify.max_user_{limit}')"


def test_events_that_matter_are_few(root: Path) -> None:
    """Opening and reading must not be asked for, or observing would ring for ever."""
    mask = 0
    for interest in find_places(Sysroot(root))[0].values():
        mask |= interest.mask
    assert not mask & (pyinotify.IN_ACCESS | pyinotify.IN_OPEN | pyinotify.IN_CLOSE_NOWRITE | pyinotify.IN_MODIFY)
