"""What can be done about a root: the kinds of action, and the order in which they are applied. All of it frozen.

Must not: decide, or do anything. The planner decides, the steps of reconcile do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Optional

from .model import Dropin, Fault, Target
from .remedy import Remedy


class Phase(IntEnum):
    """The place of an action in a pass. Nothing else knows the order."""

    REMOVE = 1
    BUILD = 2
    INSTALL = 3
    CONFIGURE = 4
    INDEX = 5
    BOOT = 6
    GUARD = 7
    RELOAD = 8
    WAIT = 9


@dataclass(frozen=True)
class Subject:
    """What an action is about: a target, a whole module ("" for the kernel) or a whole kernel ("" for the module)."""

    module: str = ""
    kernel: str = ""

    def fields(self) -> dict[str, str]:
        """Return it as the fields of a log event."""
        both = {"module": self.module, "kernel": self.kernel}
        return {name: value for name, value in both.items() if value}


class Action:
    """One thing to be done. Each kind has a word that `plan` prints, a name that JSON carries, and a phase."""

    kind: ClassVar[str]
    name: ClassVar[str]
    phase: ClassVar[Phase]
    reason: str  # fit to print

    @property
    def subject(self) -> Subject:
        raise NotImplementedError

    def concerns(self, target: Target) -> bool:
        """Tell whether it belongs to the story of a target."""
        subject = self.subject
        return subject.kernel == target.kernel and subject.module in ("", target.module)


class OfTarget(Action):
    """An action on one target."""

    target: Target

    @property
    def subject(self) -> Subject:
        return Subject(self.target.module, self.target.kernel)


@dataclass(frozen=True)
class TargetAction(OfTarget):
    """An action whose target and reason come first, before what a kind has besides."""

    target: Target
    reason: str


@dataclass(frozen=True)
class BuildModule(TargetAction):
    """Build a target; inputs is what the build is identified by. rule: of planner.RULES, here and below."""

    kind: ClassVar[str] = "build"
    name: ClassVar[str] = "BuildModule"
    phase: ClassVar[Phase] = Phase.BUILD
    rule: ClassVar[int] = 5
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    after: tuple[Target, ...] = ()  # built before it


@dataclass(frozen=True)
class InstallModule(TargetAction):
    """Sign, compress and install what was built. urgent: what is installed now would not do instead."""

    kind: ClassVar[str] = "install"
    name: ClassVar[str] = "InstallModule"
    phase: ClassVar[Phase] = Phase.INSTALL
    rule: ClassVar[int] = 6
    urgent: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class RemoveModule(TargetAction):
    """Delete a target's installed objects, stored objects and record."""

    kind: ClassVar[str] = "remove"
    name: ClassVar[str] = "RemoveModule"
    phase: ClassVar[Phase] = Phase.REMOVE


@dataclass(frozen=True)
class DropinAction(Action):
    """An action on one generated file."""

    phase: ClassVar[Phase] = Phase.CONFIGURE
    dropin: Dropin
    reason: str

    @property
    def subject(self) -> Subject:
        return Subject(module=self.dropin.module)


@dataclass(frozen=True)
class WriteDropin(DropinAction):
    kind: ClassVar[str] = "write"
    name: ClassVar[str] = "WriteDropin"


@dataclass(frozen=True)
class RemoveDropin(DropinAction):
    kind: ClassVar[str] = "delete"
    name: ClassVar[str] = "RemoveDropin"


@dataclass(frozen=True)
class KernelAction(Action):
    """An action on a kernel as a whole."""

    kernel: str
    reason: str

    @property
    def subject(self) -> Subject:
        return Subject(kernel=self.kernel)


@dataclass(frozen=True)
class RunDepmod(KernelAction):
    kind: ClassVar[str] = "depmod"
    name: ClassVar[str] = "RunDepmod"
    phase: ClassVar[Phase] = Phase.INDEX


@dataclass(frozen=True)
class ReleaseKernel(KernelAction):
    """Give a held kernel its boot entry, by kernel-install(8)."""

    kind: ClassVar[str] = "release"
    name: ClassVar[str] = "ReleaseKernel"
    phase: ClassVar[Phase] = Phase.BOOT


@dataclass(frozen=True)
class DropHold(KernelAction):
    """Forget that a kernel is held; nothing is done to the boot loader."""

    kind: ClassVar[str] = "forget"
    name: ClassVar[str] = "DropHold"
    phase: ClassVar[Phase] = Phase.BOOT


@dataclass(frozen=True)
class GuardFile(Action):
    """Write a file of the boot guard's that others read."""

    phase: ClassVar[Phase] = Phase.GUARD
    content: str
    reason: str

    @property
    def subject(self) -> Subject:
        return Subject()


@dataclass(frozen=True)
class WriteGuard(GuardFile):
    """By it kernel-install's plugin tells whether a new kernel is to be held."""

    kind: ClassVar[str] = "guard"
    name: ClassVar[str] = "WriteGuard"


@dataclass(frozen=True)
class WriteKept(GuardFile):
    """By it dnf's plugin tells which kernel is to stay installed."""

    kind: ClassVar[str] = "keep"
    name: ClassVar[str] = "WriteKept"


@dataclass(frozen=True)
class ReloadModule(OfTarget):
    """Unload objects from the running kernel, in this order, and load them again, in the reverse one."""

    kind: ClassVar[str] = "reload"
    name: ClassVar[str] = "ReloadModule"
    phase: ClassVar[Phase] = Phase.RELOAD
    target: Target
    objects: tuple[str, ...]
    reason: str
    along: tuple[Target, ...] = ()  # others whose objects are among them

    def concerns(self, target: Target) -> bool:
        return target in (self.target, *self.along)


@dataclass(frozen=True)
class Wait(TargetAction):
    """Nothing can be done for a target now. until: seconds since the epoch, None where an event must come first.

    hint: for people. remedy: what kmodd itself may do about it.
    """

    kind: ClassVar[str] = "wait"
    name: ClassVar[str] = "Wait"
    phase: ClassVar[Phase] = Phase.WAIT
    problem: str
    hint: str = ""
    until: Optional[float] = None
    remedy: Optional[Remedy] = None
    rule: int = field(default=3, compare=False)

    @classmethod
    def of(
        cls,
        target: Target,
        fault: Fault,
        until: Optional[float] = None,
        *,
        remedy: Optional[Remedy] = None,
        rule: int = 3,
    ) -> Wait:
        """Return the wait that a fault is the reason of."""
        return cls(target, fault.message, fault.problem, fault.hint, until, remedy, rule)

    @property
    def fault(self) -> Fault:
        return Fault(self.problem, self.reason, self.hint)
