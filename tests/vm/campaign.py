"""A campaign: a root with real kernels, hundreds of modules in it, kmodd's verdict on each, and what the kernel does.

The modules are compiled for every kernel once (templates.py). kmodd itself signs, installs and records them: to it
each is a project that brings its own way to build, which here is to copy the object.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch import CRASHES, LOADS, OTHER, REFUSES, Outcome, run_boot
from elfedit import Object
from fault import Case, Place, enter
from faults import CLASSES
from generate import Boot, Generator, Machine, looks, narrow, possible_kinds, share
from ground import kernels
from server import Server
from templates import compile_kinds, copy_of, srcversion

READY, NOT_READY, UNTOLD = "ready", "not ready", "cannot be determined"
#: Series, how old (0 is the newest), flavour and compression of the kernels; `make vm` has the first four.
KERNELS = (("6.1", 0, "", "none"), ("6.1", 1, "", "xz"), ("6.12", 0, "", "zstd"), ("6.1", 0, "rt", "none"),
           ("6.12", 0, "cloud", "none"))  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A case with both answers. told: one of READY, NOT_READY, UNTOLD."""

    case: Case
    told: str
    reason: str
    outcome: Outcome
    kernel: str

    @property
    def agree(self) -> bool:
        return self.told == UNTOLD or (self.told == READY) == (self.kernel == LOADS)

    def __str__(self) -> str:
        lines = [f"{self.case.label} [{self.case.done or ' '.join(self.case.words)}]"]
        lines += [f"    kmodd:  {self.told}{f', {self.reason}' if self.reason else ''}"]
        return "\n".join([*lines, f"    kernel: {self.kernel}, {self.outcome.said}"])


class Campaign:
    """One root, its cases, and what came of them."""

    def __init__(self, top: Path, seed: str, count: int, machines: int = 4, only: str = "") -> None:
        self.top = top
        self.server = Server(top, packages=_packages(top, machines))
        self.templates = [self._templates(release) for release in self.server.releases]
        found = [
            Machine(release, self._directory(release), possible_kinds(templates))
            for release, templates in zip(self.server.releases, self.templates)
        ]
        self.cases = narrow(Generator(seed, found).make(count), only)
        self.boots = share(self.cases)
        self.seconds: dict[str, float] = {}

    def _directory(self, release: str) -> Path:
        return self.server.root / "lib/modules" / release

    def _templates(self, release: str) -> dict[str, bytes]:
        tree = self.server.root / "usr/src/kernels" / release
        return compile_kinds(release, tree, (tree / "Module.symvers").read_text())

    def run(self) -> list[Row]:
        """Install, spoil, ask kmodd, and boot."""
        built = self._timed("installing", self._install)
        self._timed("spoiling", lambda: self._spoil(built))
        told = self._timed("asking kmodd", self._ask)
        outcomes = self._timed(f"{len(self.boots)} boots", self._boot)
        return [self._row(case, *told[case.number], outcomes[case.number]) for case in self.cases]

    def _timed(self, name: str, work: Any) -> Any:
        began = time.monotonic()
        result = work()
        self.seconds[name] = time.monotonic() - began
        return result

    # -- kmodd's part --------------------------------------------------------------------------------------------------
    def _install(self) -> dict[int, dict[str, bytes]]:
        """Let kmodd install every case's modules as they are in order; returns them as built, by case and name."""
        built: dict[int, dict[str, bytes]] = {}
        for case in self.cases:
            built[case.number] = {}
            for name, kind in case.modules.items():
                content = copy_of(self.templates[case.which], kind, case.number)
                if name != case.own(kind):
                    made = Object(content)
                    made.rename(case.own(kind), name)
                    content = bytes(made)
                built[case.number][name] = content
                load = (
                    case.fault.load.format(name=name)
                    if name == case.name or name in map(case.own, case.fault.first)
                    else ""
                )
                self._register(name, content, case.release, load)
        done = self.server.kmoddctl("sync")
        lost = [
            case.label for case in self.cases for name in case.modules if not self._is_installed(name, case.release)
        ]
        assert not lost, f"{lost}\n{done.stdout}{done.stderr}"
        return built

    def _register(self, name: str, content: bytes, release: str, load: str) -> None:
        source, registry = self.server.root / "usr/src" / name, self.server.root / "etc/kmodd/modules.d"
        source.mkdir(parents=True)
        (source / "built").write_bytes(content)
        registry.mkdir(parents=True, exist_ok=True)
        (registry / f"{name}.toml").write_text(
            f'[source]\npath = "/usr/src/{name}"\n[build]\ncommand = ["cp", "built", "{name}.ko"]\nstrip = false\n'
            f'[kernels]\nmatch = ["{release}"]\n[load]\n{load}'
        )

    def _is_installed(self, name: str, release: str) -> bool:
        try:
            return self.server.object(name, release).exists()
        except (OSError, TypeError):
            return False

    def _spoil(self, built: Mapping[int, Mapping[str, bytes]]) -> None:
        for late in (False, True):
            for case in self.cases:
                if case.fault.late == late:
                    case.fault.spoil(Place(self.server, case, dict(built[case.number])))
            if not late:
                self.server.depmod()
        for release in self.server.releases:
            self.server.forget_depmod(release)

    def _ask(self) -> dict[int, tuple[str, str]]:
        """Return what kmodd says of each case, by its number, with the command line of its boot in the root.

        Only the modules of those cases are registered meanwhile: kmodd looks anew at all that another command line
        may change.
        """
        told: dict[int, tuple[str, str]] = {}
        registry = self.server.root / "etc/kmodd/modules.d"
        every = registry.rename(registry.with_name("all"))
        for look in looks(self.boots):
            registry.mkdir()
            for name in (name for boot in look for case in boot.cases for name in case.modules):
                shutil.copy2(every / f"{name}.toml", registry)
            self._write_command_lines(look)
            verdicts = self._verdicts()
            for boot in look:
                told.update({case.number: verdicts[case.name, case.release] for case in boot.cases})
            shutil.rmtree(registry)
        return told

    def _write_command_lines(self, look: Sequence[Boot]) -> None:
        for part in ("loader", "grub2"):
            shutil.rmtree(self.server.root / "boot" / part, ignore_errors=True)
        if all(boot.loader is enter for boot in look):
            for release in self.server.releases:
                enter(self.server, release, "")
        for boot in look:
            boot.loader(self.server, self.server.releases[boot.which], boot.words)

    def _verdicts(self) -> dict[tuple[str, str], tuple[str, str]]:
        done = self.server.kmoddctl("status", "--json")
        assert done.stdout, done.stderr
        targets: list[dict[str, Any]] = json.loads(done.stdout)["targets"]
        return {(target["module"], target["kernel"]): understand(target) for target in targets}

    # -- the kernel's part ---------------------------------------------------------------------------------------------
    def _boot(self) -> dict[int, Outcome]:
        def one(numbered: tuple[int, Boot]) -> dict[int, Outcome]:
            number, boot = numbered
            work = self.top / f"boot-{number}"
            outcomes = run_boot(self.server.root, boot, work)
            return {case.number: outcomes[case.name] for case in boot.cases}

        found: dict[int, Outcome] = {}
        longest = sorted(enumerate(self.boots), key=lambda numbered: -len(numbered[1].cases))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for each in pool.map(one, longest):
                found.update(each)
        return found

    def _row(self, case: Case, told: str, reason: str, outcome: Outcome) -> Row:
        """Judge what a kernel did: whether it took the very file that kmodd recorded."""
        if outcome.crashed:
            kernel = CRASHES
        elif not outcome.inserted:
            kernel = REFUSES
        else:
            path = self.server.object(case.name, case.release)
            same = (f"/{path.relative_to(self.server.root)}".replace("/usr/lib/modules", "/lib/modules"), _sha256(path))
            ours = (outcome.file.replace("/usr/lib/modules", "/lib/modules"), outcome.digest) == same
            said = "" if case.fault.nameless else srcversion(case.kind.name, case.number)
            # where nothing is live, what is newest may be a provider
            ours = ours and outcome.srcversion in ((said,) if outcome.live else (said, ""))
            kernel = LOADS if ours and not case.fault.foreign else OTHER
        return Row(case, told, reason, outcome, kernel)


def understand(target: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a target of `kmoddctl status --json` says: READY, NOT_READY or UNTOLD, and why."""
    if target["verdict"] != "ready":
        return NOT_READY, target["reason"]
    open_questions = [text for text in target["warnings"] if "cannot be determined" in text]
    return (UNTOLD, open_questions[0]) if open_questions else (READY, "; ".join(target["warnings"]))


def print_table(rows: Sequence[Row]) -> None:
    """Print counts by class, then the disagreements."""
    form = "{:<5} {:<46} {:>5} {:>6} {:>14} {:>13}"
    print("\n" + form.format("class", "", "cases", "agreed", "cannot be determined", "disagreements"))
    for klass, text in CLASSES.items():
        some = [row for row in rows if row.case.fault.klass == klass]
        untold = sum(row.told == UNTOLD for row in some)
        wrong = sum(not row.agree for row in some)
        print(form.format(klass, text, len(some), len(some) - untold - wrong, untold, wrong or ""))
    wrong_rows = [row for row in rows if not row.agree]
    print(
        form.format("", "", len(rows), sum(r.agree for r in rows), sum(r.told == UNTOLD for r in rows), len(wrong_rows))
    )
    print(
        f"kernels: {dict(Counter(row.case.release for row in rows))}; kernel: {dict(Counter(r.kernel for r in rows))}"
    )
    for row in wrong_rows:
        print(row)


def _packages(top: Path, machines: int) -> dict[str, list[Path]]:
    chosen = {}
    for series, age, flavour, compression in KERNELS[:machines]:
        release = kernels.pick(series, age + 1, flavour=flavour)[age]
        chosen[release] = kernels.make(release, top / "rpms" / release, slim=True, compression=compression)
    return chosen


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
