"""Building one target, in a task of its own. The outcome goes into the store.

Must not: decide whether it is due, or install.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Optional

from ..core.actions import BuildModule
from ..core.model import Snapshot, Target
from ..core.record import Attempt, Built, FirstError
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..host.store import Store
from ..kbuild.builder import Builder, BuildResult
from ..kbuild.buildmethod import BuildSpec
from ..kbuild.failure import find_error, read
from ..kbuild.jobserver import Jobserver, Share
from ..kbuild.logfiles import ENDING
from ..system.files import explained
from ..system.log import get_logger
from ..system.threads import finish_in_thread
from .attempts import Attempts
from .inputprobe import InputProbe
from .logkeeping import LogKeeper
from .reserve import Reserve
from .staging import Staging
from .unexpected import BuildObserver, as_problem


class Building:
    """Builds single targets of one root."""

    def __init__(
        self,
        sysroot: Sysroot,
        settings: SettingsSource,
        store: Store,
        inputs: InputProbe,
        observe_build: BuildObserver,
        logs: LogKeeper,
    ) -> None:
        self.sysroot = sysroot
        self.store = store
        self.inputs = inputs
        self.observe_build = observe_build
        self.logs = logs
        self.attempts = Attempts(store)
        self.jobserver = Jobserver(lambda: settings.now.jobs)
        self.builder = Builder(sysroot, self.jobserver, settings)
        self.reserve = Reserve(sysroot, settings)
        self.staging = Staging(sysroot, inputs.sources, self.builder, inputs.signatures)

    async def build(self, action: BuildModule, snapshot: Snapshot) -> None:
        """Build a target and store the outcome; a cancelled build leaves no trace but its log."""
        target, log = action.target, get_logger().bind(module=action.target.module, kernel=action.target.kernel)
        async with self.jobserver.job() as share:
            began = time.time()
            log.info("build started", reason=action.reason)
            outcome, path = "failed", None
            try:
                path = self.logs.open(target)
                self.observe_build(target, "started", path, 0.0)
                await asyncio.to_thread(self.reserve.check)
                scratch = self.sysroot.scratch / target.directory
                work = self._try(action, snapshot, path, share, began)
                warnings = await self.reserve.keep(scratch, work)
                outcome = "discarded" if warnings is None else "succeeded"
                if warnings is not None:
                    log.info("module built", seconds=round(time.time() - began, 1), warnings="; ".join(warnings))
            except asyncio.CancelledError:
                outcome = "stopped"
                log.info("build stopped")
                raise
            except Exception as error:
                problem = as_problem(error, f"building {target}")
                if not problem.transient and await self._have_inputs_changed(action, snapshot):
                    outcome = "discarded"
                else:
                    first = await asyncio.to_thread(_first_error, path)
                    where = self.sysroot.inside(path) if path else ""
                    self.attempts.fail(target, "build", action.inputs, problem, began, where, first)
            finally:
                if outcome == "discarded":
                    log.info("build discarded", reason="its inputs changed while it ran")
                _close_log(path, outcome, time.time() - began)
                self.observe_build(target, outcome, path, time.time() - began)

    async def _try(
        self, action: BuildModule, snapshot: Snapshot, path: Path, share: Share, began: float
    ) -> Optional[tuple[str, ...]]:
        """Build a target in a scratch directory of its own and keep what that yields.

        path: of the log. share: of the jobserver. Returns the warnings, None where an input changed meanwhile.
        Raises Problem.
        """
        target = action.target
        module, kernel = snapshot.modules[target.module], snapshot.kernels[target.kernel]
        scratch = self.builder.make_scratch(target.directory)
        try:
            compiler = await self.inputs.compiler(kernel)
            kernels = snapshot.kernels.values()
            staged = await self.staging.stage(module, kernel, scratch, path, snapshot.modules, kernels, action.inputs)
            depends = [self.store.symvers(Target(name, target.kernel)) for name in snapshot.depends(target)]
            spec = BuildSpec(
                module,
                kernel,
                compiler,
                scratch,
                path,
                share,
                symvers=(*(s for s in depends if s is not None), *staged.symvers),
                patches=staged.patches,
                patched=staged.patched,
                archive=staged.archive,
                recipe=snapshot.of(target).recipe,
            )
            made = await self.builder.build(spec)
            if await self._have_inputs_changed(action, snapshot):
                return None
            await asyncio.to_thread(self.reserve.check, sum(path.stat().st_size for path in made.objects))
            with explained(f"storing the objects of {target}"):
                where = self.sysroot.inside(path)
                await finish_in_thread(self._keep, action, snapshot, made, compiler.version, began, where)
            return made.warnings
        finally:
            await asyncio.to_thread(self.builder.drop_scratch, scratch)

    async def _have_inputs_changed(self, action: BuildModule, snapshot: Snapshot) -> bool:
        module, kernel = snapshot.modules[action.target.module], snapshot.kernels[action.target.kernel]
        return await self.inputs.have_changed(module, kernel, action.inputs)

    def _keep(
        self, action: BuildModule, snapshot: Snapshot, made: BuildResult, compiler: str, began: float, where: str
    ) -> None:
        target, module = action.target, snapshot.modules[action.target.module]
        objects = self.store.keep_objects(target, list(made.objects), made.symvers)
        ended = time.time()
        record = self.store.record(target)
        attempt = Attempt(
            began=began,
            ended=ended,
            stage="build",
            outcome="succeeded",
            inputs=dict(action.inputs),
            log=where,
            warnings=made.warnings,
        )
        built = Built(
            inputs=dict(action.inputs),
            objects=objects,
            version=module.file.module.version,
            compiler=compiler,
            warnings=made.warnings,
            ended=ended,
        )
        self.store.write(
            record.model_copy(
                update={
                    "attempt": attempt,
                    "asked": False,
                    "built": built,
                    "module_file": module.path,
                    "version": module.file.module.version,
                }
            )
        )


def _first_error(log: Optional[Path]) -> Optional[FirstError]:
    """Return the first error in a log, None where it has none or cannot be read."""
    try:
        found = find_error(read(log)) if log else None
    except OSError:
        return None
    return FirstError.model_validate(found) if found else None


def _close_log(path: Optional[Path], outcome: str, seconds: float) -> None:
    """Write a log's last line; it is only for readers, so a full disk does not matter."""
    if path is not None:
        with contextlib.suppress(OSError), path.open("a") as stream:
            stream.write(ENDING.format(outcome=outcome, seconds=seconds) + "\n")
