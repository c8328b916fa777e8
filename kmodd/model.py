"""The domain: what was observed, what is to be done, and what is to be said of it. All of it frozen.

Must not: do I/O. Words are those of ARCHITECTURE.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Optional, Union

from .modulefile import Module, canonical
from .recipe import Recipe
from .record import Attempt, BuiltObject, InitRefusal, TargetRecord
from .remedy import Remedy
from .visible import visible_lines

CHANGED = "source-changed"  # what was copied is not what was planned with
UNSAFE = "source-unsafe"  # others than root can change what would be signed
UNREAD = "look-interrupted"  # an accident kept something from being looked at
UNSIGNED = "kernel-source-unsigned"  # a source RPM without a good signature
REFUSED = (UNSAFE, UNSIGNED)  # no reason to take away what is installed


class Verdict(str, Enum):
    """The state of a target or kernel, worst last but for EXCLUDED."""

    EXCLUDED = "excluded"
    READY = "ready"
    BUILDING = "building"
    WAITING = "waiting"
    BLOCKED = "blocked"
    FAILED = "failed"


SEVERITY = (Verdict.EXCLUDED, Verdict.READY, Verdict.BUILDING, Verdict.WAITING, Verdict.BLOCKED, Verdict.FAILED)


@dataclass(frozen=True, order=True)
class Target:
    """A pair of a module and a kernel release."""

    module: str
    kernel: str

    def __str__(self) -> str:
        return f"{self.module} for {self.kernel}"


def _make_visible(thing: object, *names: str) -> None:
    """Have texts of a frozen object shown as they are, whatever they quote of what comes from outside."""
    for name in names:
        text = getattr(thing, name)
        shown = visible_lines(text)
        if shown is not text:
            object.__setattr__(thing, name, shown)


@dataclass(frozen=True)
class Fault:
    """Something found wrong: problem code, sentence, what to do; they are made fit to be shown."""

    problem: str
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        _make_visible(self, "message", "hint")


@dataclass(frozen=True)
class Check:
    """One thing that verify looked at in an object; message says why.

    outcome: passed, failed, warning, untold (it cannot be told, which counts as a warning), skipped (there is nothing
    to compare with), or interrupted (it could not be made now, which says nothing of the object).
    """

    object: str
    check: str
    outcome: str
    message: str
    problem: str = ""
    hint: str = ""

    def __post_init__(self) -> None:
        _make_visible(self, "object", "message", "hint")

    @property
    def is_finding(self) -> bool:
        return self.outcome in ("failed", "warning", "untold")

    @property
    def is_told(self) -> bool:
        """Tell whether it matters for a verdict: it is a finding, or nobody knows."""
        return self.is_finding or self.outcome == "interrupted"


@dataclass(frozen=True)
class Kernel:
    """One kernel release under /lib/modules."""

    release: str
    present: bool = True  # False: a leftover directory of a removed kernel
    running: bool = False
    default_boot: Optional[bool] = None  # whether it boots next; None where that cannot be told
    flavour: str = ""
    architecture: str = "x86_64"
    build_tree: Optional[str] = None  # in-root path of a usable tree
    build_tree_fault: Optional[Fault] = None
    devel_package: str = ""  # NEVRA, where the rpm database knows it
    source_package: str = ""  # file name of the source RPM that it was built from, likewise
    config: Mapping[str, str] = field(default_factory=dict)  # only the symbols that somebody asks for
    compression: str = ""  # of its own modules: "", xz, zst or gz
    signature_hash: str = ""  # CONFIG_MODULE_SIG_HASH; "" where it knows no signatures
    in_tree: frozenset[str] = frozenset()  # canonical names of its own modules, as far as somebody asks for them
    depmod_stale: str = ""  # why modules.dep is not what depmod would write now
    command_lines: tuple[str, ...] = ("",)  # that it may get; more than one where the boot loader leaves that open
    command_line_unknown: str = ""  # why it may get others
    omitted: frozenset[str] = frozenset()  # installed files, relative to its directory, that depmod does not list


@dataclass(frozen=True)
class BrokenFile:
    """A module file that cannot be taken; its module is neither built nor removed."""

    path: str
    name: str
    fault: Fault
    whole: bool = False  # it is a directory of module files, which may have any module


@dataclass(frozen=True)
class Signer:
    """The key that signs: identity is the sha256 of the DER certificate, means tells how its private half is used."""

    identity: str = ""
    fault: Optional[Fault] = None
    means: str = ""

    @property
    def state(self) -> str:
        """Return what a failed installation may be repeated for when it changes."""
        return f"{self.identity or (self.fault.problem if self.fault else 'absent')} {self.means}".strip()


@dataclass(frozen=True)
class Demand:
    """What a kernel demands of signatures.

    enforced: why it refuses modules without one by a key that it trusts; "" where it takes them or may take them.
    doubt: why it cannot be told whether it does.
    """

    enforced: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Dropin:
    """A generated file: kind is modules-load, modprobe or depmod.

    kernels: the releases that one of depmod speaks of; None where an older kmodd wrote it, so that all may be meant.
    """

    kind: str
    module: str
    content: str
    kernels: Optional[tuple[str, ...]] = ()


class Presence(str, Enum):
    """What the running kernel has in memory of an installed object."""

    CURRENT = "current"  # the installed one
    STALE = "stale"  # another one of that name
    ABSENT = "absent"
    UNKNOWN = "unknown"  # one that cannot be compared


@dataclass(frozen=True)
class Loaded:
    """An installed object as the running kernel has it; name is canonical."""

    name: str
    presence: Presence
    holders: tuple[str, ...] = ()  # modules that use its symbols
    users: int = 0  # references beside those of holders: open files, mounts
    permanent: bool = False  # the kernel cannot unload it
    interfaces: tuple[str, ...] = ()  # network interfaces of it that are up


@dataclass(frozen=True)
class Unseen:
    """What could not be looked at of a target; until: when it is looked at again, seconds since the epoch."""

    fault: Fault
    until: float


@dataclass(frozen=True)
class Snapshot:
    """What is on disk now."""

    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    modules: Mapping[str, Module] = field(default_factory=dict)
    broken: tuple[BrokenFile, ...] = ()
    skipped: tuple[
        BrokenFile, ...
    ] = ()  # directories whose names no kernel and no source can have; path and name shown
    inputs: Mapping[Target, Mapping[str, str]] = field(default_factory=dict)  # where they can be known
    recipes: Mapping[Target, Recipe] = field(default_factory=dict)  # of those that have a dkms.conf
    input_faults: Mapping[Target, Fault] = field(default_factory=dict)  # e.g. an unreadable source
    records: Mapping[Target, TargetRecord] = field(default_factory=dict)
    left: Mapping[Target, Mapping[str, str]] = field(default_factory=dict)  # objects left to the kernel's own, and why
    damaged: Mapping[Target, str] = field(default_factory=dict)  # what differs on disk from the record, fit to print
    store_damaged: frozenset[Target] = frozenset()  # unsigned objects gone or changed
    kernel_attempts: Mapping[str, Attempt] = field(default_factory=dict)
    dropins: tuple[Dropin, ...] = ()  # the ones that kmodd wrote
    signer: Signer = Signer()
    faults: Mapping[Target, tuple[Fault, ...]] = field(default_factory=dict)  # from verify
    warnings: Mapping[Target, tuple[str, ...]] = field(default_factory=dict)  # from verify
    checks: Mapping[Target, tuple[Check, ...]] = field(default_factory=dict)  # all of them, where they were asked for
    unseen: Mapping[Target, Unseen] = field(default_factory=dict)  # of what is built and what is to be installed
    again: Optional[float] = None  # when what of no target could be looked at is looked at again, s since the epoch
    unchecked: Mapping[Target, Unseen] = field(default_factory=dict)  # from verify
    running: frozenset[Target] = frozenset()
    loaded: Mapping[Target, tuple[Loaded, ...]] = field(default_factory=dict)  # of the running kernel's targets
    boot: str = ""  # tells this boot of the running kernel from any other
    refusals: Mapping[Target, tuple[InitRefusal, ...]] = field(default_factory=dict)  # of installed objects' init

    def present(self) -> list[Kernel]:
        """Return the kernels that are installed, by release."""
        return [kernel for _, kernel in sorted(self.kernels.items()) if kernel.present]

    def wanted(self, target: Target) -> tuple[BuiltObject, ...]:
        """Return the objects of the last build of a target that are to be installed."""
        record, left = self.records.get(target), self.left.get(target, {})
        return tuple(o for o in record.built.objects if o.name not in left) if record and record.built else ()

    def refusal(self, target: Target) -> Optional[Fault]:
        """Return why the next build of a target is refused for who could have a hand in it; None where it is not."""
        record = self.records.get(target)
        files = {target.module if record is None else record.module_file, target.module}
        faults = [broken.fault for broken in self.broken if {broken.path, broken.name} & files]
        faults += [self.input_faults[target]] if target in self.input_faults else []
        return next((fault for fault in faults if fault.problem in REFUSED), None)

    def unlisted(self, target: Target) -> tuple[BuiltObject, ...]:
        """Return the objects of the last build that are named like modules of the kernel's own, and by nobody else."""
        module, kernel = self.modules.get(target.module), self.kernels.get(target.kernel)
        if module is None or kernel is None or module.names_objects:
            return ()
        return tuple(item for item in self.wanted(target) if canonical(item.name) in kernel.in_tree)

    def depends(self, target: Target) -> tuple[str, ...]:
        """Return the modules that a registered one is built after, for a kernel."""
        more = self.recipes[target].depends if target in self.recipes else ()
        return tuple(dict.fromkeys((*self.modules[target.module].file.build.depends, *more)))


@dataclass(frozen=True)
class Policy:
    """What the administrator decided, as far as planning is concerned. Times in seconds."""

    retry_first: float = 60
    retry_longest: float = 3600


@dataclass(frozen=True)
class BuildModule:
    """Build a target; inputs is what the build is identified by."""

    target: Target
    reason: str
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    after: tuple[Target, ...] = ()  # built before it


@dataclass(frozen=True)
class InstallModule:
    """Sign, compress and install what was built."""

    target: Target
    reason: str


@dataclass(frozen=True)
class RemoveModule:
    """Delete a target's installed objects, stored objects and record."""

    target: Target
    reason: str


@dataclass(frozen=True)
class WriteDropin:
    dropin: Dropin
    reason: str


@dataclass(frozen=True)
class RemoveDropin:
    dropin: Dropin
    reason: str


@dataclass(frozen=True)
class RunDepmod:
    kernel: str
    reason: str


@dataclass(frozen=True)
class ReloadModule:
    """Take objects out of the running kernel, in this order, and load them again, in the reverse one."""

    target: Target
    objects: tuple[str, ...]
    reason: str
    along: tuple[Target, ...] = ()  # others whose objects are among them


@dataclass(frozen=True)
class Wait:
    """Nothing can be done for a target now. until: seconds since the epoch, None where an event must come first.

    hint: for people. remedy: what kmodd itself may do about it.
    """

    target: Target
    reason: str
    problem: str
    hint: str = ""
    until: Optional[float] = None
    remedy: Optional[Remedy] = None


Action = Union[BuildModule, InstallModule, RemoveModule, WriteDropin, RemoveDropin, RunDepmod, ReloadModule, Wait]


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason."""

    verdict: Verdict
    reason: str
    problem: str = ""
    hint: str = ""
    rule: int = field(default=0, compare=False)  # which of planner.RULES decided; 0 where none did


def fingerprint(inputs: Mapping[str, str]) -> str:
    """Return the sha256 that identifies a set of inputs."""
    return hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).hexdigest()


def worst(judgements: list[Judgement]) -> Judgement:
    """Return the gravest of some judgements, the first of equals; ready where there are none."""
    ranked = sorted(judgements, key=lambda j: -SEVERITY.index(j.verdict))
    if not ranked or ranked[0].verdict is Verdict.EXCLUDED:
        return Judgement(Verdict.READY, "nothing is required of it")
    return ranked[0]
