"""One private root, and what an administrator and systemd do to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ground import privateroot
from patience import LIMIT, wait_until

#: Short pauses, and a key that costs no second to make.
QUICK = '[retry]\nfirst = "1s"\nlongest = "2s"\n[sign]\nalgorithm = "ecdsa"\n'
GOOD = """\
#include <linux/module.h>
static int {name}_value = 1;
module_param_named(value, {name}_value, int, 0444);
static int __init {name}_init(void) {{ return 0; }}
static void __exit {name}_exit(void) {{ }}
module_init({name}_init);
module_exit({name}_exit);
MODULE_LICENSE("GPL");
"""
#: A line of a Makefile that holds its build until World.release, so that something can be seen meanwhile.
HELD = "$(shell touch /build/source/held; until test -e /build/source/released; do sleep 0.1; done)\n"


@dataclass(frozen=True)
class Kernels:
    """The releases of the kernels that tests install, and their RPMs (core, modules-core, devel)."""

    old: str
    new: str
    other: str
    files: dict[str, list[Path]]


class World:
    """A private root with, at times, a daemon on it."""

    def __init__(self, root: Path, releases: Kernels) -> None:
        self.root = root
        self.releases = releases
        self.kernel = releases.new
        self.log = root.parent / "kmodd.log"
        self.mounts: list[Path] = []
        self.child: Optional[subprocess.Popen[bytes]] = None
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.told: list[str] = []
        (root / "etc/kmodd/modules.d").mkdir(parents=True, exist_ok=True)
        self.settings(QUICK)

    # -- the administrator's hands ---------------------------------------------------------------------------------
    def settings(self, text: str) -> None:
        (self.root / "etc/kmodd/kmodd.toml").write_text(text)

    def source(self, name: str) -> Path:
        return self.root / "usr/src" / f"{name}-1.0"

    def registry(self, name: str) -> Path:
        return self.root / "etc/kmodd/modules.d" / f"{name}.toml"

    def add(self, name: str, files: Optional[dict[str, str]] = None, more: str = "") -> None:
        """Register a module; files default to a good one-file module."""
        source = self.source(name)
        source.mkdir(parents=True)
        for file, text in (files or {f"{name}.c": GOOD.format(name=name)}).items():
            (source / file).write_text(text)
        if "Makefile" not in (files or {}):
            (source / "Makefile").write_text(f"obj-m := {name}.o\n")
        self.registry(name).write_text(f'[source]\npath = "/usr/src/{name}-1.0"\n{more}')

    def rpm(self, *words: Any) -> None:
        privateroot.rpm(self.root, *words)

    def install(self, release: str) -> None:
        self.rpm("-i", *self.releases.files[release])

    def mount(self, directory: Path, *options: str) -> None:
        """Mount something over a directory of the root until the test ends."""
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *options, directory], check=True)
        self.mounts.append(directory)

    def unmount(self, directory: Path) -> None:
        subprocess.run(["umount", "-l", directory], check=True)
        self.mounts.remove(directory)

    # -- kmoddctl --------------------------------------------------------------------------------------------------
    def ctl(
        self, *words: str, env: Optional[dict[str, str]] = None, timeout: float = LIMIT
    ) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "kmodd.ctl", *words, "--root", str(self.root)]
        return subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=timeout)

    def sync(self, env: Optional[dict[str, str]] = None, timeout: float = LIMIT) -> subprocess.CompletedProcess[str]:
        done = self.ctl("sync", "--verbose", env=env, timeout=timeout)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def status(self) -> dict[str, Any]:
        done = self.ctl("status", "--json")
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def target(self, module: str, kernel: str = "") -> dict[str, Any]:
        """Return a target of the status; {} where there is none."""
        for target in self.status()["targets"]:
            if (target["module"], target["kernel"]) == (module, kernel or self.kernel):
                return dict(target)
        return {}

    def verdict(self, module: str, kernel: str = "") -> str:
        return str(self.target(module, kernel).get("verdict", ""))

    def plan(self) -> str:
        return self.ctl("plan").stdout.strip()

    def held(self) -> list[Path]:
        """Return the sources of the builds that HELD holds, as they are outside of the sandbox."""
        return [path.parent for path in self.root.glob("var/cache/kmodd/build/*/source/held")]

    def hold(self) -> None:
        """Wait until HELD holds a build."""
        self.wait(lambda: bool(self.held()), "a build that is held")

    def release(self) -> None:
        """Let the build go on that HELD holds; those that begin later are held again."""
        self.hold()
        for source in self.held():
            (source / "released").touch()

    def release_all(self, over: Callable[[], bool]) -> None:
        """Let every build go on that HELD holds, until something is over."""

        def step() -> bool:
            for source in self.held():
                with contextlib.suppress(FileNotFoundError):  # it was cancelled
                    (source / "released").touch()
            return over()

        self.wait(step, "builds that are let go")

    def extra(self, kernel: str = "") -> list[str]:
        """Return the files under a kernel's extra/."""
        top = self.root / "lib/modules" / (kernel or self.kernel) / "extra"
        return sorted(str(p.relative_to(top)) for p in top.rglob("*") if p.is_file())

    def build_log(self, module: str) -> str:
        return self.ctl("logs", module).stdout

    # -- the daemon ------------------------------------------------------------------------------------------------
    def command(self) -> list[str]:
        """Return the words that run the daemon."""
        return [sys.executable, "-m", "kmodd.daemon", "--root", str(self.root), "--log-level", "debug"]

    def start(
        self, env: Optional[dict[str, str]] = None, before: Sequence[str] = (), pass_fds: Sequence[int] = ()
    ) -> None:
        """Start kmodd as systemd would and wait until it is ready. before: words that run the command."""
        path = self.log.parent / f"notify.{len(self.told)}.{time.monotonic_ns()}"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(path))
        self.notify.setblocking(False)
        with self.log.open("ab") as stream:
            self.child = subprocess.Popen(
                [*before, *self.command()],
                pass_fds=pass_fds,
                stderr=stream,
                env={**os.environ, "NOTIFY_SOCKET": str(path), **(env or {})},
            )
        self.wait(lambda: "READY=1" in self.heard(), "READY=1")

    def heard(self) -> list[str]:
        """Return all that the service manager was told so far."""
        while True:
            try:
                self.told += self.notify.recv(65536).decode().splitlines()
            except BlockingIOError:
                return self.told

    def is_alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def kill(self, number: int) -> int:
        assert self.child is not None
        self.child.send_signal(number)
        return self.child.wait(LIMIT)

    def stop(self) -> None:
        """Stop the daemon if one runs; it must end well."""
        if self.is_alive():
            status = self.kill(signal.SIGTERM)
            assert status == 0, f"kmodd ended with {status}:\n{self.log.read_text()[-4000:]}"
        if self.log.exists():
            assert "Traceback" not in self.log.read_text() and "unforeseen" not in self.log.read_text()
        self.notify.close()

    def reap(self) -> None:
        """Leave no daemon behind, in whatever way the test failed."""
        if self.is_alive():
            self.kill(signal.SIGKILL)

    def wait(self, reached: Callable[[], bool], what: str) -> None:
        """Wait for something; fails with the daemon's log."""

        def come_true() -> bool:
            if self.is_alive():
                self.heard()
            return reached()

        try:
            wait_until(come_true, what, over=lambda: self.child is not None and not self.is_alive())
        except AssertionError as error:
            log = self.log.read_text()[-6000:] if self.log.exists() else ""
            raise AssertionError(f"{error}\n{log}\n{self.ctl('status').stdout}") from error

    def wait_for(self, module: str, verdict: str, kernel: str = "") -> None:
        self.wait(lambda: self.verdict(module, kernel) == verdict, f"{module} {verdict} on {kernel or self.kernel}")
