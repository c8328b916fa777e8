"""The steps: what it means to apply an action of each kind. One class a step; Reconciler has the table.

Whether an action is wanted at all is the planner's; a step knows whether it can be applied in this pass.
Must not: decide on targets, or know the order, which the actions' phases tell.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Optional, TypeVar

from ..core.actions import Action, BuildModule, DropinAction, InstallModule, ReloadModule, RemoveModule, RunDepmod, Wait
from ..core.documents.failures import StepFailure
from ..core.errors import Problem
from ..core.model import Dropin, Snapshot, Target
from ..core.record import Installed
from ..core.settings import SettingsSource
from ..deploy.install import Installation
from ..host.store import Store
from ..system.log import get_logger
from .alarm import Alarm
from .depmod import DepmodWork
from .logkeeping import LogKeeper
from .reload import ReloadWork
from .unexpected import as_problem, clean_up

if TYPE_CHECKING:
    from .targets import TargetWork

MOST_REPORTED = 100  # failures of steps that are remembered
HOLD = 30.0  # seconds that finished objects wait for others of the same kernel, to share one depmod

#: Returns who works on targets; made when it is first needed, since most passes need nobody.
Work = Callable[[], "TargetWork"]
_Action = TypeVar("_Action", bound=Action)


@dataclass
class Pass:
    """One pass over a root: what was seen, what is to be built, and what was done so far."""

    snapshot: Snapshot
    pending: Mapping[Target, BuildModule]
    touched: set[str] = field(default_factory=set)  # kernels whose objects or overrides changed
    installed: set[str] = field(default_factory=set)  # modules that had something installed

    def has_installed(self, module: str) -> bool:
        """Tell whether something of a module is installed on any kernel."""
        records = self.snapshot.records.items()
        return module in self.installed or any(t.module == module and record.installed for t, record in records)


class Step(Generic[_Action]):
    """How actions of one kind are applied."""

    def due(self, action: _Action, current: Pass) -> bool:
        """Tell whether an action can be applied now, when those of earlier phases were."""
        return True

    async def apply(self, actions: Sequence[_Action], current: Pass) -> Iterable[_Action]:
        """Apply the actions that are due; returns those of which something changed, or was tried and recorded."""
        raise NotImplementedError


class StepFailures:
    """Reports what failed and has no record of its own; the next pass comes after the first pause."""

    def __init__(self, alarm: Alarm, settings: SettingsSource) -> None:
        self.alarm = alarm
        self.settings = settings
        self._reported: deque[tuple[float, StepFailure]] = deque(maxlen=MOST_REPORTED)

    def since(self, moment: float) -> list[StepFailure]:
        """Return what was reported since a moment, in seconds since the epoch."""
        return [failure for when, failure in self._reported if when >= moment]

    def report(self, event: str, action: Action, problem: Problem) -> None:
        facts = {"problem": problem.code, "reason": problem.message, "hint": problem.hint}
        get_logger().error(event, **facts, **action.subject.fields())
        subject = action.subject
        self._reported.append((time.time(), StepFailure(subject.module, subject.kernel, problem.fault)))
        self.alarm.want_in(self.settings.now.retry.first)


class RemoveStep(Step[RemoveModule]):
    """Deletes what is installed and remembered of targets."""

    def __init__(
        self, store: Store, installation: Installation, logs: LogKeeper, work: Work, failures: StepFailures
    ) -> None:
        self.store = store
        self.installation = installation
        self.logs = logs
        self.work = work
        self.failures = failures

    async def apply(self, actions: Sequence[RemoveModule], current: Pass) -> list[RemoveModule]:
        return [action for action in actions if await self._remove(action, current)]

    async def _remove(self, action: RemoveModule, current: Pass) -> bool:
        target, record = action.target, current.snapshot.records[action.target]
        kernel = current.snapshot.kernels.get(target.kernel)
        is_gone = kernel is None or not kernel.present
        try:
            self.installation.remove(target, record.installed or Installed())
            self.store.forget(target)
            if is_gone:
                self.store.forget_kernel(target.kernel)
                self.installation.clean_kernel(target.kernel)
        except Exception as error:
            self.failures.report("removal failed", action, as_problem(error, f"removing {target}"))
            return False
        await self.work().hooks.removed(target, record)
        if is_gone or target.module not in current.snapshot.modules:
            clean_up(lambda: self.logs.forget(target))
        get_logger().info("module removed", module=target.module, kernel=target.kernel, reason=action.reason)
        current.touched.add(target.kernel)
        return True


class BuildStep(Step[BuildModule]):
    """Starts builds as tasks, and stops those that are no longer wanted. ended: is called when one ended."""

    def __init__(self, work: Work, ended: Callable[[], None]) -> None:
        self.work = work
        self.ended = ended
        self.builds: dict[Target, tuple[BuildModule, asyncio.Task[None]]] = {}

    def due(self, action: BuildModule, current: Pass) -> bool:
        return action.target not in self.builds and not any(target in current.pending for target in action.after)

    async def apply(self, actions: Sequence[BuildModule], current: Pass) -> tuple[()]:
        """Start builds; their ends are triggers, and what they come to is applied then."""
        for action in actions:
            task = asyncio.get_running_loop().create_task(self.work().building.build(action, current.snapshot))
            self.builds[action.target] = (action, task)
            task.add_done_callback(lambda _: self.ended())
        return ()

    def tasks(self) -> list[asyncio.Task[None]]:
        return [task for _, task in self.builds.values()]

    def reap(self) -> dict[Target, Optional[Exception]]:
        """Forget the builds that ended; returns them, with what kept their outcomes from being stored."""
        found: dict[Target, Optional[Exception]] = {}
        for target, (_, task) in list(self.builds.items()):
            if task.done():
                del self.builds[target]
                error = None if task.cancelled() else task.exception()
                found[target] = error if isinstance(error, Exception) else None
        return found

    async def stop_unwanted(self, current: Pass) -> bool:
        """Stop builds that the plan no longer has, or with other inputs; tells whether there were any."""
        if current.snapshot.again is not None:
            return False  # whether any is still wanted could not be determined
        unwanted = [
            target
            for target, (running, _) in self.builds.items()
            if current.snapshot.of(target).unseen is None  # likewise
            if target not in current.pending or current.pending[target].inputs != running.inputs
        ]
        for target in unwanted:
            get_logger().info("build no longer wanted", module=target.module, kernel=target.kernel)
            await self._cancel(target)
        return bool(unwanted)

    async def stop(self) -> None:
        """Stop all builds."""
        for target in list(self.builds):
            await self._cancel(target)

    async def _cancel(self, target: Target) -> None:
        _, task = self.builds.pop(target)
        task.cancel()
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if error is not None:
            get_logger().warning("outcome not stored", module=target.module, kernel=target.kernel, reason=str(error))


class InstallStep(Step[InstallModule]):
    """Installs what was built, all that is due at once, and so that few depmods are needed."""

    def __init__(self, work: Work, alarm: Alarm) -> None:
        self.work = work
        self.alarm = alarm
        self._held: dict[str, float] = {}  # kernel -> when the first build whose objects are held ended

    def build_ended(self, target: Target) -> None:
        self._held.setdefault(target.kernel, time.monotonic())

    def due(self, action: InstallModule, current: Pass) -> bool:
        """Tell whether an installation waits no longer: for its own build, or for others to share a depmod with."""
        if action.target in current.pending:
            return False
        kernel = action.target.kernel
        if not any(other.kernel == kernel for other in current.pending):
            self._held.pop(kernel, None)
            return True
        until = self._held.setdefault(kernel, time.monotonic()) + HOLD
        if time.monotonic() >= until:
            return True
        self.alarm.want(until)
        return False

    async def apply(self, actions: Sequence[InstallModule], current: Pass) -> Sequence[InstallModule]:
        for action, done in zip(actions, await self.work().installing.install(actions, current.snapshot)):
            if done:
                current.touched.add(action.target.kernel)
                current.installed.add(action.target.module)
        return actions


class DropinStep(Step[DropinAction]):
    """Changes generated files. change: does it; done: its participle, for the log."""

    def __init__(self, change: Callable[[Dropin], None], done: str, failures: StepFailures) -> None:
        self.change = change
        self.done = done
        self.failures = failures

    async def apply(self, actions: Sequence[DropinAction], current: Pass) -> list[DropinAction]:
        return [action for action in actions if self._change(action, current)]

    def _change(self, action: DropinAction, current: Pass) -> bool:
        dropin = action.dropin
        try:
            self.change(dropin)
        except Exception as error:
            problem = as_problem(error, f"{dropin.kind}.d of {dropin.module}")
            self.failures.report("configuration not written", action, problem)
            return False
        get_logger().info(f"configuration {self.done}", module=dropin.module, kind=f"{dropin.kind}.d")
        everywhere = [kernel.release for kernel in current.snapshot.present()]
        current.touched.update(dropin.kernels if dropin.kernels is not None else everywhere)
        return True


class WriteStep(DropinStep):
    """Writes generated files, not before something of their modules is installed."""

    def due(self, action: DropinAction, current: Pass) -> bool:
        return current.has_installed(action.dropin.module)


class DepmodStep(Step[RunDepmod]):
    """Runs depmod for kernels whose objects changed, or whose index is stale while nothing is built for them."""

    def __init__(self, indexing: DepmodWork, failures: StepFailures) -> None:
        self.indexing = indexing
        self.failures = failures

    def due(self, action: RunDepmod, current: Pass) -> bool:
        release = action.kernel
        if release in current.touched:
            return True
        kernel = current.snapshot.kernels[release]
        is_wrong = bool(kernel.depmod_stale) or action.kind in kernel.failures
        return is_wrong and not any(target.kernel == release for target in current.pending)

    async def apply(self, actions: Sequence[RunDepmod], current: Pass) -> Sequence[RunDepmod]:
        for action in actions:
            last = current.snapshot.kernels[action.kernel].failures.get(action.kind)
            problem = await self.indexing.run(action, last)
            if problem is not None:
                self.failures.report("depmod failed", action, problem)
        return actions


class ReloadStep(Step[ReloadModule]):
    """Puts what is installed in place of what the running kernel has in memory."""

    def __init__(self, memory: ReloadWork, failures: StepFailures) -> None:
        self.memory = memory
        self.failures = failures

    async def apply(self, actions: Sequence[ReloadModule], current: Pass) -> list[ReloadModule]:
        return [action for action in actions if await self._reload(action, current)]

    async def _reload(self, action: ReloadModule, current: Pass) -> bool:
        try:
            await self.memory.reload(action, current.snapshot)
        except Exception as error:
            self.failures.report("reload not begun", action, as_problem(error, f"reloading {action.target}"))
            return False
        return True


class WaitStep(Step[Wait]):
    """Does nothing: the next pass comes with an event, or when the wait is over."""

    def due(self, action: Wait, current: Pass) -> bool:
        return False


#: Kind of action -> its step.
Steps = Mapping[type[Action], Step[Any]]
