"""Which loaded objects can be replaced by the installed ones, and what is reported of those that cannot.

Pure. An object is unloaded together with what uses its symbols and with what of its module and of build.depends is
stale, or not at all: a half exchanged set might not load. Nothing in use is touched, and no try is made twice with the
same objects in one boot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Optional, Union

from .actions import ReloadModule
from .model import Fault, Judgement, Loaded, Presence, Snapshot, Target, Verdict
from .record import Reload


@dataclass(frozen=True)
class Obstacle:
    """Why something stays in memory; passing: it may end without any change on disk."""

    reason: str
    passing: bool = False


@dataclass(frozen=True)
class Note:
    """What is to be said of a target's stale objects, and what can be done."""

    text: str
    hint: str


def reload_inputs(target: Target, snapshot: Snapshot) -> dict[str, str]:
    """Return what identifies a try: the boot, and the installed objects as they were built."""
    record = snapshot.of(target).record
    objects = record.installed.objects if record and record.installed else ()
    return {"boot": snapshot.boot, **{item.name: item.built for item in objects}}


def find_refusal(target: Target, snapshot: Snapshot) -> Optional[Fault]:
    """Return why the running kernel refused an object that was to replace one in memory, None if it did not."""
    tried = _tried(target, snapshot)
    if tried is None or not tried.absent:
        return None
    absent = {item.name for item in snapshot.of(target).loaded if item.presence is Presence.ABSENT}
    return tried.fault if absent & set(tried.objects) else None


def find_notes(snapshot: Snapshot, judgements: Mapping[Target, Judgement]) -> dict[Target, Note]:
    """Return what is to be said of targets that the running kernel has in memory as they were before."""

    def is_ready(target: Target) -> bool:
        return target in judgements and judgements[target].verdict is Verdict.READY

    reloading = Reloading(snapshot, is_ready)
    found = {target: reloading.find_note(target) for target in sorted(snapshot.targets) if snapshot.of(target).loaded}
    return {target: note for target, note in found.items() if note is not None}


def _tried(target: Target, snapshot: Snapshot) -> Optional[Reload]:
    """Return the try that was made, and ended, with what is installed now."""
    record = snapshot.of(target).record
    tried = record.reload if record else None
    done = tried is not None and tried.outcome != "began" and tried.inputs == reload_inputs(target, snapshot)
    return tried if done else None


class Reloading:
    """What of one snapshot is to be reloaded. is_ready tells whether a target is installed and checked."""

    def __init__(self, snapshot: Snapshot, is_ready: Callable[[Target], bool]) -> None:
        self.snapshot = snapshot
        self.is_ready = is_ready
        self.objects: dict[str, tuple[Target, Loaded]] = {}
        self.targets = [target for target, row in sorted(snapshot.targets.items()) if row.loaded]
        for target in self.targets:
            for item in snapshot.of(target).loaded:
                self.objects.setdefault(item.name, (target, item))

    # -- what is wanted --------------------------------------------------------------------------------------------
    def find_stale(self, target: Target) -> list[str]:
        """Return the names of a target's objects of which the kernel has another build."""
        return [i.name for i in self.snapshot.of(target).loaded if i.presence is Presence.STALE]

    def _owed(self, target: Target) -> list[str]:
        """Return what an earlier try of this boot unloaded, and did not load again in this build."""
        record = self.snapshot.of(target).record
        tried = record.reload if record else None
        if tried is None or tried.inputs.get("boot") != self.snapshot.boot:
            return []
        if tried.outcome != "began" and not (tried.absent and _tried(target, self.snapshot) is None):
            return []
        own = {name for name, (owner, _) in self.objects.items() if owner == target}
        absent = {n for n in own & set(tried.objects) if self.objects[n][1].presence is Presence.ABSENT}
        return sorted(absent)

    def _wanted(self, target: Target) -> list[str]:
        return [*self.find_stale(target), *self._owed(target)]

    def _depends(self, target: Target) -> list[Target]:
        known = target.module in self.snapshot.modules
        return [Target(name, target.kernel) for name in self.snapshot.depends(target)] if known else []

    # -- what is possible ------------------------------------------------------------------------------------------
    def find_group(self, target: Target) -> Union[frozenset[str], Obstacle]:
        """Return all that is to be exchanged at once with a target's objects, or why it cannot be."""
        tried = _tried(target, self.snapshot)
        if tried is not None:
            return Obstacle(tried.message or "it was reloaded already, to no effect")
        pending, group = self._wanted(target), set[str]()
        while pending:
            name = pending.pop()
            if name in group:
                continue
            group.add(name)
            if name not in self.objects:
                return Obstacle(f"{name}, which is not of kmodd, uses it", passing=True)
            owner, item = self.objects[name]
            obstacle = self._obstacle(owner, item)
            if obstacle is not None:
                return obstacle
            pending += item.holders
            pending += [n for n, (_, i) in self.objects.items() if name in i.holders and i.presence is Presence.STALE]
            for other in (owner, *self._depends(owner)):
                pending += self._wanted(other)
        return frozenset(group)

    def _obstacle(self, owner: Target, item: Loaded) -> Optional[Obstacle]:
        module = self.snapshot.modules.get(owner.module)
        tried = _tried(owner, self.snapshot)
        if module is None or module.file.load.reload == "never":
            return Obstacle(f'{item.name} is in memory, and {owner.module} has not [load] reload = "if-unused"')
        if not self.is_ready(owner):
            return Obstacle(f"{owner.module} is not ready")
        if tried is not None and tried.outcome == "failed":
            return Obstacle(tried.message)
        if item.permanent:
            return Obstacle(f"{item.name} cannot be unloaded")
        if item.users:
            return Obstacle(f"{item.name} is in use ({item.users} reference{'s'[: item.users > 1]})", passing=True)
        if item.interfaces:
            return Obstacle(f"{item.name} drives {', '.join(item.interfaces)}, which is up", passing=True)
        return None

    # -- what is done ----------------------------------------------------------------------------------------------
    def actions(self) -> list[ReloadModule]:
        """Return what is to be done now; groups that share an object are one."""
        groups: list[set[str]] = []
        for target in self.targets:
            found = self.find_group(target)
            if isinstance(found, Obstacle) or not found:
                continue
            joined = set(found)
            for group in [group for group in groups if group & joined]:
                groups.remove(group)
                joined |= group
            groups.append(joined)
        return [self._action(group) for group in groups]

    def obstacles(self) -> dict[Target, Obstacle]:
        """Return what keeps targets that are to be reloaded in memory."""
        found = {t: self.find_group(t) for t in self.targets if self._asked(t) and self._wanted(t)}
        return {target: reason for target, reason in found.items() if isinstance(reason, Obstacle)}

    def _asked(self, target: Target) -> bool:
        module = self.snapshot.modules.get(target.module)
        return module is not None and module.file.load.reload != "never"

    def _action(self, group: set[str]) -> ReloadModule:
        order = self._order(group)
        targets = dict.fromkeys(self.objects[name][0] for name in order)
        first = next(target for target in targets if self._wanted(target))
        stale = [name for name in order if self.objects[name][1].presence is not Presence.CURRENT]
        reason = f"the running kernel has not the installed {', '.join(stale)}"
        return ReloadModule(first, tuple(order), reason, tuple(sorted(target for target in targets if target != first)))

    def _order(self, group: Iterable[str]) -> list[str]:
        """Return objects in an order in which they can be unloaded: users of symbols and dependents first."""
        left, order = set(group), list[str]()
        while left:
            needed = {
                name
                for name in left
                if left & set(self.objects[name][1].holders)
                or any(self.objects[name][0] in self._depends(self.objects[other][0]) for other in left)
            }
            first = min(left - needed or left)
            left.remove(first)
            order.append(first)
        return order

    # -- what is said ----------------------------------------------------------------------------------------------
    def find_note(self, target: Target) -> Optional[Note]:
        """Return what is to be said of a target, None where the kernel has what is installed, or nothing."""
        stale, owed = self.find_stale(target), self._owed(target)
        if not stale and not owed:
            return None
        text = f"the running kernel still has the old {', '.join(stale)}"
        if not stale:
            text = f"{', '.join(owed)} was unloaded to be reloaded, and is not back yet"
        names = " ".join(stale or owed)
        by_hand = f"modprobe -r {names} && modprobe {'-a ' if ' ' in names else ''}{names}; or reboot"
        if any(item.permanent for item in self.snapshot.of(target).loaded):
            by_hand = "reboot"
        if not self._asked(target):
            return Note(text, f'{by_hand}; or set [load] reload = "if-unused"')
        found = self.find_group(target)
        if not isinstance(found, Obstacle):
            return Note(text, "it is reloaded as soon as nothing else is to be done for this kernel")
        hint = "it is reloaded once it is unused; or reboot" if found.passing else by_hand
        return Note(f"{text}; it stays: {found.reason}", hint)
