"""What the methods of io.kmodd.Manager do (control.interface). Reading causes no pass: answers are of the last one.

Must not: speak Varlink, or change anything but by the daemon's triggers.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, TypeVar, Union

from ..control.codec import Reply, encode_reply
from ..control.interface import MANAGER, OfModule, Parameters, Selection, Waiting
from ..control.server import Answer, Send
from ..core.actions import Action
from ..core.documents.choosing import check_names, choose
from ..core.documents.explain import explain_document
from ..core.documents.failures import failures_document
from ..core.documents.plan import plan_document
from ..core.errors import Problem
from ..core.model import Target
from ..core.planner import find_repeatable
from ..core.report import Report
from ..core.sysroot import Sysroot
from ..host.settingsfile import read_settings
from ..kbuild.logfiles import LogReader
from ..reconcile.reconciler import Reconciler, retry_now
from ..system.files import explained
from .events import Events
from .passes import Passes

PATIENCE = 10.0  # seconds that a caller waits for the first pass of all
MOMENT = 1.0  # seconds that a caller waits for a pass that is due, such as after kmoddctl add
TAIL = 1 << 17  # bytes of a log that are answered at once
PIECE = 1 << 16

Document = Mapping[str, Any]
_Found = TypeVar("_Found")


class Host(Protocol):
    """What the methods need of the daemon."""

    sysroot: Sysroot
    passes: Passes
    events: Events
    actions: tuple[Action, ...]
    reconciler: Reconciler

    def status(self, report: Report) -> dict[str, Any]:
        """Return the document of a report."""

    def is_disturbed(self) -> bool:
        """Tell whether a pass is to follow soon."""

    def trigger(self, reason: str) -> None:
        """Ask for a pass."""

    def ask_again(self, targets: Sequence[Target]) -> None:
        """Have targets built again."""

    def ask_verify(self) -> None:
        """Ask for a pass that makes all checks anew."""

    def ask_reload(self) -> None:
        """Ask for the settings to be read again."""


class Methods:
    """Answers for one daemon."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.answers: dict[str, Answer] = {
            f"{MANAGER}.Status": self.status,
            f"{MANAGER}.Plan": self.plan,
            f"{MANAGER}.Explain": self.explain,
            f"{MANAGER}.Logs": self.logs,
            f"{MANAGER}.Subscribe": self.subscribe,
            f"{MANAGER}.Sync": self.sync,
            f"{MANAGER}.Rebuild": self.rebuild,
            f"{MANAGER}.Verify": self.verify,
            f"{MANAGER}.Reload": self.reload,
        }
        self._documents: tuple[Optional[Report], dict[str, Any], bytes] = (None, {}, b"")
        self._logs = LogReader(host.sysroot)
        self._reader = ThreadPoolExecutor(1, "control")  # its callers queue up behind each other, not before the passes

    async def _report(self) -> Report:
        return await self.host.passes.latest(self.host.is_disturbed(), MOMENT, PATIENCE)

    async def status(self, asked: Selection, send: Optional[Send]) -> Union[Document, bytes]:
        document, message = self._render(await self._report())
        if asked.module is None and asked.kernel is None:
            return message
        check_names(document, asked.module, asked.kernel)
        return choose(document, asked.module, asked.kernel)

    def _render(self, report: Report) -> tuple[Document, bytes]:
        """Return a report's document, and that as a reply; both are made once."""
        if self._documents[0] is not report:
            document = self.host.status(report)
            self._documents = (report, document, encode_reply(Reply(document)))
        return self._documents[1:]

    async def plan(self, asked: Parameters, send: Optional[Send]) -> Document:
        await self._report()
        return plan_document(self.host.actions)

    async def explain(self, asked: OfModule, send: Optional[Send]) -> Document:
        report = await self._report()
        check_names(self._render(report)[0], asked.module, asked.kernel)
        chosen = [t for t in report.judgements if t.module == asked.module and asked.kernel in (None, t.kernel)]
        logs = {t: await self._read(self._logs.story, t.module, t.kernel) for t in chosen}
        return explain_document(
            asked.module, report.snapshot, report.judgements, self.host.actions, kernel=asked.kernel, logs=logs
        )

    async def logs(self, asked: OfModule, send: Optional[Send]) -> Document:
        log = await self._read(self._find_log, asked.module, asked.kernel)
        if log is None:
            check_names(self._render(await self._report())[0], asked.module, asked.kernel)
            raise Problem("log-missing", f"{asked.module} was not built yet", "kmoddctl explain tells why")
        path, answer = self.host.sysroot.resolve(log), {"schema": 1, "log": log, "truncated": False}
        if send is None:
            text, truncated = await self._read(_tail, path, log)
            return {**answer, "text": text, "truncated": truncated}
        decoder, offset = codecs.getincrementaldecoder("utf-8")("replace"), 0
        while piece := await self._read(_piece, path, log, offset):
            offset += len(piece)
            await send({**answer, "text": decoder.decode(piece)})
        return {**answer, "text": decoder.decode(b"", final=True)}

    async def _read(self, function: Callable[..., _Found], *arguments: Any) -> _Found:
        """Call what reads files where it holds up neither clients that need none, nor passes."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, functools.partial(function, *arguments))

    def _find_log(self, module: str, kernel: Optional[str]) -> Optional[str]:
        releases = [kernel] if kernel else self._logs.kernels(module)
        with explained(f"reading the logs of {module}"):
            found = [one for release in releases for one in self._logs.attempts(module, release)]
        return max(found, key=lambda one: one["began"] or 0)["log"] if found else None

    async def subscribe(self, asked: Parameters, send: Optional[Send]) -> Document:
        assert send is not None  # the interface wants more
        with self.host.events.subscribed() as subscription:
            while True:
                await send(await subscription.next())

    async def sync(self, asked: Waiting, send: Optional[Send]) -> Document:
        began = time.time()
        retry_now(self.host.reconciler)
        self.host.trigger("Sync")
        if asked.wait is False:
            return {}
        work = asyncio.ensure_future(self.host.passes.next(idle=True))
        try:
            if send is not None:
                await self._narrate(work, send)
            report = await work
            failures = failures_document(report.snapshot, began, self.host.reconciler.step_failures.since(began))
            return {"status": self._render(report)[0], "failures": failures}
        finally:
            work.cancel()

    async def _narrate(self, work: asyncio.Future[Report], send: Send) -> None:
        """Send the events until some work is done, those before its end included."""
        with self.host.events.subscribed() as subscription:
            while not work.done():
                event = asyncio.ensure_future(subscription.next())
                try:
                    either: list[asyncio.Future[Any]] = [work, event]
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if event.done():
                        await send(event.result())
                finally:
                    event.cancel()
            for left in subscription.left():
                await send(left)

    async def rebuild(self, asked: Selection, send: Optional[Send]) -> Document:
        report = await self._report()
        check_names(self._render(report)[0], asked.module, asked.kernel)
        targets = find_repeatable(report.snapshot, asked.module, asked.kernel)
        self.host.ask_again(targets)
        return {"targets": [{"module": target.module, "kernel": target.kernel} for target in targets]}

    async def verify(self, asked: Parameters, send: Optional[Send]) -> bytes:
        self.host.ask_verify()
        return self._render(await self.host.passes.next(idle=False))[1]

    async def reload(self, asked: Parameters, send: Optional[Send]) -> Document:
        read_settings(self.host.sysroot)  # what is wrong with them is for the caller
        self.host.ask_reload()
        return {}

    def stop(self) -> None:
        self._reader.shutdown(wait=False)


def _piece(path: Path, log: str, offset: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(PIECE)
    except OSError as error:
        raise Problem("log-missing", f"{log} cannot be read: {error.strerror}") from error


def _tail(path: Path, log: str) -> tuple[str, bool]:
    """Return the end of a log and whether there is more."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL))
            return stream.read(TAIL).decode(errors="replace"), size > TAIL
    except OSError as error:
        raise Problem("log-missing", f"{log} cannot be read: {error.strerror}") from error
