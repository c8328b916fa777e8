"""Whether the kernel would take what is installed, by what its own tools say and by the files on disk.

For each object: it is the file that modprobe would pick, all that it needs is there in the version that it was built
with, it takes its options, nobody blacklisted it, and its signature is ours. Must not: change
anything but its own memory of unchanged files, or decide what to do about a fault.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Optional

from ..core.model import Check, Damage, Target
from ..core.record import Installed
from ..core.sysroot import Sysroot
from ..system.files import digest_file, find_accident, replace_file, stat_signature
from . import symbols
from .examination import Examination
from .finding import Question
from .kernelview import KernelView
from .objectchecks import Signed
from .probe import Probe

__all__ = ["Question", "Verifier"]

#: Files beside a kernel's modules that findings depend on.
OF_KERNEL = ("modules.dep.bin", "modules.builtin", "modules.builtin.modinfo", "modules.order", "vmlinuz")
EDITION = 11  # of the checks: raise it when an unchanged file may be judged otherwise


@dataclass(frozen=True)
class Answer:
    """What is remembered of a target: key is what it depends on, beyond: other modules that were read for it."""

    key: str
    beyond: tuple[Path, ...]
    checks: tuple[Check, ...]


class Verifier:
    """Checks installed targets; what did not change since the last pass is not checked again.

    anew: forget what is remembered, and tell of the checks that passed, too.
    """

    def __init__(self, sysroot: Sysroot, anew: bool = False) -> None:
        self.sysroot = sysroot
        self.anew = anew
        self.memory = sysroot.below(sysroot.cache, "verified.json")
        self.probe = Probe(sysroot)
        self._digests: dict[str, tuple[object, str]] = {}
        self._known: dict[Target, Answer] = {}
        self._signed: Signed = {}
        self._dirty = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(b"{}" if anew else self.memory.read_bytes())
            if known.get("edition") == EDITION:
                self._digests = {path: (tuple(key), str(digest)) for path, (key, digest) in known["digests"].items()}
                for module, kernel, key, beyond, checks in known["answers"]:
                    found = tuple(Check(*map(str, check)) for check in checks)
                    self._known[Target(module, kernel)] = Answer(key, tuple(map(Path, beyond)), found)

    def forget(self) -> None:
        """Check everything anew in the next pass. Must not be called during one."""
        self._digests.clear()
        self._known.clear()
        self._signed.clear()

    def remember(self) -> None:
        """Keep the findings for the next process, where the cache can be written."""
        if self._dirty:
            answers = [
                (t.module, t.kernel, a.key, list(map(str, a.beyond)), [astuple(c) for c in a.checks if c.is_finding])
                for t, a in self._known.items()
            ]
            data = {"edition": EDITION, "digests": self._digests, "answers": answers}
            with contextlib.suppress(OSError):
                replace_file(self.memory, json.dumps(data).encode())
            self._dirty = False

    def find_damage(self, installed: Installed) -> Optional[Damage]:
        """Return how the first of installed files that differs from what was recorded does, None where none does."""
        for item in installed.objects:
            path = self.sysroot.resolve(item.path)
            try:
                key = stat_signature(path)
                known = self._digests.get(item.path)
                if not known or known[0] != key:
                    known = self._digests[item.path] = (key, digest_file(path))
                    self._dirty = True
            except PermissionError:
                continue  # the checks say so
            except OSError as error:
                if find_accident(error):
                    raise
                return Damage(item.path, f"{item.path} is gone")
            if known[1] != item.sha256:
                return Damage(item.path, f"{item.path} was changed by somebody else")
        return None

    async def examine(
        self, questions: Iterable[Question], damaged: Mapping[str, str] = {}
    ) -> dict[Target, tuple[Check, ...]]:
        """Return what was found of each target: what is wrong or could not be checked, and with anew all else, too.

        damaged: in-root paths of objects that are not asked about, since they are not what was installed, and why.
        """
        asked = list(questions)
        interrupted: dict[Target, tuple[Check, ...]] = {}
        for release in sorted({question.target.kernel for question in asked}):
            own = [question for question in asked if question.target.kernel == release]
            if all(self._is_fresh(question) for question in own):
                continue
            self._dirty = True  # and all of that kernel are examined, since they are compared with each other
            view = KernelView(self.sysroot, self.probe, own[0].kernel, own[0].demand)
            examination = Examination(view, self._signed, damaged)
            for question, (checks, beyond) in zip(own, await examination.all(own)):
                kept = tuple(check for check in checks if self.anew or check.is_relevant)
                if any(check.outcome == "interrupted" for check in checks):  # nobody knows: nothing is remembered
                    self._known.pop(question.target, None)
                    interrupted[question.target] = kept
                else:
                    self._known[question.target] = Answer(self._key(question, beyond), beyond, kept)
        gone = self._known.keys() - {question.target for question in asked}
        for target in gone:
            del self._known[target]
        for path in self._signed.keys() - {item.path for question in asked for item in question.installed.objects}:
            del self._signed[path]
        return {q.target: interrupted.get(q.target) or self._known[q.target].checks for q in asked}

    def _is_fresh(self, question: Question) -> bool:
        known = self._known.get(question.target)
        return known is not None and known.key == self._key(question, known.beyond)

    def _key(self, question: Question, beyond: Sequence[Path]) -> str:
        """Return what changes when anything does that a finding depends on."""
        kernel = question.kernel
        files: list[Path] = []
        with contextlib.suppress(OSError):  # the examination says so
            own = symbols.find_symvers(self.sysroot, kernel)
            files += [own] if own else []
            files += self.probe.configurations()
        directory = self.sysroot.kernel(kernel.release)
        files += [*(directory / name for name in OF_KERNEL), *beyond]
        files += [self.sysroot.resolve(item.path) for item in question.installed.objects]
        config = sorted(kernel.config.items())
        certificate = hashlib.sha256(question.certificate).hexdigest()
        stats: list[object] = [sorted(question.at_boot), certificate, question.unsigned, kernel.signature_hash, config]
        stats += [kernel.command_lines, kernel.command_line_unknown, question.demand]
        for path in files:
            try:
                stats.append((str(path), *stat_signature(path)))
            except OSError:
                stats.append((str(path), "absent"))
        return hashlib.sha256(repr(stats).encode()).hexdigest()
