"""What the tests of the watch share: a root with the usual directories, a watcher on it, and a guard against leaks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from patience import LIMIT, turns, until, within_limit

from kmodd.core.sysroot import Sysroot
from kmodd.watch.inotify import Watcher
from kmodd.watch.triggers import Triggers

KERNEL = "lib/modules/6.1.0-1.el9.x86_64"
LOCK = "var/lib/rpm/.rpm.lock"
#: Those of watching, by their bells.
WATCHERS: dict[Triggers, Watcher] = {}
USUAL = (
    "lib/modules", "usr/src/kernels", "var/lib/rpm", "etc/kmodd/modules.d", "etc/kmodd/keys",
    "usr/lib/kmodd/modules.d", "etc/modprobe.d", "etc/modules-load.d", "etc/depmod.d", "run/kmodd",
    "boot/loader/entries", "var/lib/kmodd/boot/held",
)  # fmt: skip


def open_files() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[entry.name] = str(entry.readlink())
    return {name: target for name, target in found.items() if not target.startswith("/proc/")}


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    """Fail a test that leaves a file descriptor or a child open."""
    before = open_files()
    yield
    gc.collect()
    assert open_files() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def go(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine, and fail if it leaves tasks or timers."""

    async def guarded() -> None:
        await within_limit(main())
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        loop: Any = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []

    asyncio.run(guarded())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in USUAL:
        (tmp_path / path).mkdir(parents=True)
    return tmp_path


@contextlib.contextmanager
def watching(root: Path) -> Iterator[tuple[Watcher, Triggers]]:
    triggers = Triggers()
    watcher = Watcher(Sysroot.at(str(root)), triggers)
    WATCHERS[triggers] = watcher
    watcher.start()
    try:
        yield watcher, triggers
    finally:
        watcher.stop()
        del WATCHERS[triggers]


def is_at_rest(watcher: Watcher) -> bool:
    """Tell whether a watcher has seen all that happened so far, and watches what is there."""
    if watcher._manager is None:
        return True
    return watcher._again is None and not select.select([watcher._manager.get_fd()], [], [], 0)[0]


async def rings(triggers: Triggers, watcher: Optional[Watcher] = None) -> str:
    """Return the reasons once a trigger came and the watcher is at rest. watcher: where it is not of watching."""
    assert await triggers.arrival(LIMIT), "did not ring"
    reasons: list[str] = []
    while triggers:
        reasons += triggers.collect()
        await until(lambda: is_at_rest(watcher or WATCHERS[triggers]))
    return "; ".join(reasons)


async def silent(triggers: Triggers, watcher: Optional[Watcher] = None) -> None:
    await until(lambda: is_at_rest(watcher or WATCHERS[triggers]))
    assert not triggers, triggers.collect()


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


def replace(path: Path) -> None:
    write(path.with_name(".new"))
    path.with_name(".new").replace(path)
