"""One examination of all installed targets of one kernel: each object by itself, then all beside each other.

What could not be read, since a tool was killed or the machine ran out of something, is no finding: that check is
interrupted. Must not: change anything, or remember findings.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..core.errors import Problem
from ..core.model import Check, Fault
from ..core.record import InstalledObject
from ..system.files import find_accident
from . import elf, names, symbols
from .closures import Closures
from .finding import AGAIN, DAMAGED, Finding, Question
from .kernelview import KernelView
from .objectchecks import ObjectChecks, Signed
from .probe import module_name

LARGE = 16 << 20  # bytes of an object
COMPRESSED = 8  # times as large it may be once it is decompressed


class Examination:
    """Examines installed targets of one kernel."""

    def __init__(self, view: KernelView, signed: Signed, damaged: Mapping[str, str]) -> None:
        self.view = view
        self.objects = ObjectChecks(view, signed)
        self.damaged = damaged
        self.turn = asyncio.Semaphore(os.cpu_count() or 1)
        self.large = asyncio.Lock()

    async def all(self, questions: Sequence[Question]) -> list[tuple[list[Check], tuple[Path, ...]]]:
        """Return the checks of each target, and the other modules that were read for it."""
        try:
            await self.view.read()
        except (Problem, OSError, MemoryError) as error:
            accident = f"the kernel's own files could not be read: {find_accident(error) or error}"
            name = module_name(questions[0].installed.objects[0].path)
            return [([Check(name, "object", "interrupted", accident, "check-interrupted", AGAIN)], ())] * len(questions)
        found = await asyncio.gather(*(self._target(question) for question in questions))
        every = [finding for findings in found for finding in findings]
        for finding in every:
            if finding.parsed is not None:
                with finding.attempt("name"):
                    await self.view.settle_name(finding.parsed.shape.name)
        self._compare(every)
        certificate = next((question.certificate for question in questions if question.certificate), b"")
        await Closures(self.view, certificate, self.damaged).check(every)
        return [
            ([c for f in findings for c in f.checks], tuple(dict.fromkeys(p for f in findings for p in f.beyond)))
            for findings in found
        ]

    async def _target(self, question: Question) -> list[Finding]:
        return await asyncio.gather(*(self._try_object(question, item) for item in question.installed.objects))

    async def _try_object(self, question: Question, item: InstalledObject) -> Finding:
        name = module_name(item.path)
        finding = Finding(question.target, name, item.path, name in question.at_boot)
        try:
            async with self.turn:
                with finding.attempt("object"):
                    await self._check(finding, question, bool(item.signer))
        except (Problem, OSError, ValueError) as error:
            message = error.message if isinstance(error, Problem) else str(error)
            hint = DAMAGED
            if isinstance(error, OSError):
                message = str(error.strerror)
                hint = "run it as root" if isinstance(error, PermissionError) else hint
            text = f"{item.path} cannot be read as a kernel module: {message}"
            finding.add("object", [Fault("object-unreadable", text, hint)], "")
        return finding

    async def _check(self, finding: Finding, question: Question, signed: bool) -> None:
        """Check one object; a large one by itself, and not held any longer: a build may leave many of them."""
        if not _is_large(self.view.sysroot.resolve(finding.path)):
            await self.objects.check(finding, question, signed)
            return
        async with self.large:
            try:
                await self.objects.check(finding, question, signed)
            finally:
                if finding.parsed is not None:
                    self.view.drop(finding.parsed.path)
                    finding.parsed = finding.parsed.summary()

    # -- beside each other -------------------------------------------------------------------------------------------
    def _compare(self, every: Sequence[Finding]) -> None:
        """Check that names and exported symbols are nobody else's; what is loaded at boot comes first."""
        exporters: dict[str, Finding] = {}
        for finding in sorted(every, key=lambda f: (not f.at_boot, f.target.module, f.name)):
            if finding.parsed is None:
                continue
            inner = finding.parsed.shape.name
            others = self.view.in_tree.union(*({f.name, f.inner} for f in every if f is not finding))
            faults, doubts = names.check(finding.name, inner, self.view.taken, others)
            finding.add("name", faults, f"the kernel lists it as {inner}")
            finding.add_doubts("name", doubts)
            self._add_exports(finding, finding.parsed.contents.exports, exporters, {f.name for f in every})

    def _add_exports(
        self, finding: Finding, own: Mapping[str, elf.Export], exporters: dict[str, Finding], ours: Collection[str]
    ) -> None:
        """Check that nobody exports what an object does. exporters: symbol -> who of those before it does."""
        before = {module_name(step.path) for step in finding.resolution.first}
        faults: dict[str, str] = {}  # other -> the first symbol
        doubts: dict[str, str] = {}
        theirs = symbols.look_up(self.view.symvers, own)
        for symbol in own:
            other = exporters.setdefault(symbol, finding)
            provider = theirs[symbol].provider if symbol in theirs else finding.name
            if other is not finding and other.name != finding.name:
                (faults if other.at_boot or other.name in before else doubts).setdefault(other.name, symbol)
            elif provider == "vmlinux" or (provider in before and provider != finding.name):
                faults.setdefault(provider, symbol)
            elif provider not in ours:
                doubts.setdefault(provider, symbol)
        hint = "only one of them can be loaded: have one exclude this kernel, or take it from at_boot"
        found = [
            Fault("symbol-duplicate", f"{finding.name} would not load: {other} exports {symbol}, too", hint)
            for other, symbol in faults.items()
        ]
        beside = [
            Fault("symbol-duplicate", f"{finding.name} does not load beside {other}: both export {symbol}", hint)
            for other, symbol in doubts.items()
        ]
        finding.add("exports", found, f"nobody else exports its {len(own)} symbols")
        finding.add_doubts("exports", beside)


def _is_large(path: Path) -> bool:
    """Tell whether reading an object may need much memory; where that is not known, it is read to find out."""
    try:
        size = path.stat().st_size
    except OSError:
        return False
    return size > (LARGE if path.suffix == ".ko" else LARGE // COMPRESSED)
