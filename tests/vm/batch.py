"""Boots a kernel for many cases at once, and says what became of each: the guest's side is in the file batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archive import Archive
from fault import Case
from generate import Boot
from machine import BootError, add_kmod, add_modules, launch

LOADS, OTHER, REFUSES, CRASHES = "loads", "another", "refuses", "crashes"
LIMIT = 900.0  # seconds for one boot: it only ends what hangs where the guest's own watchdogs do not see it
ALWAYS = "quiet oops=panic"  # whatever goes wrong ends the boot, so that no case follows on a broken kernel
NO_DEVICE = "No such device"  # what init says for want of hardware, after the loader took the module


@dataclass(frozen=True)
class Outcome:
    """What the kernel did with the module that a case asks for. file, digest: of what modprobe inserted.

    live, srcversion: of the newest module in the kernel, whatever it calls itself.
    """

    exit: int = -1
    stderr: str = ""
    messages: str = ""
    live: bool = False
    srcversion: str = ""
    file: str = ""
    digest: str = ""
    crashed: bool = False

    @property
    def inserted(self) -> bool:
        """Tell whether the loader took a module: also where its init found no device."""
        return self.live or (self.exit > 0 and NO_DEVICE in self.stderr and bool(self.file))

    @property
    def said(self) -> str:
        """Return the last thing that the kernel said, or else modprobe, without time stamps."""
        said = [line for line in self.messages.strip().splitlines() if "tainting kernel" not in line]
        lines = said or self.stderr.strip().splitlines() or ["nothing"]
        return "it crashed" if self.crashed else re.sub(r"^\[[ .\d]+\] ", "", lines[-1])


def run_boot(root: Path, boot: Boot, work: Path) -> dict[str, Outcome]:
    """Return what became of each case of a boot, by the name of its module.

    A case that the kernel did not survive is tried again alone; those behind it get a boot of their own. Raises
    BootError where no case was begun.
    """
    outcomes: dict[str, Outcome] = {}
    pending, turn = list(boot.cases), 0
    while pending:
        turn += 1
        told = _boot(root, boot.words, pending, work / str(turn))
        found, finished = read(told)
        outcomes.update(found)
        if finished:
            return outcomes
        left = [case for case in pending if case.name not in found]
        if not left or f"begin\t{left[0].name}\t" not in told:
            raise BootError(f"{pending[0].release} {boot.words} ended early: {work / str(turn) / 'console'}")
        if len(pending) == 1:
            outcomes[left[0].name] = Outcome(crashed=True)
        else:
            again = run_boot(root, Boot(boot.which, boot.words, boot.loader, left[:1]), work / f"{turn}-alone")
            outcomes.update(again)
        pending = left[1:]
    return outcomes


def _boot(root: Path, words: str, cases: Sequence[Case], work: Path) -> str:
    release = cases[0].release
    archive = Archive()
    archive.file("/init", Path(__file__).with_name("batch").read_bytes(), 0o755)
    lines = (f"{case.name} {case.fault.options} {' '.join(map(case.own, case.fault.first))}\n" for case in cases)
    archive.file("/cases", "".join(lines).encode())
    add_kmod(archive, root)
    names = {name for case in cases for name in (*case.modules, case.kind.in_tree)}
    add_modules(archive, root / "lib/modules" / release, f"/lib/modules/{release}", [], names)
    try:
        kernel = root / "lib/modules" / release / "vmlinuz"
        _, told = launch(archive, kernel, work, f"{ALWAYS} {words}".strip(), limit=LIMIT)
    except BootError:
        told = (work / "report").read_text(errors="replace")
    (work / "initramfs.gz").unlink()
    return told.replace("\r", "")


def read(text: str) -> tuple[dict[str, Outcome], bool]:
    """Return what a report says of each case that came to its end, and whether the guest did."""
    facts: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        kind, name, value = (*line.split("\t", 2), "", "")[:3]
        facts.setdefault(name, {}).setdefault(kind, []).append(value)
    finished = "end" in facts.pop("-", {})
    return {name: _outcome(name, found) for name, found in facts.items() if "done" in found}, finished


def _outcome(name: str, found: dict[str, list[str]]) -> Outcome:
    digests = [value.split(None, 1) for value in found.get("file", [])]
    digest, file = next((pair for pair in reversed(digests) if _stem(pair[1]) == name), ("", ""))
    return Outcome(
        exit=int(found["exit"][0]),
        stderr="\n".join(found.get("stderr", [])),
        messages="\n".join(found.get("dmesg", [])),
        live=found["exit"] == ["0"] and found.get("initstate") == ["live"] and bool(digest),
        srcversion=found.get("srcversion", [""])[0],
        file=file,
        digest=digest,
    )


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")
