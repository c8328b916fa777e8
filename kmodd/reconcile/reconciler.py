"""The reconciler, which brings a root to what its registry says: it observes, plans and applies, pass by pass.

A pass starts the builds that are due as tasks, and applies what needs no build first. A build that ends is a trigger
like any other. Must not: listen to the outside; daemon and ctl call it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from ..core.actions import (
    Action,
    BuildModule,
    InstallModule,
    ReloadModule,
    RemoveDropin,
    RemoveModule,
    RunDepmod,
    Wait,
    WriteDropin,
)
from ..core.errors import Problem
from ..core.model import Policy, Snapshot, Target
from ..core.planner import plan
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..deploy.dropins import DropinFiles
from ..deploy.install import Installation
from ..host.store import Store
from ..sign.making import KeyMaker
from ..system.deleting import delete_tree
from ..system.files import explained
from ..system.log import get_logger
from . import policy_of
from .alarm import Alarm
from .bootsteps import make_boot_steps
from .damage import DamageReports
from .depmod import DepmodWork
from .inputprobe import InputProbe
from .kernelprobe import KernelProbe
from .keysource import KeySource
from .logkeeping import LogKeeper
from .observe import Observer
from .reload import ReloadWork
from .remedies import Fetching
from .steps import (
    HOLD,
    BuildStep,
    DepmodStep,
    DropinStep,
    InstallStep,
    Pass,
    ReloadStep,
    RemoveStep,
    StepFailures,
    Steps,
    WaitStep,
    WriteStep,
)
from .stuck import Stuck
from .unexpected import BuildObserver, as_problem, clean_up

if TYPE_CHECKING:
    from .targets import TargetWork

MOST_PASSES = 50
#: Tells whether an action is wanted by somebody who asked for some of them only.
Wanted = Callable[[Action], bool]


class Reconciler:
    """Brings one root to what its registry says. trigger is called when a build ended."""

    def __init__(
        self,
        sysroot: Sysroot,
        settings: SettingsSource,
        trigger: Callable[[str], None],
        observe_build: BuildObserver = lambda *_: None,
        wanted: Wanted = lambda _: True,
        brief: bool = False,
    ) -> None:
        """brief: as KernelProbe's."""
        self.sysroot = sysroot
        self.settings = settings
        self.wanted = wanted
        self.store = Store(sysroot)
        self.dropins = DropinFiles(sysroot)
        self.keys = KeySource(sysroot, settings)
        self.inputs = InputProbe(sysroot, settings, KernelProbe(sysroot, self.store, brief))
        self.observer = Observer(sysroot, settings, self.store, self.dropins, self.keys, self.inputs)
        self.observe_build = observe_build
        self.installation = Installation(sysroot)
        self.fetching = Fetching(sysroot, settings, trigger)
        self.logs = LogKeeper(sysroot, settings)
        self.alarm = Alarm()
        self.stuck = Stuck(settings)
        self.snapshot: Optional[Snapshot] = None
        self.blocked: Optional[float] = None  # time.monotonic() until which nothing is done
        self.damage = DamageReports()
        self.sweep = True  # there may be logs of what is gone
        self._work: Optional[TargetWork] = None
        self.retried = 0.0  # when all that failed was last to be tried again, in seconds since the epoch
        self.step_failures = failures = StepFailures(self.alarm, settings)
        self.building = BuildStep(self.work, lambda: trigger("build ended"))
        self.installing = InstallStep(self.work, self.alarm)
        self.steps: Steps = {
            RemoveModule: RemoveStep(self.store, self.installation, self.logs, self.work, failures),
            BuildModule: self.building,
            InstallModule: self.installing,
            WriteDropin: WriteStep(self.dropins.write, "written", failures),
            RemoveDropin: DropinStep(self.dropins.remove, "removed", failures),
            RunDepmod: DepmodStep(DepmodWork(sysroot, self.store, self.inputs.kernels), failures),
            **make_boot_steps(sysroot, self.store, failures),
            ReloadModule: ReloadStep(ReloadWork(self.store), failures),
            Wait: WaitStep(),
        }

    def work(self) -> TargetWork:
        """Return who works on targets; imported when there is some work, since most passes find none."""
        if self._work is None:
            from .targets import TargetWork

            self._work = TargetWork(
                self.sysroot,
                self.settings,
                self.store,
                self.keys,
                self.inputs,
                self.installation,
                self.observe_build,
                self.logs,
            )
        return self._work

    @property
    def policy(self) -> Policy:
        return replace(policy_of(self.settings.now), retry_now=self.retried)

    @property
    def builds(self) -> list[Target]:
        """Return what is being built."""
        return list(self.building.builds)

    def reloaded(self) -> None:
        """Do what a start would do with settings that were read again; running builds keep theirs."""
        clean_up(self.logs.heal)

    # -- healing ---------------------------------------------------------------------------------------------------
    def heal(self) -> None:
        """Undo what a kill left half done; call once, holding the lock. Raises Problem."""
        if self.sysroot.ostree.exists():
            text = "this is an ostree system, whose /usr/lib/modules belongs to its image"
            hint = "build the modules into the image: kmoddctl sync --root DIR, where the image is made"
            raise Problem("ostree-host", text, hint)
        self.store.check_writable()
        clean_up(  # whatever one of them raises, new kernels need kmodd to run
            self.store.heal,
            self.dropins.heal,
            self.installation.heal,
            lambda: delete_leftovers(self.sysroot),
            self.logs.heal,
            KeyMaker(self.keys.now).heal,
            self.keys.now.publish,
        )

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
            tasks = [*self.building.tasks(), *self.fetching.running.values()]
            if not tasks and self.snapshot is not None:
                return self.snapshot
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=HOLD)

    async def stop(self) -> None:
        """Stop all builds; the next start goes on with them."""
        await self.building.stop()
        await self.fetching.stop()
        if self._work is not None:
            self._work.building.jobserver.close()

    async def _pass(self) -> tuple[tuple[Action, ...], tuple[Action, ...]]:
        """Observe, plan and apply once; returns the plan and what of it was applied."""
        self.alarm.reset()
        self._reap()
        snapshot = await self.observer.observe(frozenset(self.builds))
        self.snapshot = snapshot
        self.damage.report(snapshot)
        if self.sweep:
            clean_up(lambda: self.logs.sweep(snapshot, self.builds))
            self.sweep = False
        planned = [action for action in plan(snapshot, self.policy, time.time()) if self.wanted(action)]
        actions = tuple(action for action in planned if not self._is_stuck(action))
        if self._is_blocked():
            return actions, ()
        pending = {action.target: action for action in actions if isinstance(action, BuildModule)}
        if snapshot.again is not None:
            self.alarm.want_in(max(snapshot.again - time.time(), 0))
        return actions, await self._apply(actions, Pass(snapshot, pending))

    async def _apply(self, actions: Sequence[Action], current: Pass) -> tuple[Action, ...]:
        """Apply what is due, phase by phase; returns what was applied."""
        if await self.building.stop_unwanted(current):
            self.sweep = True  # one that was never built before has no record to be removed by
        applied: list[Action] = []
        for _, group in itertools.groupby(actions, key=lambda action: (action.phase, type(action))):
            alike = list(group)
            step = self.steps[type(alike[0])]
            due = [action for action in alike if step.due(action, current)]
            if due:
                applied += await step.apply(due, current)
        return tuple(applied)

    # -- what keeps actions from being applied ---------------------------------------------------------------------
    def _reap(self) -> None:
        for target, error in self.building.reap().items():
            self.installing.build_ended(target)
            if error is not None:  # not even the failure could be stored
                problem = as_problem(error, f"building {target}")
                self.blocked = time.monotonic() + self.policy.retry_first
                facts = {"problem": problem.code, "reason": problem.message, "hint": problem.hint}
                get_logger().error("outcome not stored", **facts)

    def _is_blocked(self) -> bool:
        if self.blocked is not None and time.monotonic() >= self.blocked:
            self.blocked = None
        if self.blocked is not None:
            self.alarm.want(self.blocked)
        return self.blocked is not None

    def _is_stuck(self, action: Action) -> bool:
        until = self.stuck.until(action)
        if until is not None:
            self.alarm.want(until)
        return until is not None

    def next_wake(self, actions: Sequence[Action]) -> Optional[float]:
        """Return in how many seconds something is due after the last pass; None where only events help.

        One time for all purposes: what none of them wants any more wakes nobody.
        """
        waits = [a.until - time.time() for a in actions if isinstance(a, Wait) and a.until is not None]
        times = [when for when in (self.alarm.when, self.fetching.next_try()) if when is not None]
        return min((*waits, *(when - time.monotonic() for when in times)), default=None)


def retry_now(reconciler: Reconciler) -> None:
    """Have the next pass try what failed for a passing reason, whatever pause it waits for."""
    reconciler.retried = time.time()
    reconciler.blocked = None
    reconciler.stuck.forget()
    reconciler.fetching.forget()
    reconciler.observer.inputs.confs.forget_pauses()


def delete_leftovers(sysroot: Sysroot) -> None:
    """Delete the temporary directories of builds and installations that a kill interrupted. Raises OSError."""
    for directory in (sysroot.scratch, sysroot.below(sysroot.cache, "sign")):
        if directory.is_dir():
            for path in directory.iterdir():
                delete_tree(path)
