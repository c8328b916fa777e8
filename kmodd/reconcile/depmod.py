"""Running depmod for a kernel. What became of it goes into the store, so that one that did not help is not repeated.

Must not: decide whether it is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Optional

from ..core.actions import RunDepmod
from ..core.errors import Problem
from ..core.record import Attempt, Depmod
from ..core.sysroot import Sysroot
from ..deploy.install import find_culprits, run_depmod
from ..host.store import Store
from ..system.log import get_logger
from ..system.moduleindex import State
from .kernelprobe import KernelProbe
from .unexpected import as_problem


class DepmodWork:
    """The depmods of one root."""

    def __init__(self, sysroot: Sysroot, store: Store, kernels: KernelProbe) -> None:
        self.sysroot = sysroot
        self.store = store
        self.kernels = kernels

    async def run(self, action: RunDepmod, last: Optional[Attempt]) -> Optional[Problem]:
        """Run depmod and store the outcome; returns what went wrong. last: the kernel's last one, if that failed."""
        release, began = action.kernel, time.time()
        try:
            inputs, installed = await asyncio.to_thread(self.kernels.depmod_inputs, release)
            state = await run_depmod(self.sysroot, release)
            omitted = self.kernels.reader.indexes.find_omitted(self.sysroot.kernel(release), installed)
        except Exception as error:
            problem = await self._blame(release, as_problem(error, f"depmod for {release}"))
            self._remember(release, self._failed(began, problem, last), None)
            return problem
        self._remember(release, None, Depmod(inputs=inputs, outputs=state, omitted=omitted))
        self._tell_omitted(release, omitted)
        get_logger().info("depmod ran", kernel=release, seconds=round(time.time() - began, 2), reason=action.reason)
        return None

    async def _blame(self, release: str, problem: Problem) -> Problem:
        """Return what went wrong with the files named that depmod fails over, if it was these."""
        if problem.code != "depmod-failed":
            return problem
        try:
            culprits = await find_culprits(self.sysroot, release)
        except (Problem, OSError):  # what depmod itself said is what there is
            return problem
        if not culprits:
            return problem
        path, said = culprits[0]
        more = f", and over {len(culprits) - 1} more" if len(culprits) > 1 else ""
        text = f"depmod for {release} fails over {path}{more}: {said}"
        hint = f"no module of this kernel is found until it succeeds: remove {path}, or have its owner mend it"
        return Problem(problem.code, text, hint, transient=True)

    def _tell_omitted(self, release: str, omitted: State) -> None:
        if omitted:
            hint = "look for search and exclude in depmod.d(5)"
            get_logger().warning("depmod omitted objects", kernel=release, objects=" ".join(omitted), hint=hint)

    def _failed(self, began: float, problem: Problem, last: Optional[Attempt]) -> Attempt:
        return Attempt(
            began=began,
            ended=time.time(),
            stage="install",
            outcome="failed",
            problem=problem.code,
            message=problem.message,
            hint=problem.hint,
            transient=True,
            failures=(last.failures if last else 0) + 1,
        )

    def _remember(self, release: str, attempt: Optional[Attempt], done: Optional[Depmod]) -> None:
        """Store an outcome; where that cannot be written, the next pass only knows less."""
        with contextlib.suppress(OSError):
            self.store.note_step(release, RunDepmod.kind, attempt, done)
