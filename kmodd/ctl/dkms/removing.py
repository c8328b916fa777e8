"""The actions uninstall, unbuild and remove: a version leaves some kernels, or is no longer registered."""

from __future__ import annotations

import sys

from .arguments import Refusal
from .scriptlet import SafeUpgrade
from .work import Work


def uninstall(work: Work) -> int:
    return drop(work, "uninstall")


def unbuild(work: Work) -> int:
    return drop(work, "unbuild")


def remove(work: Work) -> int:
    """Remove a version from some kernels, or from everything."""
    chosen = work.arguments
    work.scope.check_module("remove")
    pid = work.scope.transaction if chosen.safe_upgrade else None
    if pid is not None and SafeUpgrade(work.sysroot, chosen.module, chosen.version).claim(pid):
        raise Refusal(0, "Remove cancelled because --rpm_safe_upgrade scenario detected.")
    return drop(work, "remove")


def drop(work: Work, action: str) -> int:
    chosen = work.arguments
    work.scope.check_module(action)
    key = (chosen.module, chosen.version)
    if key not in work.tree.added:
        text = f"The module/version combo: {chosen.module}-{chosen.version} is not located in the DKMS tree."
        if not work.scope.inside:
            raise Refusal(3, text)
        print(f"Warning: {text}", file=sys.stderr)
        return 0
    installed = {s.kernel: s.architecture for s in work.tree.states(*key) if s.kernel}
    kept = key in work.tree.confs
    wanted = sorted(installed.items()) if chosen.all else work.scope.kernels(missing=True)
    whole = action == "remove" and (chosen.all or installed.keys() <= dict(wanted).keys())
    for release, architecture in wanted:
        if release in installed:
            print(f"Module {chosen.module}-{chosen.version} for kernel {release} ({architecture}).")
            print("Before uninstall, this module version was ACTIVE on this kernel.")
        else:
            for what in ("installed",) if action == "uninstall" else ("installed", "built"):
                where = f"kernel {release} ({architecture})"
                print(f"Module {chosen.module} {chosen.version} is not {what} for {where}. Skipping...")
        if kept and not whole and not chosen.all and (release in installed or action == "remove"):
            work.tree.exclude(chosen.module, release)
            work.read()
    if whole:
        _forget(work, key)
    elif chosen.all and kept:
        work.tree.disable(chosen.module)
    if not work.scope.defer("remove") and kept:
        work.bring_up([] if chosen.all or whole else [release for release, _ in wanted])
    return 0


def _forget(work: Work, key: tuple[str, str]) -> None:
    """Unregister a version; where an older one is added, too, that one is kept from now on."""
    print(f"Deleting module {'-'.join(key)} completely from the DKMS tree.")
    kept = key in work.tree.confs
    work.tree.unlink(*key)
    if not kept:
        return
    enabled = work.tree.modules[key[0]].enabled
    work.tree.added.pop(key)
    other = work.tree.newest(key[0])
    if other:
        work.tree.register(key[0], *other, enabled)
    else:
        work.tree.unregister(key[0], leaving=work.scope.inside)
