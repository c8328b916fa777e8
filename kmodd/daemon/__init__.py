"""kmodd: waits for a trigger, debounces, has a reconcile pass made, and reports what came of it.

Must not: know how any of that is done.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, Optional

from .. import UMASK, __version__
from ..alert import Alerts
from ..control.server import Server
from ..core.actions import Action
from ..core.model import Target
from ..core.report import Observer, Report
from ..core.settings import Settings, SettingsSource
from ..core.sysroot import DKMS_SOURCES, Sysroot
from ..host.settingsfile import read_settings
from ..kbuild.sandbox import build_owner
from ..reconcile.reconciler import Reconciler
from ..reconcile.unexpected import as_problem
from ..system.lock import Lock
from ..system.log import configure, get_logger
from ..system.notify import Notifier
from ..watch.inotify import Watcher
from ..watch.transaction import settle
from ..watch.triggers import Triggers
from .controlsocket import ControlSocket
from .events import Events
from .failures import DaemonFailures
from .methods import Methods
from .passes import Passes
from .reports import Reports

MARGIN = 0.1  # seconds that a timer is late on purpose: a pass that came too early would only set it again
BREATH = 0.5  # seconds between a pass that failed and the next, whatever asks for it


class Daemon:
    """The daemon of one root."""

    def __init__(self, sysroot: Sysroot, settings: Settings, log_level: Optional[str] = None) -> None:
        self.log_level = log_level  # given on the command line, it counts before the settings'
        self.sysroot = sysroot
        self.settings = SettingsSource(settings)
        self.notifier = Notifier()
        self.lock = Lock(sysroot)
        self.triggers = Triggers()
        self.watcher = Watcher(sysroot, self.triggers, self._watched)
        self.passes = Passes()
        self.events = Events(sysroot)
        self.reconciler = Reconciler(sysroot, self.settings, self.trigger, self.events.build)
        self.actions: tuple[Action, ...] = ()  # the last plan
        self.methods = Methods(self)
        self.socket = ControlSocket(sysroot, Server(self.methods.answers, self._readers))
        self.failures = DaemonFailures()
        self.stopping = asyncio.Event()
        self.is_ready = False  # and the service manager knows
        self.reload = False
        self.verify = False  # the next pass makes all checks anew
        self.settling = False  # and a pass follows as soon as the debounce is over
        self.timer: Optional[asyncio.TimerHandle] = None
        self.alerts = Alerts(sysroot, self.settings, build_owner)
        observers: list[Observer] = [self.alerts, self.events.changes]
        self.reports = Reports(self.reconciler, self.passes, self.events, self.notifier, self.lock, observers)
        self._configure_log()

    def _readers(self) -> int:
        return self.reconciler.logs.gid

    async def serve(self) -> None:
        """Run until SIGTERM. Raises Problem already-running or state-unwritable at the start."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self.failures.callback_failed)
        self.lock.acquire("kmodd")
        try:
            with contextlib.suppress(OSError):
                self.sysroot.failed.unlink()
            self.reconciler.heal()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop)
            loop.add_signal_handler(signal.SIGHUP, self.ask_reload)
            self._alive()
            await self.socket.open()
            self.watcher.start()
            get_logger().info("kmodd started", version=__version__, root=str(self.sysroot.root))
            self.triggers.add("start")
            work = asyncio.ensure_future(self._work())
            await asyncio.wait([work, asyncio.ensure_future(self.stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
            self.notifier.stopping()
            self.notifier.status("stopping")
            work.cancel()
            await self.failures.guard("closing the control socket", self.socket.server.stop)
            await asyncio.wait([work])
            await self.failures.guard("stopping builds", self.reconciler.stop)
            await self.failures.guard("stopping alerts", self.alerts.stop)
            await self.failures.guard("stopping events", self.events.stop)
            if not work.cancelled():
                work.result()
        finally:
            self.socket.listener.close()
            self.methods.stop()
            self.watcher.stop()
            self.lock.release()
        get_logger().info("kmodd stopped")

    # -- what callers ask for --------------------------------------------------------------------------------------
    def is_disturbed(self) -> bool:
        return self.settling or bool(self.triggers)

    def trigger(self, reason: str) -> None:
        """Ask for a pass that need not wait for changes on disk to end."""
        self.triggers.add(reason, moving=False)

    def ask_again(self, targets: Sequence[Target]) -> None:
        self.reconciler.ask_again(targets)
        self.trigger("Rebuild")

    def ask_verify(self) -> None:
        self.verify = True
        self.trigger("Verify")

    def status(self, report: Report) -> dict[str, Any]:
        return report.document(f"kmodd (pid {os.getpid()})", "building" if self.reconciler.builds else "idle")

    def ask_reload(self) -> None:
        self.notifier.reloading(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        self.reload = True
        self.triggers.add("reload")

    # -- signals and timers ----------------------------------------------------------------------------------------
    def _stop(self) -> None:
        self.stopping.set()

    def _alive(self) -> None:
        """Tell the watchdog, as long as the loop turns."""
        interval = self.notifier.watchdog_interval()
        if interval is not None:
            asyncio.get_running_loop().call_later(interval, self._alive)
            self.notifier.watchdog()

    def _wake_in(self, delay: Optional[float]) -> None:
        """Have a pass made in some seconds, and no longer at the time that was set before. None: only events help.

        Never later than the longest pause, even if the clock is set meanwhile: nobody sets the timer's own.
        """
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if delay is not None:
            delay = min(max(0.0, delay), self.reconciler.policy.retry_longest) + MARGIN
            self.timer = asyncio.get_running_loop().call_later(delay, self.trigger, "retry is due")

    # -- the loop --------------------------------------------------------------------------------------------------
    async def _work(self) -> None:
        while True:
            reload = False
            try:
                await self.triggers.arrival()
                reasons = await self._settle()
                self.passes.begin()
                get_logger().debug("looked again", reasons=" ".join(reasons))
                reload, self.reload = self.reload, False  # one asked for from here on is answered by the next pass
                await self._make_pass(reload)
                self.failures.pass_succeeded()
            except Exception as error:
                await self._pass_failed(error)
            if reload or not self.is_ready:
                self.is_ready = True
                self.notifier.ready()
                gc.collect()
                gc.freeze()

    async def _settle(self) -> tuple[str, ...]:
        self.settling = True
        try:
            quiet = self.settings.now.daemon.quiet
            return await settle(self.sysroot, self.triggers, quiet=quiet, on_transaction=self._transaction)
        finally:
            self.settling = False

    async def _make_pass(self, reload: bool) -> None:
        """Bring the root to what its registry says, once."""
        if reload:
            self._read_settings()
        self.lock.keep()
        self.reports.tell("looking")
        self.watcher.rearm()
        await self.socket.open()
        if self.verify:
            self.verify = False
            self.reconciler.observer.forget_checks()
        self.actions = await self.reconciler.settle()
        self._wake_in(self.reconciler.next_wake(self.actions))
        self.reports.make()

    async def _pass_failed(self, error: Exception) -> None:
        problem, pause = self.failures.pass_failed(error)
        self.triggers.collect()
        self._wake_in(pause)
        self.notifier.status(f"{problem.message}; trying again in {pause:.0f} s")
        self.passes.fail(problem)
        await asyncio.sleep(BREATH)

    def _transaction(self, pid: int) -> None:
        get_logger().info("waiting for the rpm transaction to end", pid=pid)
        self.notifier.status(f"waiting for the rpm transaction of pid {pid}")
        self.events.doing(f"waiting for the rpm transaction of pid {pid}")
        self.settling = False  # that may take long
        self.notifier.ready()  # else a scriptlet that starts or reloads kmodd would wait for its own transaction

    def _read_settings(self) -> None:
        """Apply changed settings without losing running builds; a bad file leaves the old ones in force."""
        try:
            settings = read_settings(self.sysroot)
        except Exception as error:
            problem = as_problem(error, "reading the settings")
            get_logger().error("settings refused", problem=problem.code, reason=problem.message, hint=problem.hint)
            return
        if settings != self.settings.now:
            self.settings.now = settings
            self.reconciler.reloaded()
            self._configure_log()
        get_logger().info("configuration read")

    def _configure_log(self) -> None:
        configure(self.log_level or self.settings.now.daemon.log_level)

    def _watched(self) -> tuple[str, ...]:
        """Return the directories of sources that the settings name."""
        settings = self.settings.now
        return (*settings.sources.srpm_path, *((DKMS_SOURCES,) if settings.dkms.adopt else ()))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="kmodd",
        description="Rebuild, sign and install out-of-tree kernel modules whenever a kernel appears.",
        epilog="It stays in the foreground and logs to stderr. kmoddctl(8) shows what it knows. See kmodd(8).",
    )
    parser.add_argument("--root", default="/", metavar="DIR", help="work on this root directory instead of /")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: kmodd.toml's")
    parser.add_argument("--version", action="version", version=f"kmodd {__version__}")
    return parser


def main() -> None:
    """Entry point of kmodd(8)."""
    options = make_parser().parse_args()
    configure(options.log_level or "info")
    os.umask(UMASK)
    try:
        sysroot = Sysroot.at(options.root)
        settings = read_settings(sysroot)

        async def serve() -> None:
            await Daemon(sysroot, settings, options.log_level).serve()

        asyncio.run(serve())
    except Exception as error:
        problem = as_problem(error, "running")
        event = "settings refused" if problem.code == "settings-invalid" else "kmodd cannot run"
        get_logger().critical(event, problem=problem.code, reason=problem.message, hint=problem.hint)
        sys.exit(1)
