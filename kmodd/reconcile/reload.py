"""Putting what is installed in place of what the running kernel has in memory. Outcomes go into the store.

What is to be loaded is stored before anything is unloaded, so that the next pass finishes what was interrupted.
Must not: decide whether it is due, or force anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Container, Sequence

from ..core.actions import ReloadModule
from ..core.errors import Problem
from ..core.model import Presence, Snapshot, Target
from ..core.record import Reload
from ..core.reloadplan import reload_inputs
from ..core.sysroot import SYSTEMD_RUNS
from ..host.store import Store
from ..system.files import explained
from ..system.log import get_logger
from ..system.run import TRANSIENT_UNIT, explain, run

AGAIN = "kmodd tries again by itself"
TRIES = 3  # of loading what was unloaded, where accidents prevent it
LIMIT = 120.0  # seconds that unloading or loading one object may last


class ReloadWork:
    """Reloads objects of the running kernel."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def reload(self, action: ReloadModule, snapshot: Snapshot) -> None:
        """Exchange objects; once begun, it is brought to its end before a cancellation counts. Raises Problem."""
        work = asyncio.ensure_future(self._reload(action, snapshot))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            with contextlib.suppress(Problem):
                await work
            raise

    async def _reload(self, action: ReloadModule, snapshot: Snapshot) -> None:
        began = time.time()
        own: dict[Target, tuple[str, ...]] = {}
        for target in (action.target, *action.along):
            theirs = {item.name for item in snapshot.of(target).loaded}
            own[target] = tuple(name for name in action.objects if name in theirs)
            inputs = reload_inputs(target, snapshot)
            self._remember(target, Reload(outcome="began", began=began, inputs=inputs, objects=own[target]))
        items = [item for row in snapshot.targets.values() for item in row.loaded]
        there = {item.name for item in items if item.presence is not Presence.ABSENT}
        unloaded, refused, accident = await self._unload(action.objects, there)
        failed, interrupted = await self._load([*reversed(unloaded)])
        for target, names in own.items():
            if accident or interrupted.keys() & set(names):
                continue  # it stays begun, so that the next pass goes on with it
            problems = [failed[name] for name in names if name in failed] or refused
            self._conclude(action, target, names, problems, began, reload_inputs(target, snapshot))
        for problem in (*accident, *interrupted.values()):
            raise problem

    async def _unload(
        self, names: Sequence[str], there: Container[str]
    ) -> tuple[list[str], list[Problem], list[Problem]]:
        """Unload objects that are loaded until one stays.

        Returns those that are not there now, or may not be, a refusal, and an accident, if any.
        """
        unloaded: list[str] = []
        for name in names:
            try:
                if name in there:  # not modprobe -r, which would unload unused modules that it depends on, too
                    await _call("rmmod", name)
            except Problem as problem:
                text = f"the kernel would not unload {name}: {problem.message}"
                if problem.transient:  # it may be out, or not
                    unknown = f"it is not known whether {name} was unloaded: {problem.message}"
                    return [*unloaded, name], [], [Problem(problem.code, unknown, AGAIN, transient=True)]
                hint = f"modprobe -r {name} && modprobe {name}, or reboot"
                return unloaded, [Problem("reload-refused", text, hint)], []
            unloaded.append(name)
        return unloaded, [], []

    async def _load(self, names: Sequence[str]) -> tuple[dict[str, Problem], dict[str, Problem]]:
        """Load objects; returns what the kernel says of those that it refuses, and accidents of others."""
        failed: dict[str, Problem] = {}
        interrupted: dict[str, Problem] = {}
        for name in names:
            try:
                await _insist("modprobe", name)
            except Problem as problem:
                text = f"{name} was unloaded, but the installed one could not be loaded: {problem.message}"
                if problem.transient:
                    interrupted[name] = Problem(problem.code, text, AGAIN, transient=True)
                else:
                    hint = "dmesg tells the kernel's reason; correct the source, and kmodd loads what it then builds"
                    failed[name] = Problem("reload-failed", text, hint)
        return failed, interrupted

    def _conclude(
        self,
        action: ReloadModule,
        target: Target,
        names: tuple[str, ...],
        problems: list[Problem],
        began: float,
        inputs: dict[str, str],
    ) -> None:
        log = get_logger().bind(module=target.module, kernel=target.kernel, objects=" ".join(names))
        tried = Reload(outcome="succeeded", began=began, inputs=inputs, objects=names)
        if problems:
            found = problems[0]
            facts = {"problem": found.code, "message": found.message, "hint": found.hint, "outcome": "failed"}
            tried = tried.model_copy(update={**facts, "absent": found.code == "reload-failed"})
            log.error("reload failed", problem=found.code, reason=found.message, hint=found.hint)
        else:
            log.info("module reloaded", seconds=round(time.time() - began, 2), reason=action.reason)
        self._remember(target, tried)

    def _remember(self, target: Target, tried: Reload) -> None:
        with explained(f"storing that {target} is reloaded"):
            self.store.write(self.store.record(target).model_copy(update={"reload": tried}))


async def _insist(program: str, name: str) -> None:
    """As _call, but made again at once after an accident: what was unloaded is missed. Raises Problem."""
    for _ in range(TRIES - 1):
        try:
            return await _call(program, name)
        except Problem as problem:
            if not problem.transient:
                raise
    return await _call(program, name)


async def _call(program: str, name: str) -> None:
    """Have a program unload or load an object; in a unit of its own, since kmodd's may not.

    Raises Problem, transient where the program did not come to say anything of the object. That it did not end in
    time is the object's own fault: nothing else makes it wait.
    """
    detached = TRANSIENT_UNIT if SYSTEMD_RUNS.is_dir() else ()
    try:
        done = await run([*detached, program, name], check=False, timeout=LIMIT)
    except Problem as problem:
        if problem.code == "tool-timeout":
            raise Problem(problem.code, problem.message, transient=False) from problem
        raise
    if done.status != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").splitlines()
        spoke = any(line.startswith((f"{program}: ", "libkmod: ")) for line in said)
        found = explain(program, done)  # systemd-run has one exit status for all that befell the program or itself
        raise Problem(found.code, found.message, transient=found.transient or (bool(detached) and not spoke))
