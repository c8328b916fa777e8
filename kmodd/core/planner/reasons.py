"""Why a target is to be built or installed, and to whom objects belong. Pure: no I/O, no clock, no asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from ..actions import InstallModule
from ..model import Snapshot, Target
from ..modulefile import canonical
from ..record import TargetRecord

#: Inputs by the words that a reason uses for them.
INPUT_WORDS = {
    "source": "its source changed",
    "patches": "its patches changed",
    "module": "its module file changed",
    "symvers": "the Module.symvers of others changed",
    "build_tree": "the kernel's configuration or symvers changed",
    "compiler": "the compiler changed",
}


def why_build(record: Optional[TargetRecord], inputs: Mapping[str, str]) -> str:
    """Return why a target is to be built."""
    if record is None or record.built is None:
        return "never built for this kernel"
    old = record.built.inputs
    if old == inputs:
        return "a rebuild was asked for"
    changed = [name for name in sorted({*old, *inputs}) if old.get(name) != inputs.get(name)]
    words = [INPUT_WORDS.get(name, f"{name.partition(':')[2]}, which it depends on, changed") for name in changed]
    return "; ".join(words)


def find_installation(target: Target, record: TargetRecord, snapshot: Snapshot) -> Optional[InstallModule]:
    """Return the installation that is due, None where what was built is installed as it is to be."""
    kernel = snapshot.kernels[target.kernel]
    reason = _why_install(target, record, snapshot)
    if reason:
        return InstallModule(target, reason)
    identity = snapshot.signer.identity if kernel.signature_hash else ""
    objects = record.installed.objects if record.installed else ()
    if (identity or not kernel.signature_hash) and any(o.signer != identity for o in objects):
        return InstallModule(target, "signed by another key", urgent=False)
    if any(o.compressed != kernel.compression for o in objects):
        return InstallModule(target, f"the kernel's own modules are {kernel.compression or 'not'} compressed")
    return None


def _why_install(target: Target, record: TargetRecord, snapshot: Snapshot) -> str:
    """Return what of what was built is not installed, or not whole; "" if nothing."""
    assert record.built is not None
    installed = record.installed
    wanted = {o.name: o.sha256 for o in snapshot.of(target).wanted}
    if installed is None or (wanted and not installed.objects):
        return "not installed"
    if {o.name: o.built for o in installed.objects} != wanted:
        more = any(o.name in snapshot.of(target).left for o in installed.objects)
        return "the kernel's own is as new" if more else "built anew"
    if installed.superseded:
        return "an interrupted installation is to be finished"
    damage = snapshot.of(target).damage
    return damage.text if damage is not None else ""


def find_owners(snapshot: Snapshot) -> dict[str, dict[str, str]]:
    """Return kernel -> object -> the module it belongs to: who has it installed, else the first by name."""
    owners: dict[str, dict[str, str]] = {kernel.release: {} for kernel in snapshot.present()}
    for installed in (True, False):
        for target, record in sorted(snapshot.records.items()):
            if target.kernel not in owners or target.module not in snapshot.modules or not record.built:
                continue
            if installed and record.installed is None:
                continue
            objects = {canonical(o.name) for o in snapshot.of(target).wanted}
            if installed and record.installed:
                objects &= {canonical(o.name) for o in record.installed.objects}
            for name in objects:
                owners[target.kernel].setdefault(name, target.module)
    return owners
