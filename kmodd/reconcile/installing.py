"""Installing what was built: signed, compressed, put in place. The outcome goes into the store.

Must not: decide whether it is due, or build.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from ..core.actions import InstallModule
from ..core.errors import Problem
from ..core.model import Kernel, Signer, Snapshot, Target
from ..core.planner import FIRST_KEY, install_inputs
from ..core.record import BuiltObject, Installed, InstalledObject
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..deploy.compress import compress
from ..deploy.install import Installation, directory_of, try_depmod
from ..host.store import Store
from ..sign.making import KeyMaker
from ..system.deleting import delete_tree
from ..system.files import digest_file, explained
from ..system.log import get_logger
from .attempts import Attempts
from .dkmshooks import HookWork
from .keysource import KeySource
from .unexpected import as_problem

_Result = TypeVar("_Result")


class Installing:
    """Installs single targets of one root."""

    def __init__(
        self,
        sysroot: Sysroot,
        settings: SettingsSource,
        store: Store,
        keys: KeySource,
        installation: Installation,
        hooks: HookWork,
    ) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self.store = store
        self.keys = keys
        self.installation = installation
        self.hooks = hooks
        self.attempts = Attempts(store)
        self.signing = asyncio.Lock()  # while the key is made or checked
        self.installing = asyncio.Lock()  # hooks of two modules do not run at the same time

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
            work = self.sysroot.below(self.sysroot.cache, "sign") / target.directory
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
            self.attempts.fail(target, "install", inputs, as_problem(error, f"installing {target}"), began, where)
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


async def _check_indexable(target: Target, files: Sequence[tuple[Path, InstalledObject]]) -> None:
    """Refuse objects that depmod would fail over, with all other modules of the kernel. Raises Problem."""
    said = await try_depmod([path for path, _ in files]) if files else ""
    if said:
        names = ", ".join(item.name for _, item in files)
        text = f"{names} would keep depmod from listing any module of {target.kernel}: {said}"
        raise Problem("object-breaks-depmod", text, "what the build yields is damaged, or needs itself: correct it")


async def _all(works: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Return the results of works that go on side by side; what one of them raises is raised when all have ended."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[_Result]", results)
