"""The domain: what was observed, and what is to be said of it. All of it frozen, but for rows while they are filled.

Must not: do I/O. Words are those of ARCHITECTURE.md.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Optional

from .booting import Booting
from .fault import Fault as Fault
from .fault import make_visible
from .modulefile import Module, canonical
from .recipe import Recipe
from .record import Attempt, BuiltObject, InitRefusal, TargetRecord

CHANGED = "source-changed"  # what was copied is not what was planned with
UNSAFE = "source-unsafe"  # others than root can change what would be signed
UNREAD = "look-interrupted"  # an accident kept something from being read
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

    @property
    def directory(self) -> str:
        """Return the name of its temporary directories, which no other target has: names of modules hold no @."""
        return f"{self.module}@{self.kernel}"


@dataclass(frozen=True)
class Check:
    """One check of an object by verify; message says why it came out so.

    outcome: passed, failed, warning, untold (it is not known, which counts as a warning), skipped (there is nothing
    to compare with), or interrupted (it could not be made now, which says nothing of the object).
    """

    object: str
    check: str
    outcome: str
    message: str
    problem: str = ""
    hint: str = ""

    def __post_init__(self) -> None:
        make_visible(self, "object", "message", "hint")

    @property
    def fault(self) -> Fault:
        return Fault(self.problem, self.message, self.hint)

    @property
    def is_finding(self) -> bool:
        return self.outcome in ("failed", "warning", "untold")

    @property
    def is_relevant(self) -> bool:
        """Tell whether it matters for a verdict: it is a finding, or nobody knows."""
        return self.is_finding or self.outcome == "interrupted"


@dataclass(frozen=True)
class Kernel:
    """One kernel release under /lib/modules."""

    release: str
    present: bool = True  # False: a leftover directory of a removed kernel
    running: bool = False
    default_boot: Optional[bool] = None  # whether it boots next; None where that cannot be determined
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
    failures: Mapping[str, Attempt] = field(default_factory=dict)  # the last attempt of each step that failed: depmod
    omitted: frozenset[str] = frozenset()  # installed files, relative to its directory, that depmod does not list


@dataclass(frozen=True)
class BrokenFile:
    """A module file that cannot be used; its module is neither built nor removed."""

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
    doubt: why that is not known.
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
    """What could not be read of a target; until: when it is read again, seconds since the epoch."""

    fault: Fault
    until: float


@dataclass(frozen=True)
class Damage:
    """How an installed file, in-root, differs from what was recorded; text names it, and is fit to print."""

    path: str
    text: str


@dataclass
class TargetState:
    """What was observed of one target: a row, of which each probe fills its part. Nothing changes it afterwards."""

    record: Optional[TargetRecord] = None
    inputs: Optional[Mapping[str, str]] = None  # what identifies a build but for its dependencies, where it is known
    recipe: Optional[Recipe] = None  # what a dkms.conf says
    input_fault: Optional[Fault] = None  # e.g. an unreadable source
    left: Mapping[str, str] = field(default_factory=dict)  # objects that are left to the kernel's own, and why
    damage: Optional[Damage] = None
    store_damaged: bool = False  # unsigned objects are gone or changed
    checks: Optional[tuple[Check, ...]] = None  # from verify, where it could be asked: findings, or all
    notes: tuple[str, ...] = ()  # what its module file lets pass, and what the next build is refused for
    unseen: Optional[Unseen] = None  # of what is built from and what is installed
    unchecked: Optional[Unseen] = None  # by verify
    running: bool = False  # it is being built
    loaded: tuple[Loaded, ...] = ()  # of the running kernel's targets
    init_refused: tuple[InitRefusal, ...] = ()  # installed objects whose init found no device at the last boot

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return what verify found wrong."""
        return tuple(check.fault for check in self.checks or () if check.outcome == "failed")

    @property
    def is_proven(self) -> bool:
        """Tell whether verify answered each question about what is installed, and found nothing wrong."""
        unproven = ("failed", "untold", "interrupted")
        return self.checks is not None and not any(check.outcome in unproven for check in self.checks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what is to be known of it, wrong or not."""
        told = (check.message for check in self.checks or () if check.outcome in ("warning", "untold"))
        return (*told, *self.left.values(), *self.notes)

    @property
    def wanted(self) -> tuple[BuiltObject, ...]:
        """Return the objects of the last build that are to be installed."""
        built = self.record.built if self.record else None
        return tuple(item for item in built.objects if item.name not in self.left) if built else ()


UNKNOWN = TargetState()
NOTHING_TOLD = Booting()


@dataclass(frozen=True)
class Snapshot:
    """What is on disk now: a row for each kernel and each target, and what belongs to the whole root."""

    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    modules: Mapping[str, Module] = field(default_factory=dict)
    broken: tuple[BrokenFile, ...] = ()
    #: Directories whose names no kernel and no source can have; path and name are made fit to be shown.
    skipped: tuple[BrokenFile, ...] = ()
    targets: Mapping[Target, TargetState] = field(default_factory=dict)
    dropins: tuple[Dropin, ...] = ()  # the ones that kmodd wrote
    signer: Signer = Signer()
    key_fault: Optional[Fault] = None  # why the key cannot sign; None before the first key
    unread: tuple[str, ...] = ()  # files among the module files that are not read, in-root
    again: Optional[float] = None  # when what concerns all targets is read again, s since the epoch
    booting: Booting = NOTHING_TOLD  # what the boot loader would boot, and what is held
    boot: str = ""  # tells this boot of the running kernel from any other

    def present(self) -> list[Kernel]:
        """Return the kernels that are installed, by release."""
        return [kernel for _, kernel in sorted(self.kernels.items()) if kernel.present]

    def of(self, target: Target) -> TargetState:
        """Return a target's row, an empty one where nothing is known of it."""
        return self.targets.get(target, UNKNOWN)

    @functools.cached_property
    def records(self) -> dict[Target, TargetRecord]:
        """Return what is remembered, of the targets of which something is."""
        return {target: state.record for target, state in self.targets.items() if state.record is not None}

    def refusal(self, target: Target) -> Optional[Fault]:
        """Return why the next build of a target is refused for who could have a hand in it; None where it is not."""
        state = self.of(target)
        files = {target.module if state.record is None else state.record.module_file, target.module}
        faults = [broken.fault for broken in self.broken if {broken.path, broken.name} & files]
        faults += [state.input_fault] if state.input_fault is not None else []
        return next((fault for fault in faults if fault.problem in REFUSED), None)

    def unlisted(self, target: Target) -> tuple[BuiltObject, ...]:
        """Return the objects of the last build that are named like modules of the kernel's own, and by nobody else."""
        module, kernel = self.modules.get(target.module), self.kernels.get(target.kernel)
        if module is None or kernel is None or module.names_objects:
            return ()
        return tuple(item for item in self.of(target).wanted if canonical(item.name) in kernel.in_tree)

    def depends(self, target: Target) -> tuple[str, ...]:
        """Return the modules that a registered one is built after, for a kernel."""
        recipe = self.of(target).recipe
        more = recipe.depends if recipe is not None else ()
        return tuple(dict.fromkeys((*self.modules[target.module].file.build.depends, *more)))


@dataclass(frozen=True)
class Policy:
    """What the administrator decided, as far as planning is concerned. Times in seconds."""

    retry_first: float = 60
    retry_longest: float = 3600
    retry_now: float = 0  # what failed before this moment, in seconds since the epoch, is tried again without a pause
    guard: str = "entry"  # of [boot] in kmodd.toml(5)
    hold_at_most: float = 0
    keep_proven: bool = True  # of [dnf]

    def until(self, attempt: Attempt, now: float) -> float:
        """Return when a failed attempt may be repeated, seconds since the epoch; at once if it ended in the future.

        Then the clock was set back since, and nothing tells how long ago it was.
        """
        pause = self.retry_first * (1 << min(max(attempt.failures - 1, 0), 20))
        return now if attempt.ended > now else attempt.ended + min(pause, self.retry_longest)


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason."""

    verdict: Verdict
    reason: str
    problem: str = ""
    hint: str = ""
    rule: int = field(default=0, compare=False)  # which of planner.RULES decided; 0 where none did
    until: Optional[float] = field(default=None, compare=False)  # when it is tried again by itself, s since the epoch

    @classmethod
    def of(
        cls, verdict: Verdict, fault: Fault, rule: int = 0, more: str = "", until: Optional[float] = None
    ) -> Judgement:
        """Return the verdict that follows from a fault. more: is put behind its message."""
        return cls(verdict, fault.message + more, fault.problem, fault.hint, rule, until)

    @property
    def fault(self) -> Fault:
        return Fault(self.problem, self.reason, self.hint)


def fingerprint(inputs: Mapping[str, str]) -> str:
    """Return the sha256 that identifies a set of inputs."""
    return hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).hexdigest()


def worst(judgements: list[Judgement]) -> Judgement:
    """Return the gravest of some judgements, the first of equals; ready where there are none."""
    ranked = sorted(judgements, key=lambda j: -SEVERITY.index(j.verdict))
    if not ranked or ranked[0].verdict is Verdict.EXCLUDED:
        return Judgement(Verdict.READY, "nothing is required of it")
    return ranked[0]
