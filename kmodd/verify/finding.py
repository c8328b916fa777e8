"""What is asked of an installed target, and what was found of its objects so far.

Must not: read anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Check, Demand, Fault, Kernel, Target
from ..core.modulefile import canonical
from ..core.record import Installed
from ..system.files import find_accident
from .kernelview import Parsed
from .probe import Resolution

AGAIN = "kmodd checks it again by itself"
DAMAGED = "remove the file and run kmoddctl sync"


@dataclass(frozen=True)
class Question:
    """An installed target to be checked.

    at_boot: canonical names that are loaded at boot. certificate: ours, DER; empty where signatures are not to be
    checked, for the reason that unsigned gives. demand: the kernel's.
    """

    target: Target
    kernel: Kernel
    installed: Installed
    at_boot: tuple[str, ...] = ()
    certificate: bytes = b""
    unsigned: str = ""
    demand: Demand = field(default_factory=Demand)


@dataclass
class Finding:
    """What was found of one object so far. beyond: other modules that were read for it."""

    target: Target
    name: str
    path: str
    at_boot: bool
    checks: list[Check] = field(default_factory=list)
    beyond: list[Path] = field(default_factory=list)
    parsed: Optional[Parsed] = None
    resolution: Resolution = field(default_factory=Resolution)

    def add(self, check: str, faults: Sequence[Fault], passed: str, otherwise: str = "failed") -> None:
        """Add a check's outcome: that it passed, or every fault. otherwise: the outcome then."""
        if not faults:
            self.checks.append(Check(self.name, check, "passed", passed))
        self.checks += [Check(self.name, check, otherwise, f.message, f.problem, f.hint) for f in faults]

    def add_doubts(self, check: str, faults: Sequence[Fault], outcome: str = "untold") -> None:
        """Add what may be wrong, beside what `add` said."""
        if faults:
            self.add(check, faults, "", outcome)

    @contextlib.contextmanager
    def attempt(self, check: str) -> Iterator[None]:
        """Note a check as interrupted where the block could not make it. Raises what says something of the object."""
        try:
            yield
        except (Problem, OSError, MemoryError) as error:
            accident = find_accident(error)
            if not accident:
                raise
            self.interrupt(check, accident)

    def interrupt(self, check: str, accident: str) -> None:
        """Note that a check could not be made now."""
        self.checks.append(Check(self.name, check, "interrupted", accident, "check-interrupted", AGAIN))

    def is_interrupted(self, check: str) -> bool:
        return any(made.check == check and made.outcome == "interrupted" for made in self.checks)

    @property
    def inner(self) -> str:
        """Return the canonical name that the kernel lists it by."""
        return canonical(self.parsed.shape.name) if self.parsed else self.name

    @property
    def broken(self) -> Optional[Check]:
        """Return the first check that failed, else the first that could not be made."""
        made = (check for outcome in ("failed", "interrupted") for check in self.checks if check.outcome == outcome)
        return next(made, None)
