"""Which kernels the boot loader may have: the rules of the boot guard. Pure.

 K1. the guard is off, or no module holds kernels: nothing is held, and what is held is released;
 K2. a kernel that is gone is no longer held;
 K3. a held kernel whose required modules are ready is released: it gets its boot entry;
 K4. a kernel that is not ready and boots next all the same keeps its entry; that is known, and which other would do;
 K5. what a server falls back on is a fit kernel: the one that boots next, else the running one, else the newest
     proven one, else the newest. What has the previous build of its modules whole still serves;
 K7. what was held for longer than boot.hold_at_most is released as it is, with a warning.
K6, trial boots, is not there yet. No rule takes an entry away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from .. import versions
from ..actions import Action, DropHold, ReleaseKernel, Wait, WriteGuard, WriteKept
from ..booting import BootEntry, Hold, Standing, newest
from ..fault import Fault
from ..guardfile import guard_text, kept_text
from ..model import Judgement, Policy, Presence, Snapshot, Target, Verdict

SETTLED = (Verdict.FAILED, Verdict.BLOCKED)


def find_holding(snapshot: Snapshot) -> list[str]:
    """Return the modules for which kernels are held, by name.

    Those that say "required = true", and of those that do not say whether they are, which are, too, those that the
    server uses: loaded in the running kernel, or to be loaded at boot.
    """
    running = [kernel.release for kernel in snapshot.present() if kernel.running]
    found = []
    for name, module in sorted(snapshot.modules.items()):
        if not (module.enabled and module.required):
            continue
        said = "required" in module.file.module.model_fields_set
        if said or module.file.load.at_boot or any(_is_loaded(Target(name, r), snapshot) for r in running):
            found.append(name)
    return found


def _is_loaded(target: Target, snapshot: Snapshot) -> bool:
    return any(item.presence is not Presence.ABSENT for item in snapshot.of(target).loaded)


@dataclass(frozen=True)
class Behind:
    """That a newer kernel than the one that runs is installed. held: that is why, else it boots next."""

    running: str
    newer: str
    held: Optional[Hold]
    fault: Fault


class Guarding:
    """The guard's view of one snapshot. judgements: of targets; kernels: of the kernels that are present."""

    def __init__(
        self,
        snapshot: Snapshot,
        policy: Policy,
        now: float,
        judgements: Mapping[Target, Judgement],
        kernels: Mapping[str, Judgement],
    ) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.now = now
        self.judgements = judgements
        self.kernels = kernels
        self.booting = snapshot.booting
        self.holding = find_holding(snapshot)
        self.fallback = self._find_fallback()

    @property
    def idle(self) -> str:
        """Return why no new kernel would be held, "" where one would be."""
        if self.policy.guard == "off":
            return "boot.guard is off in kmodd.toml"
        if self.booting.masked:
            return "its plugin of kernel-install is switched off in /etc/kernel/install.d"
        if not self.booting.guards:
            return "kernel-install has no plugin of kmodd here" if self.booting.here else "this system does not run"
        if not self.holding:
            return "no module holds kernels: none is required that is loaded, or to be loaded at boot"
        if self.booting.entries is None:
            return self.booting.unknown
        return "" if self.fallback else "no installed kernel would boot with its required modules"

    @property
    def is_wanted(self) -> bool:
        """Tell whether the administrator wants kernels to be held, and has a module to hold them for."""
        return self.policy.guard != "off" and not self.booting.masked and bool(self.holding)

    # -- how kernels stand -----------------------------------------------------------------------------------------
    def standings(self) -> dict[str, Standing]:
        """Return how each kernel that is present stands with the boot loader."""
        return {release: self.standing(release) for release in sorted(self.kernels)}

    def standing(self, release: str) -> Standing:
        """Return how a kernel that is present stands with the boot loader."""
        bootable = self.booting.bootable(release)
        held = self.booting.held.get(release) if not bootable else None
        why = self._unfit(release)
        return Standing(release, bootable, held, not why, not why and release in self.booting.live, why)

    def _unfit(self, release: str) -> str:
        """Return what keeps a kernel from being fit, "" where nothing does."""
        judgement, entry = self.kernels[release], self.booting.of(release)
        if judgement.verdict is not Verdict.READY:
            return judgement.reason
        if self.booting.entries is None:
            return self.booting.unknown
        if entry is None:
            return "it has no boot entry"
        return entry.fault.message if entry.fault else ""

    def _serves(self, release: str) -> bool:
        """Tell whether a kernel would boot with required modules as they are installed, the newest build or not."""
        entry = self.booting.of(release)
        if entry is None or entry.fault is not None:
            return False
        if self.kernels[release].verdict is Verdict.READY:
            return True
        lacking = [
            target
            for target, judgement in self.judgements.items()
            if target.kernel == release and judgement.verdict not in (Verdict.READY, Verdict.EXCLUDED)
            if (module := self.snapshot.modules.get(target.module)) is None or module.required
        ]
        return bool(lacking) and all(self._is_whole(target) for target in lacking)

    def _is_whole(self, target: Target) -> bool:
        row = self.snapshot.of(target)
        installed = row.record.installed if row.record else None
        return (
            bool(installed and installed.objects) and row.damage is None and row.checks is not None and not row.faults
        )

    def _find_fallback(self) -> str:
        """Return the kernel that a server falls back on (K5), "" where there is none."""
        serving = [release for release in self.kernels if self._serves(release)]
        running = [release for release in serving if self.snapshot.kernels[release].running]
        first = [release for release in serving if release == self.booting.boots_next]
        proven = [release for release in serving if release in self.booting.live]
        return next(filter(None, (newest(some) for some in (first, running, proven, serving))), "")

    # -- what is wrong ---------------------------------------------------------------------------------------------
    def faults(self) -> list[Fault]:
        """Return what is wrong with how this root boots as a whole."""
        found = list(self.booting.faults)
        if not self.holding or self.booting.entries is None:
            return found
        following = self.booting.boots_next
        if not self.fallback:
            names = ", ".join(self.holding)
            text = f"no installed kernel would boot with its required modules ({names}), so that no new one is held"
            found.append(Fault("no-proven-kernel", text, "kmoddctl status"))
        elif following and not self._serves(following):
            text = f"{following} boots next and is not ready, {self.fallback} would be: {self._unfit(following)}"
            found.append(Fault("default-not-ready", text, f"grubby --set-default=/boot/vmlinuz-{self.fallback}"))
        return found

    def find_behind(self) -> Optional[Behind]:
        """Return that a newer kernel than the running one is installed, of its flavour, and what that waits for."""
        running = next((kernel for kernel in self.snapshot.present() if kernel.running), None)
        if running is None:
            return None
        newer = newest([
            kernel.release
            for kernel in self.snapshot.present()
            if kernel.flavour == running.flavour and versions.compare(kernel.release, running.release) > 0
        ])  # fmt: skip
        if not newer:
            return None
        hold = self.booting.held.get(newer) if not self.booting.bootable(newer) else None
        if hold is not None:
            text = (
                f"{running.release} still runs: {newer} is installed, and held until it is ready: {self._unfit(newer)}"
            )
            fault = Fault("kernel-held", text, f"kmoddctl boot release {newer} --force makes it bootable as it is")
            return Behind(running.release, newer, hold, fault)
        if newer != self.booting.boots_next:
            return None
        text = f"{running.release} still runs; {newer} boots next"
        return Behind(running.release, newer, None, Fault("reboot-due", text, "reboot when it suits"))

    # -- what is due -----------------------------------------------------------------------------------------------
    def actions(self, busy: set[str]) -> list[Action]:
        """Return what is due. busy: kernels for which something else is due first."""
        if not self.booting.here:
            return []
        found: list[Action] = []
        for release, hold in sorted(self.booting.held.items()):
            found += self._of_held(release, hold, release in busy)
        content = self._guard_text()
        if content != self.booting.guard and (self.booting.guards or self.booting.guard is not None):
            found.append(WriteGuard(content, "is missing" if self.booting.guard is None else "says something else"))
        kept = self._kept_text()
        if kept is not None and kept != self.booting.kept:
            found.append(WriteKept(kept, "another kernel is to stay installed"))
        return found

    def _of_held(self, release: str, hold: Hold, is_busy: bool) -> Sequence[Action]:
        kernel = self.snapshot.kernels.get(release)
        if kernel is None or not kernel.present:
            return [DropHold(release, "the kernel was removed")]
        if self.booting.bootable(release) and not hold.begun:
            return [DropHold(release, "it has a boot entry")]
        reason = self._why_release(release, hold, is_busy)
        attempt = kernel.failures.get(ReleaseKernel.kind)
        if not reason:
            return []
        until = self.policy.until(attempt, self.now) if attempt is not None else self.now
        if attempt is None or self.now >= until:
            return [ReleaseKernel(release, reason)]
        return [Wait.of(t, attempt.fault, until) for t in sorted(self.judgements) if t.kernel == release]

    def _why_release(self, release: str, hold: Hold, is_busy: bool) -> str:
        """Return why a held kernel is to be released, "" while it is not."""
        if not self.is_wanted:
            return "no module holds kernels any more" if self.policy.guard != "off" else "the guard is off"
        if self.kernels[release].verdict is Verdict.READY and not is_busy:
            return "its release was interrupted" if hold.begun else "its required modules are ready"
        held_for = self.now - hold.since
        if 0 < self.policy.hold_at_most < held_for:
            return "it was held for as long as boot.hold_at_most allows"
        others = [self.kernels[other].verdict for other in self.kernels if self.booting.bootable(other)]
        if self.booting.entries is not None and not self.fallback and all(v in SETTLED for v in others):
            return "no other kernel would boot with its required modules either"
        return ""

    def _kept_text(self) -> Optional[str]:
        """Return what is to be said to dnf: the newest proven kernel, else the newest that would boot as it should."""
        if not self.policy.keep_proven or not self.holding:
            return None if self.booting.kept is None else kept_text("")
        serving = [release for release in self.kernels if self._serves(release)]
        proven = [release for release in serving if release in self.booting.live]
        keep = newest(proven or serving)
        return kept_text(keep) if keep else self.booting.kept  # what is being mended is still to stay

    def _guard_text(self) -> str:
        entry: Optional[BootEntry] = self.booting.of(self.fallback) if self.fallback else None
        if self.idle or entry is None or not entry.image:
            return guard_text(None, "")
        ready = [release for release, judgement in self.kernels.items() if judgement.verdict is Verdict.READY]
        return guard_text(entry, self.booting.system, self.booting.directories, ready)
