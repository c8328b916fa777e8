"""The reconciler, which brings a root to what its registry says: it looks, plans and applies, pass by pass.

A pass looks, plans, starts the builds that are due as tasks, and applies what needs no build first. A build that
ends is a trigger like any other. Must not: listen to the outside; daemon and ctl call it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Optional, Union

from ..config import Settings
from ..deleting import delete_tree
from ..errors import Problem
from ..files import explained
from ..install import Installation
from ..log import get_logger
from ..model import (
    Action,
    BuildModule,
    InstallModule,
    ReloadModule,
    RemoveDropin,
    RemoveModule,
    RunDepmod,
    Snapshot,
    Target,
    Wait,
    WriteDropin,
)
from ..paths import Sysroot
from ..planner import plan
from ..record import Installed
from ..sign.making import KeyMaker
from . import policy_of
from .fetching import Fetching
from .indexing import IndexWork
from .logkeeping import LogKeeper
from .memory import MemoryWork
from .observe import Observer
from .outcome import BuildObserver, as_problem
from .stuck import Stuck

if TYPE_CHECKING:
    from .targets import TargetWork

HOLD = 30.0  # seconds that finished objects wait for others of the same kernel, to share one depmod
MOST_PASSES = 50
#: Tells whether an action is wanted by somebody who asked for some of them only.
Wanted = Callable[[Action], bool]


class Reconciler:
    """Brings one root to what its registry says. knock is called when a build ended."""

    def __init__(
        self,
        sysroot: Sysroot,
        settings: Settings,
        knock: Callable[[str], None],
        observe_build: BuildObserver = lambda *_: None,
        wanted: Wanted = lambda _: True,
        brief: bool = False,
    ) -> None:
        """brief: as Observer's."""
        self.sysroot = sysroot
        self.settings = settings
        self.wanted = wanted
        self.policy = policy_of(settings)
        self.observer = Observer(sysroot, settings, brief)
        self.observe_build = observe_build
        self.installation = Installation(sysroot)
        self.fetching = Fetching(sysroot, settings, knock)
        self.store = self.observer.store
        self.logs = LogKeeper(sysroot, settings.build.log_group, settings.build.keep_logs)
        self.memory = MemoryWork(self.store)
        self.indexing = IndexWork(sysroot, self.observer)
        self.knock = knock
        self.builds: dict[Target, tuple[BuildModule, asyncio.Task[None]]] = {}
        self.finished: dict[str, float] = {}  # kernel -> when the first held build ended
        self.snapshot: Optional[Snapshot] = None
        self.blocked: Optional[float] = None  # time.monotonic() until which nothing is done
        self.wake: Optional[float] = None  # time.monotonic() of the earliest thing that only time brings
        self.damaged: dict[Target, str] = {}  # as told
        self.sweep = True  # there may be logs of what is gone
        self.stuck = Stuck(self.policy)

    @functools.cached_property
    def work(self) -> TargetWork:
        """The work on targets, imported when there is some: most looks find none."""
        from .targets import TargetWork

        return TargetWork(self.sysroot, self.settings, self.observer, self.installation, self.observe_build, self.logs)

    def take(self, settings: Settings) -> None:
        """Go on with other settings; running builds keep theirs."""
        self.settings = self.fetching.settings = settings
        self.policy = self.stuck.policy = policy_of(settings)
        if "work" in self.__dict__:
            self.work.take(settings)
        self.observer.take(settings)
        self.logs.keep, before = settings.build.keep_logs, self.logs.group
        self.logs.group = settings.build.log_group
        if self.logs.group != before:
            self._step(self.logs.heal)

    # -- healing ---------------------------------------------------------------------------------------------------
    def heal(self) -> None:
        """Undo what a kill left half done; call once, holding the lock. Raises Problem."""
        if self.sysroot.ostree.exists():
            text = "this is an ostree system, whose /usr/lib/modules belongs to its image"
            hint = "build the modules into the image: kmoddctl sync --root DIR, where the image is made"
            raise Problem("ostree-host", text, hint)
        self.store.check_writable()
        for step in (
            self.store.heal,
            self.observer.dropins.heal,
            self.installation.heal,
            self._heal_scratch,
            self.logs.heal,
            KeyMaker(self.observer.keyring).heal,
            self.observer.keyring.publish,
        ):
            self._step(step)

    def _step(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # whatever it is, new kernels need kmodd to run
            get_logger().warning("clean-up incomplete", reason=f"{type(error).__name__}: {error}")

    def _heal_scratch(self) -> None:
        for directory in (self.sysroot.scratch, self.sysroot.below(self.sysroot.cache, "sign")):
            if directory.is_dir():
                for path in directory.iterdir():
                    delete_tree(path)

    def ask_again(self, targets: Sequence[Target]) -> None:
        """Have targets built again, which a kill does not make forgotten. Raises Problem."""
        for target in targets:
            with explained(f"storing that {target} is to be built again"):
                self.store.write(self.store.record(target).model_copy(update={"asked": True}))

    # -- passes ----------------------------------------------------------------------------------------------------
    async def settle(self) -> tuple[Action, ...]:
        """Make passes until only running builds and waits are left; returns the last plan. Raises Problem.

        What stays due however often it is done is left alone for a while, and the rest goes on.
        """
        previous: tuple[Action, ...] = ()
        for _ in range(MOST_PASSES):
            actions, applied = await self._pass()
            if not applied:
                self.fetching.start(actions)
                return actions
            if applied == previous:
                self.stuck.pause(applied)
            previous = applied
        self.stuck.pause(applied)  # they undo one another
        return actions

    async def run_to_end(self) -> Snapshot:
        """Settle, wait for builds, and so on until nothing runs; returns what was seen when nothing was left to do."""
        while True:
            await self.settle()
            tasks = [*(task for _, task in self.builds.values()), *self.fetching.running.values()]
            if not tasks and self.snapshot is not None:
                return self.snapshot
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=HOLD)

    async def stop(self) -> None:
        """Stop all builds; the next start goes on with them."""
        for target in list(self.builds):
            await self._cancel(target)
        await self.fetching.stop()
        if "work" in self.__dict__:
            self.work.jobserver.close()

    async def _cancel(self, target: Target) -> None:
        _, task = self.builds.pop(target)
        task.cancel()
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if error is not None:
            get_logger().warning("outcome not stored", module=target.module, kernel=target.kernel, reason=str(error))

    def _reap(self) -> None:
        for target, (_, task) in list(self.builds.items()):
            if task.done():
                del self.builds[target]
                error = None if task.cancelled() else task.exception()
                if isinstance(error, Exception):
                    self._block(as_problem(error, f"building {target}"))
                self.finished.setdefault(target.kernel, time.monotonic())

    def _block(self, problem: Problem) -> None:
        """Pause after a failure that could not even be stored."""
        self.blocked = time.monotonic() + self.policy.retry_first
        get_logger().error("outcome not stored", problem=problem.code, reason=problem.message, hint=problem.hint)

    def _is_blocked(self) -> bool:
        if self.blocked is not None and time.monotonic() >= self.blocked:
            self.blocked = None
        if self.blocked is not None:
            self._want_wake(self.blocked)
        return self.blocked is not None

    def _is_stuck(self, action: Action) -> bool:
        until = self.stuck.until(action)
        if until is not None:
            self._want_wake(until)
        return until is not None

    def _want_wake(self, when: float) -> None:
        """Have the next look not begin later than that, time.monotonic(). Counts for this pass alone."""
        self.wake = when if self.wake is None else min(self.wake, when)

    def next_wake(self, actions: Sequence[Action]) -> Optional[float]:
        """Return in how many seconds something is due after the last pass; None where only events help.

        One time for all purposes: what none of them wants any more wakes nobody.
        """
        waits = [a.until - time.time() for a in actions if isinstance(a, Wait) and a.until is not None]
        times = [when for when in (self.wake, self.fetching.next_try()) if when is not None]
        return min((*waits, *(when - time.monotonic() for when in times)), default=None)

    async def _pass(self) -> tuple[tuple[Action, ...], tuple[Action, ...]]:
        """Look, plan and apply once; returns the plan and what of it was applied."""
        self.wake = None
        self._reap()
        snapshot = await self.observer.observe(frozenset(self.builds))
        self.snapshot = snapshot
        self._tell_damage(snapshot)
        if self.sweep:
            self._step(lambda: self.logs.sweep(snapshot, self.builds))
            self.sweep = False
        planned = [action for action in plan(snapshot, self.policy, time.time()) if self.wanted(action)]
        actions = tuple(action for action in planned if not self._is_stuck(action))
        if self._is_blocked():
            return actions, ()
        applied: list[Action] = []
        pending = {a.target: a for a in actions if isinstance(a, BuildModule)}
        if snapshot.again is not None:
            self._want_wake(time.monotonic() + max(snapshot.again - time.time(), 0))
        for target, (running, _) in list(self.builds.items()):
            if target in snapshot.unseen or snapshot.again is not None:
                continue  # whether it is still wanted could not be told
            if target not in pending or pending[target].inputs != running.inputs:
                get_logger().info("build no longer wanted", module=target.module, kernel=target.kernel)
                await self._cancel(target)
                self.sweep = True  # one that was never built before has no record to be removed by
        touched: set[str] = set()
        installed: set[str] = set()
        for action in actions:
            if isinstance(action, RemoveModule):
                if await self._remove(action, snapshot):
                    touched.add(action.target.kernel)
                    applied.append(action)
            elif isinstance(action, BuildModule):
                self._start(action, pending, snapshot)
        due = [a for a in actions if isinstance(a, InstallModule) and not self._held(a.target, pending)]
        for action, done in zip(due, await self.work.install(due, snapshot) if due else ()):
            if done:
                touched.add(action.target.kernel)
                installed.add(action.target.module)
            applied.append(action)
        installed |= {target.module for target, record in snapshot.records.items() if record.installed}
        for action in actions:
            if isinstance(action, (WriteDropin, RemoveDropin)) and self._change_dropin(action, installed):
                applied.append(action)
        touched |= _overridden(applied, snapshot)
        for action in actions:
            if isinstance(action, RunDepmod) and await self._depmod(action, touched, snapshot, pending):
                applied.append(action)
        for action in actions:
            if isinstance(action, ReloadModule) and await self._reload(action, snapshot):
                applied.append(action)
        return actions, tuple(applied)

    def _tell_damage(self, snapshot: Snapshot) -> None:
        """Log what somebody else did to installed objects, before it is mended."""
        found = {
            target: what
            for target, what in snapshot.damaged.items()
            if target.kernel in snapshot.kernels and snapshot.kernels[target.kernel].present
        }
        for target, what in sorted(found.items()):
            if self.damaged.get(target) != what:
                get_logger().warning(
                    "installed object changed", module=target.module, kernel=target.kernel, reason=what
                )
        self.damaged = found

    # -- actions ---------------------------------------------------------------------------------------------------
    def _start(self, action: BuildModule, pending: dict[Target, BuildModule], snapshot: Snapshot) -> None:
        if action.target in self.builds or any(target in pending for target in action.after):
            return
        task = asyncio.get_running_loop().create_task(self.work.build(action, snapshot))
        self.builds[action.target] = (action, task)
        task.add_done_callback(lambda _: self.knock("build ended"))

    def _held(self, target: Target, pending: dict[Target, BuildModule]) -> bool:
        """Tell whether an installation waits: for its own build, or a while for others to share a depmod with."""
        if target in pending:
            return True
        if not any(other.kernel == target.kernel for other in pending):
            self.finished.pop(target.kernel, None)
            return False
        since = time.monotonic() - self.finished.setdefault(target.kernel, time.monotonic())
        if since >= HOLD:
            return False
        self._want_wake(time.monotonic() + HOLD - since)
        return True

    async def _remove(self, action: RemoveModule, snapshot: Snapshot) -> bool:
        target, record = action.target, snapshot.records[action.target]
        try:
            self.installation.remove(target, record.installed or Installed())
            self.store.forget(target)
            kernel = snapshot.kernels.get(target.kernel)
            if kernel is None or not kernel.present:
                self.store.forget_kernel(target.kernel)
                self.installation.clean_kernel(target.kernel)
        except Exception as error:
            problem = as_problem(error, f"removing {target}")
            self._failed("removal failed", problem, module=target.module, kernel=target.kernel)
            return False
        await self.work.hooks.removed(target, record)
        if target.module not in snapshot.modules or kernel is None or not kernel.present:
            self._step(lambda: self.logs.forget(target))
        get_logger().info("module removed", module=target.module, kernel=target.kernel, reason=action.reason)
        return True

    def _change_dropin(self, action: Union[WriteDropin, RemoveDropin], installed: set[str]) -> bool:
        dropin = action.dropin
        if isinstance(action, WriteDropin) and dropin.module not in installed:
            return False
        try:
            if isinstance(action, WriteDropin):
                self.observer.dropins.write(dropin)
            else:
                self.observer.dropins.remove(dropin)
        except Exception as error:
            problem = as_problem(error, f"{dropin.kind}.d of {dropin.module}")
            self._failed("configuration not written", problem, module=dropin.module)
            return False
        what = "written" if isinstance(action, WriteDropin) else "removed"
        get_logger().info(f"configuration {what}", module=dropin.module, kind=f"{dropin.kind}.d")
        return True

    async def _depmod(
        self, action: RunDepmod, touched: set[str], snapshot: Snapshot, pending: dict[Target, BuildModule]
    ) -> bool:
        release = action.kernel
        last = snapshot.kernel_attempts.get(release)
        failed = last is not None and last.outcome == "failed"
        held = any(target.kernel == release for target in pending)
        if release not in touched and (held or not (snapshot.kernels[release].depmod_stale or failed)):
            return False
        problem = await self.indexing.run(action, last if failed else None)
        if problem is not None:
            self._failed("depmod failed", problem, kernel=release)
        return True

    async def _reload(self, action: ReloadModule, snapshot: Snapshot) -> bool:
        try:
            await self.memory.reload(action, snapshot)
        except Exception as error:
            problem = as_problem(error, f"reloading {action.target}")
            self._failed("reload not begun", problem, module=action.target.module, kernel=action.target.kernel)
            return False
        return True

    def _failed(self, event: str, problem: Problem, **fields: str) -> None:
        """Report a failure that has no record of its own, and look again after the first pause."""
        get_logger().error(event, problem=problem.code, reason=problem.message, hint=problem.hint, **fields)
        self._want_wake(time.monotonic() + self.policy.retry_first)


def _overridden(applied: Sequence[Action], snapshot: Snapshot) -> set[str]:
    """Return the kernels that changed depmod.d files speak of."""
    found: set[str] = set()
    for action in applied:
        if isinstance(action, (WriteDropin, RemoveDropin)):
            kernels = action.dropin.kernels
            found.update(kernels if kernels is not None else [kernel.release for kernel in snapshot.present()])
    return found
