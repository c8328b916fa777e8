"""Runs the administrator's command when verdicts change: notify.command of kmodd.toml(5), JSON on its stdin.

It runs unprivileged, once at a time, and delays no pass: changes are collected while it runs, and after a failure it is
run again with them a few times. Must not: give it a shell, kmodd's environment or its privileges.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from ..core.errors import Problem
from ..core.model import Target, Verdict
from ..core.report import Change, Report, summary
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.files import explained
from ..system.log import get_logger
from ..system.run import explain, run

GATHER = 1.0  # seconds that further changes are waited for
TRIES = 3
PAUSE = 60.0  # seconds before the second try; doubled before each further one
MOST_OUTPUT = 16384  # bytes of its output that are kept
MOST_LINES = 20  # of it that are logged
NEWS_AT_START = (Verdict.WAITING, Verdict.BLOCKED, Verdict.FAILED)

Item = dict[str, Any]
FindOwner = Callable[[str], tuple[int, int]]


class Command:
    """Passes changes to the command of the settings' table notify. Needs a running event loop."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource, find_owner: FindOwner) -> None:
        """find_owner: returns the uid and gid of a user by name."""
        self.sysroot = sysroot
        self.settings = settings
        self.find_owner = find_owner
        self._pending: dict[tuple[str, str], Item] = {}
        self._summary = ""
        self._task: Optional[asyncio.Task[None]] = None

    @property
    def argv(self) -> tuple[str, ...]:
        return self.settings.now.notify.command

    def __call__(self, previous: Optional[Report], now: Report) -> None:
        if not self.argv:
            self._pending.clear()
            return
        for change in now.changes(previous):
            if is_news(change, first=previous is None):
                self._add(make_item(change, now))
        self._summary = summary(now.judgements)
        if self._pending and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _add(self, item: Item) -> None:
        """Merge a change with an earlier one of the same subject; if both cancel out, there is nothing to send."""
        key = (item["kernel"], item["module"] or "")
        if key in self._pending:
            item = {**item, "previous": self._pending.pop(key)["previous"]}
        if item["previous"] != item["verdict"] or item["problem"]:
            self._pending[key] = item

    async def stop(self) -> None:
        """Stop the command if it runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        await asyncio.sleep(GATHER)
        tries = 0
        while self._pending and self.argv:
            batch, self._pending = self._pending, {}
            try:
                await self._say(batch)
                tries = 0
            except Exception as error:
                problem = error if isinstance(error, Problem) else Problem("internal-error", repr(error))
                tries += 1
                last = tries >= TRIES
                hint = "these changes are lost to it" if last else f"trying again in {PAUSE * 2 ** (tries - 1):.0f} s"
                get_logger().error(
                    "notification failed", problem=problem.code, reason=problem.message, hint=hint, changes=len(batch)
                )
                if last:
                    return
                later, self._pending = self._pending, batch
                for item in later.values():
                    self._add(item)
                await asyncio.sleep(PAUSE * 2 ** (tries - 1))

    async def _say(self, batch: dict[tuple[str, str], Item]) -> None:
        """Run the command once. Raises Problem."""
        document = {
            "schema": 1,
            "host": os.uname().nodename,
            "time": time.time(),
            "summary": self._summary,
            "changes": list(batch.values()),
        }
        output = self.sysroot.runtime / "notify.output"
        with explained(f"running {self.argv[0]}"):
            output.unlink(missing_ok=True)
            output.touch(mode=0o600, exist_ok=False)
            try:
                await self._offer(json.dumps(document).encode() + b"\n", output)
            finally:
                for line in output.read_text(errors="replace").splitlines()[:MOST_LINES]:
                    get_logger().info("notification command said", line=line)
                output.unlink()
        get_logger().info("notification sent", changes=len(batch))

    async def _offer(self, data: bytes, output: Path) -> None:
        table = self.settings.now.notify
        program = table.command[0]
        try:
            done = await run(
                [*unprivileged(self.find_owner(table.user)), *table.command],
                check=False,
                raw=True,
                timeout=table.timeout,
                output=output,
                output_limit=MOST_OUTPUT,
                stdin=data,
            )
        except Problem as problem:
            if problem.code != "tool-timeout":
                raise
            text = f"{program} did not end within {table.timeout:g} s and was killed"
            raise Problem(problem.code, text) from problem
        if done.status:
            raise explain(program, done)


def unprivileged(owner: tuple[int, int]) -> list[str]:
    """Return the words before a command that give up root, for good."""
    if os.geteuid() != 0:
        return []
    uid, gid = owner
    words = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    return [*words, "--no-new-privs", "--"]


def is_news(change: Change, first: bool) -> bool:
    """Tell whether a change is sent to the command: another verdict or problem, or what was wrong at the start."""
    before, after = change.before, change.after
    if after is None:
        return not change.module
    if before is None:
        return after.verdict in NEWS_AT_START if first else after.verdict is not Verdict.EXCLUDED
    return (before.verdict, before.problem) != (after.verdict, after.problem)


def make_item(change: Change, report: Report) -> Item:
    """Return a change as the command gets it, kmodd.toml(5)."""
    snapshot, after = report.snapshot, change.after
    kernel, module = snapshot.kernels.get(change.kernel), snapshot.modules.get(change.module)
    record = snapshot.of(Target(change.module, change.kernel)).record
    return {
        "module": change.module or None,
        "kernel": change.kernel,
        "verdict": after.verdict.value if after else "gone",
        "previous": change.before.verdict.value if change.before else None,
        "required": module.required if module else True,
        "running": kernel.running if kernel else False,
        "default_boot": kernel.default_boot if kernel else None,
        "problem": after.problem if after else "",
        "reason": after.reason if after else "",
        "hint": after.hint if after else "",
        "log": record.attempt.log if record and record.attempt else "",
    }
