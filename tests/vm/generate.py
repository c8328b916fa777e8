"""Which cases a seed yields, and how they share boots."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from fault import Case, Fault, Loader, enter
from faults import FAULTS
from kinds import KINDS, Kind

RARE = 0.1  # how often a row that needs a boot of its own comes again, compared with the others
LISTS = ("module_blacklist", "initcall_blacklist", "modprobe.blacklist")  # a kernel takes one list of each
LONGEST = 1600  # characters of a command line that several share; a kernel takes 2048


@dataclass(frozen=True)
class Machine:
    """A kernel that cases may be on. possible: the kinds that there are for it."""

    release: str
    directory: Path
    possible: Collection[str]


@dataclass
class Boot:
    """Cases that one boot answers. loader: how their command line is written down in the root."""

    which: int
    words: str = ""
    loader: Loader = enter
    cases: list[Case] = field(default_factory=list)


class Generator:
    """Makes cases that do not disturb each other in one root."""

    def __init__(self, seed: str, machines: Sequence[Machine]) -> None:
        self.seed = seed
        self.machines = machines
        self.random = random.Random(seed)
        self.cases: list[Case] = []
        self._names: set[str] = set()
        self._owned: dict[tuple[int, str], bool] = {}

    def make(self, count: int) -> list[Case]:
        """Return at least one case of every row, and more of them by chance until there are so many."""
        for number, fault in enumerate(FAULTS):
            turns = (self._try(fault, (number + turn) % len(self.machines)) for turn in range(4 * len(self.machines)))
            assert any(turns), f"no case of {fault.title} fits into the root"
        weights = [RARE if fault.alone or fault.risky else 1.0 for fault in FAULTS]
        while len(self.cases) < count:
            (fault,) = self.random.choices(FAULTS, weights)
            self._try(fault, self.random.randrange(len(self.machines)))
        return self.cases

    def _try(self, fault: Fault, which: int) -> Optional[Case]:
        """Add a case of a row on a kernel; None where there is no room for it."""
        machine = self.machines[which]
        kinds = [k for k in KINDS.values() if k.name in machine.possible and fault.fits(k)]
        kinds = [kind for kind in kinds if self._is_free(which, kind, fault.owns)]
        if not kinds or which not in fault.releases:
            return None
        kind = self.random.choice(kinds)
        number = len(self.cases) + 1
        case = Case(number, fault, kind, which, machine.release, machine.directory, self.seed)
        if case.name in self._names:
            return None
        self._names.add(case.name)
        if kind.in_tree:
            self._owned[which, kind.in_tree] = fault.owns
        self.cases.append(case)
        return case

    def _is_free(self, which: int, kind: Kind, owns: bool) -> bool:
        """Tell whether what a kind needs of the kernel's own is, and stays, as others want it."""
        owned = self._owned.get((which, kind.in_tree))
        return not kind.in_tree or owned is None or not (owned or owns)


def share(cases: Sequence[Case]) -> list[Boot]:
    """Return the boots that a root's cases want: few."""
    boots: list[Boot] = []
    alone: dict[tuple[int, str, Loader], Boot] = {}
    shared: dict[int, Boot] = {}
    for case in cases:
        fault, words = case.fault, " ".join(case.words)
        if fault.risky:
            boots.append(Boot(case.which, cases=[case]))
        elif fault.alone:
            key = (case.which, words, fault.loader)
            if key not in alone:
                alone[key] = Boot(case.which, words, fault.loader)
                boots.append(alone[key])
            alone[key].cases.append(case)
        else:
            boot = shared.get(case.which)
            if boot is None or len(merge([*boot.cases, case])) > LONGEST:
                boot = shared[case.which] = Boot(case.which)
                boots.append(boot)
            boot.cases.append(case)
            boot.words = merge(boot.cases)
    return boots


def merge(cases: Sequence[Case]) -> str:
    """Return the command line of cases that share a boot: lists joined, what stands behind -- at the end."""
    lists: dict[str, list[str]] = {}
    before: list[str] = []
    behind: list[str] = []
    for word in (word for case in cases for word in case.words):
        key, _, value = word.partition("=")
        if word.startswith("-- "):
            behind.append(word[len("-- ") :])
        elif key in LISTS:
            lists.setdefault(key, []).append(value)
        else:
            before.append(word)
    words = [*before, *(f"{key}={','.join(values)}" for key, values in lists.items())]
    return " ".join([*words, *(["--", *behind] if behind else [])])


def looks(boots: Sequence[Boot]) -> list[list[Boot]]:
    """Return which boots' command lines can be in one root at a time: one of each kernel, or one that is special."""
    rounds: list[list[Boot]] = []
    plain: dict[int, list[Boot]] = {}
    for boot in boots:
        if boot.loader is enter:
            plain.setdefault(boot.which, []).append(boot)
        else:
            rounds.append([boot])
    longest = max(map(len, plain.values()), default=0)
    return [[each[i] for each in plain.values() if i < len(each)] for i in range(longest)] + rounds


def narrow(cases: Sequence[Case], only: str) -> list[Case]:
    """Return the cases whose label has a text; all where it is empty."""
    return [case for case in cases if only.lower() in case.label.lower()]


def possible_kinds(templates: Mapping[str, bytes]) -> set[str]:
    """Return the kinds of which a kernel has all that they need."""
    return {name for name in templates if all(needed in templates for needed in KINDS[name].needs)}
