"""The steps of the boot guard: writing its file, releasing kernels in a unit of their own, forgetting what is held."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence

from ..core.actions import DropHold, GuardFile, ReleaseKernel, WriteGuard, WriteKept
from ..core.errors import Problem
from ..core.record import Attempt
from ..core.sysroot import SYSTEMD_RUNS, Sysroot
from ..deploy.kernelinstall import TIMEOUT, unit_name
from ..host.store import Store
from ..system.files import make_directory, remove_file, replace_file
from ..system.log import get_logger
from ..system.run import TRANSIENT_UNIT, run
from ..watch.transaction import transaction_holder
from .steps import Pass, Step, StepFailures, Steps
from .unexpected import as_problem

#: A shutdown neither ends the unit nor keeps it from being started: kmodd-shutdown.service waits for it.
LASTS = ("--property=DefaultDependencies=no",)


def release_words(release: str) -> list[str]:
    """Return the argv that releases a kernel; as a unit of its own, since kmodd.service may not write to /boot."""
    program = ["kmoddctl", "--json", "boot", "release", release, "--force", "--here"]
    if not SYSTEMD_RUNS.is_dir():
        return program
    return [
        *TRANSIENT_UNIT,
        *LASTS,
        f"--unit={unit_name(release)}",
        f"--description=Make {release} bootable",
        "--",
        *program,
    ]


class GuardStep(Step[GuardFile]):
    """Writes the files that others read, and makes the directory in which the plugin notes what it holds."""

    def __init__(self, sysroot: Sysroot, failures: StepFailures) -> None:
        self.sysroot = sysroot
        self.failures = failures

    async def apply(self, actions: Sequence[GuardFile], current: Pass) -> list[GuardFile]:
        return [action for action in actions if self._write(action)]

    def _write(self, action: GuardFile) -> bool:
        try:
            make_directory(self.sysroot.held)
            path = self.sysroot.guard if isinstance(action, WriteGuard) else self.sysroot.kept
            replace_file(path, action.content.encode())
        except Exception as error:
            self.failures.report("guard not written", action, as_problem(error, "writing the boot guard's file"))
            return False
        get_logger().debug("guard written", reason=action.reason)
        return True


class DropStep(Step[DropHold]):
    """Forgets that a kernel is held."""

    def __init__(self, sysroot: Sysroot, failures: StepFailures) -> None:
        self.sysroot = sysroot
        self.failures = failures

    async def apply(self, actions: Sequence[DropHold], current: Pass) -> list[DropHold]:
        return [action for action in actions if self._drop(action)]

    def _drop(self, action: DropHold) -> bool:
        try:
            remove_file(self.sysroot.held / action.kernel)
        except Exception as error:
            self.failures.report(
                "hold not dropped", action, as_problem(error, f"forgetting that {action.kernel} is held")
            )
            return False
        get_logger().info("kernel no longer held", kernel=action.kernel, reason=action.reason)
        return True


class ReleaseStep(Step[ReleaseKernel]):
    """Has kernels released, one after the other; what failed is remembered, so that it is not tried without a pause."""

    def __init__(self, sysroot: Sysroot, store: Store, failures: StepFailures) -> None:
        self.sysroot = sysroot
        self.store = store
        self.failures = failures

    def due(self, action: ReleaseKernel, current: Pass) -> bool:
        return transaction_holder(self.sysroot) is None  # its end is a trigger

    async def apply(self, actions: Sequence[ReleaseKernel], current: Pass) -> Sequence[ReleaseKernel]:
        for action in actions:
            last = current.snapshot.kernels[action.kernel].failures.get(action.kind)
            await self._release(action, last.failures if last else 0)
        return actions

    async def _release(self, action: ReleaseKernel, failures: int) -> None:
        began = time.time()
        get_logger().info("kernel release started", kernel=action.kernel, reason=action.reason)
        attempt = None
        try:
            await run_release(action.kernel)
        except Exception as error:
            problem = as_problem(error, f"making {action.kernel} bootable")
            attempt = Attempt(
                began=began, ended=time.time(), stage="release", outcome="failed", problem=problem.code,
                message=problem.message, hint=problem.hint, transient=True, failures=failures + 1,
            )  # fmt: skip
            self.failures.report("kernel not released", action, problem)
        else:
            seconds = round(time.time() - began, 1)
            get_logger().info("kernel released", kernel=action.kernel, reason=action.reason, seconds=seconds)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.store.note_step, action.kernel, action.kind, attempt)


async def run_release(release: str) -> None:
    """Release a kernel to the end, whatever becomes of this process. Raises Problem."""
    done = await run(release_words(release), check=False, raw=True, timeout=TIMEOUT, outlives=True)
    if done.status == 0:
        return
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = json.loads(done.text)["error"]
        raise Problem(str(said["problem"]), str(said["message"]), str(said["hint"]), transient=True)
    lines = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
    text = f"making {release} bootable ended with exit status {done.status}: {(lines or ['it said nothing'])[-1]}"
    raise Problem("kernel-install-failed", text, f"kmoddctl boot release {release}", transient=True)


def make_boot_steps(sysroot: Sysroot, store: Store, failures: StepFailures) -> Steps:
    """Return the steps of the boot guard."""
    files = GuardStep(sysroot, failures)
    return {
        ReleaseKernel: ReleaseStep(sysroot, store, failures),
        DropHold: DropStep(sysroot, failures),
        WriteGuard: files,
        WriteKept: files,
    }
