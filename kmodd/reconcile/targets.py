"""The work on one target: building it in a task of its own, installing what was built. Outcomes go into the store.

Must not: decide whether it is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, TypeVar, cast

from ..core.actions import BuildModule, InstallModule
from ..core.errors import Problem
from ..core.model import CHANGED, Kernel, Signer, Snapshot, Target, fingerprint
from ..core.planner import FIRST_KEY, install_inputs
from ..core.record import Attempt, Built, BuiltObject, FirstError, Installed, InstalledObject
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..deploy.compress import compress
from ..deploy.install import Installation, directory_of, try_depmod
from ..host.store import Store
from ..kbuild.builder import Builder, BuildResult
from ..kbuild.failure import find_error, read
from ..kbuild.jobserver import Jobserver, Share
from ..kbuild.logfiles import ENDING
from ..kbuild.method import BuildSpec
from ..sign.making import KeyMaker
from ..system.deleting import delete_tree
from ..system.files import digest_file, explain, explained
from ..system.log import get_logger
from .dkmshooks import HookWork
from .inputprobe import InputProbe
from .keysource import KeySource
from .logkeeping import LogKeeper
from .reserve import Reserve
from .staging import Staging
from .unexpected import BuildObserver, as_problem

_Result = TypeVar("_Result")


class TargetWork:
    """Builds and installs single targets of one root."""

    def __init__(
        self,
        sysroot: Sysroot,
        settings: SettingsSource,
        store: Store,
        keys: KeySource,
        inputs: InputProbe,
        installation: Installation,
        observe_build: BuildObserver,
        logs: LogKeeper,
    ) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self.store = store
        self.keys = keys
        self.inputs = inputs
        self.observe_build = observe_build
        self.logs = logs
        self.jobserver = Jobserver(lambda: settings.now.jobs)
        self.builder = Builder(sysroot, self.jobserver, settings)
        self.reserve = Reserve(sysroot, settings)
        self.staging = Staging(sysroot, inputs.sources, self.builder, inputs.signatures)
        self.installation = installation
        self.hooks = HookWork(sysroot, settings, self.store)
        self.signing = asyncio.Lock()  # while the key is made or checked
        self.installing = asyncio.Lock()  # hooks of two modules do not run at the same time

    # -- building --------------------------------------------------------------------------------------------------
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
                scratch = self.sysroot.scratch / _directory_name(target)
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
                    self.fail(target, "build", action.inputs, problem, began, where, first)
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
        scratch = self.builder.make_scratch(_directory_name(target))
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
                await _whole(self._keep, action, snapshot, made, compiler.version, began, where)
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

    # -- installing ------------------------------------------------------------------------------------------------
    async def install(self, due: Sequence[InstallModule], snapshot: Snapshot) -> list[bool]:
        """Sign, compress and install what was built; tells of each whether it worked, the outcomes are stored.

        As many objects at a time as there are jobs.
        """
        turn = asyncio.Semaphore(self.settings.now.jobs)
        return await _all(self._install(action.target, action.reason, snapshot, turn) for action in due)

    async def _install(self, target: Target, reason: str, snapshot: Snapshot, turn: asyncio.Semaphore) -> bool:
        began = time.time()
        kernel = snapshot.kernels[target.kernel]
        inputs = install_inputs(target, snapshot)
        log = get_logger().bind(module=target.module, kernel=target.kernel)
        try:
            signer = await self._signer(kernel)
            inputs["signer"] = signer.state if kernel.signature_hash else ""
            work = self.sysroot.below(self.sysroot.cache, "sign") / _directory_name(target)
            with explained(f"preparing the installation of {target}"):
                delete_tree(work)
                work.mkdir(parents=True, mode=0o700)
                try:
                    files = await self._finish_objects(target, kernel, signer, snapshot, work, turn)
                    await _check_indexable(target, files)
                    record = self.store.record(target)

                    def remember(installed: Installed) -> None:
                        self.store.write(self.store.record(target).model_copy(update={"installed": installed}))

                    async with self.installing:
                        await self.hooks.before(target, snapshot)
                        await self.installation.install(target, files, record.installed or Installed(), remember)
                        await self.hooks.after(target, snapshot)
                finally:
                    delete_tree(work)
            record = self.store.record(target)
            last = record.attempt
            if last is not None and last.outcome == "failed":
                done = {"outcome": "succeeded", "stage": "install", "began": began, "ended": time.time()}
                done |= {"problem": "", "message": "", "hint": "", "failures": 0}
                self.store.write(record.model_copy(update={"attempt": last.model_copy(update=done)}))
        except Exception as error:
            last = self.store.record(target).attempt
            where = last.log if last is not None else ""
            self.fail(target, "install", inputs, as_problem(error, f"installing {target}"), began, where)
            return False
        names = " ".join(item.name for _, item in files)
        log.info("module installed", objects=names, reason=reason, signer=signer.identity[:16])
        return True

    async def _signer(self, kernel: Kernel) -> Signer:
        """Return who signs; makes the first key where there never was one. Raises Problem."""
        if not kernel.signature_hash:
            return Signer()
        async with self.signing:
            signer = self.keys.now.signer()
            if signer.fault is not None and signer.fault.problem == FIRST_KEY:
                signer = await KeyMaker(self.keys.now).generate(self.settings.now.sign.algorithm)
                get_logger().info("signing key generated", certificate=self.settings.now.sign.certificate)
            if signer.fault is not None:
                raise Problem.of(signer.fault)
            await self.keys.now.check()  # once for all that are signed now
        return signer

    async def _finish_objects(
        self,
        target: Target,
        kernel: Kernel,
        signer: Signer,
        snapshot: Snapshot,
        work: Path,
        turn: asyncio.Semaphore,
    ) -> list[tuple[Path, InstalledObject]]:
        """Sign and compress copies of what was built, in a directory of their own."""

        async def finish(item: BuiltObject) -> tuple[Path, InstalledObject]:
            async with turn:
                path = work / f"{item.name}.ko"
                await asyncio.to_thread(shutil.copyfile, self.store.objects(target) / path.name, path)
                if await asyncio.to_thread(digest_file, path) != item.sha256:
                    raise Problem("store-damaged", f"the stored {path.name} of {target} was changed", transient=True)
                if kernel.signature_hash:
                    await self.keys.now.sign(path, self._signing_tree(kernel, snapshot), kernel.signature_hash)
                final = await compress(path, kernel.compression)
                digest = await asyncio.to_thread(digest_file, final)
            return final, InstalledObject(
                name=item.name,
                path=f"{directory_of(target)}/{final.name}",
                sha256=digest,
                built=item.sha256,
                signer=signer.identity if kernel.signature_hash else "",
                compressed=kernel.compression,
            )

        return await _all(finish(item) for item in snapshot.of(target).wanted)

    def _signing_tree(self, kernel: Kernel, snapshot: Snapshot) -> Path:
        """Return the build tree whose sign-file signs: the kernel's own, else any."""
        trees = [kernel.build_tree] + [k.build_tree for _, k in sorted(snapshot.kernels.items())]
        for tree in trees:
            if tree is not None:
                return self.sysroot.resolve(tree)
        text = f"no kernel-devel is installed, whose sign-file could sign for {kernel.release}"
        raise Problem("sign-file-missing", text, "install a kernel-devel package", transient=True)

    # -- failing ---------------------------------------------------------------------------------------------------
    def fail(
        self,
        target: Target,
        stage: Literal["build", "install"],
        inputs: Mapping[str, str],
        problem: Problem,
        began: float,
        where: str,
        error: Optional[FirstError] = None,
    ) -> None:
        """Store and report a failed attempt. where: in-root path of its log. error: the first one in it."""
        record = self.store.record(target)
        last = record.attempt
        again = last is not None and last.outcome == "failed" and fingerprint(last.inputs) == fingerprint(inputs)
        again = again or (last is not None and last.problem == problem.code == CHANGED)
        attempt = Attempt(
            began=began,
            ended=time.time(),
            stage=stage,
            outcome="failed",
            problem=problem.code,
            message=problem.message,
            hint=problem.hint,
            transient=problem.transient,
            failures=(last.failures + 1) if last and again else 1,
            inputs=dict(inputs),
            log=where,
            error=error,
        )
        get_logger().warning(  # the verdict that follows from it is what is logged as an error
            f"{stage} failed",
            module=target.module,
            kernel=target.kernel,
            problem=problem.code,
            reason=problem.message,
            hint=problem.hint,
            log=where,
        )
        try:
            self.store.write(record.model_copy(update={"attempt": attempt, "asked": record.asked and stage != "build"}))
        except OSError as error:
            # Nothing can be remembered on a full or read-only disk; the reconciler pauses, and the verdict stays open.
            raise explain(error, f"storing the outcome of {target}") from error


async def _check_indexable(target: Target, files: Sequence[tuple[Path, InstalledObject]]) -> None:
    """Refuse objects that depmod would fail over, with all other modules of the kernel. Raises Problem."""
    said = await try_depmod([path for path, _ in files]) if files else ""
    if said:
        names = ", ".join(item.name for _, item in files)
        text = f"{names} would keep depmod from listing any module of {target.kernel}: {said}"
        raise Problem("object-breaks-depmod", text, "what the build yields is damaged, or needs itself: correct it")


def _directory_name(target: Target) -> str:
    """Return the name of a target's temporary directory, which no other's is: names of modules hold no @."""
    return f"{target.module}@{target.kernel}"


async def _whole(work: Callable[..., None], *words: object) -> None:
    """Do some work in a thread, to its end also where it is cancelled: what it reads is deleted then."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *words))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _all(works: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Return the results of works that go on side by side; what one of them raises is raised when all have ended."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[_Result]", results)


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
