"""The scripts that a dkms.conf has for the time of installation, run where dkms.allow_hooks names the module.

POST_ADD runs before a module's first installation for any kernel, PRE_INSTALL and POST_INSTALL around each one,
POST_REMOVE after a removal, if the source is still there. Must not: run anything for a module that is not named.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Snapshot, Target
from ..core.record import Hook, TargetRecord
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..deploy.hooks import run_hook
from ..host.store import Store
from ..system.log import get_logger


class HookWork:
    """Runs the hooks of one root."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource, store: Store) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self.store = store

    async def before(self, target: Target, snapshot: Snapshot) -> None:
        """Run what comes before an installation. Raises Problem where it fails."""
        first = not any(t.module == target.module and record.installed for t, record in snapshot.records.items())
        for directive in ("POST_ADD", "PRE_INSTALL") if first else ("PRE_INSTALL",):
            await self._run(target, directive, self._find(target, directive, snapshot))

    async def after(self, target: Target, snapshot: Snapshot) -> None:
        """Run what comes after an installation, and remember what is to come after its removal."""
        await self._try(target, "POST_INSTALL", self._find(target, "POST_INSTALL", snapshot))
        record, hook = self.store.record(target), self._find(target, "POST_REMOVE", snapshot)
        if record.after_removal != hook:
            self.store.write(record.model_copy(update={"after_removal": hook}))

    async def removed(self, target: Target, record: TargetRecord) -> None:
        """Run what comes after a removal, if the module is still allowed to, and the source still there."""
        hook = record.after_removal
        if hook and target.module in self.settings.now.dkms.allow_hooks and self.sysroot.resolve(hook.source).is_dir():
            await self._try(target, "POST_REMOVE", hook)

    def _find(self, target: Target, directive: str, snapshot: Snapshot) -> Optional[Hook]:
        """Return a module's script, where it has one and may run it."""
        recipe, module = snapshot.of(target).recipe, snapshot.modules.get(target.module)
        if recipe is None or module is None or target.module not in self.settings.now.dkms.allow_hooks:
            return None
        line = recipe.hooks.get(directive)
        if line is None or module.file.source.ignore_hooks or not module.file.source.dkms:
            return None
        return Hook(line=line, source=os.path.dirname(module.file.source.dkms))

    async def _try(self, target: Target, directive: str, hook: Optional[Hook]) -> None:
        """Run a script whose failure changes nothing any more, and is logged."""
        try:
            await self._run(target, directive, hook)
        except Problem as problem:
            facts = {"problem": problem.code, "reason": problem.message, "hint": problem.hint}
            get_logger().error("hook failed", module=target.module, kernel=target.kernel, **facts)

    async def _run(self, target: Target, directive: str, hook: Optional[Hook]) -> None:
        if hook is None:
            return
        attempt = self.store.record(target).attempt
        log: Optional[Path] = self.sysroot.resolve(attempt.log) if attempt and attempt.log else None
        get_logger().info("hook started", module=target.module, kernel=target.kernel, hook=directive, line=hook.line)
        await run_hook(self.sysroot, directive, hook.line, hook.source, log)
