"""The actions build, install and autoinstall: kmodd keeps versions built, and installs what it builds."""

from __future__ import annotations

from .adding import register
from .arguments import Refusal
from .outcome import LINES, bring_up, tell
from .work import Work


def build(work: Work) -> int:
    """Have kmodd keep a version built for the kernels, and wait until it is; kmodd installs what it builds."""
    return _keep(work, "build")


def install(work: Work) -> int:
    return _keep(work, "install")


def _keep(work: Work, action: str) -> int:
    chosen = work.arguments
    work.scope.check_module(action)
    key = (chosen.module, chosen.version)
    if key not in work.tree.added:
        register(work)
    conf = work.tree.added[key]
    done = {s.kernel for s in work.tree.states(*key) if s.state == "installed" and key in work.tree.confs}
    work.tree.register(*key, conf, True)
    for release, _ in work.scope.kernels(missing=True):
        work.read()
        work.tree.include(chosen.module, release)
    if work.scope.defer("build"):
        return 0
    for release, architecture in work.scope.kernels(missing=True):
        if not work.tree.has_kernel(release):
            if action == "build":
                raise Refusal(21, LINES[21].format(kernel=release))
            text = "You cannot install a module onto a non-existant kernel."
            raise Refusal(6, f"The directory /lib/modules/{release} doesn't exist.", text)
        if release in done and not chosen.force:
            past = "built for" if action == "build" else "installed on"
            text = f"Module {chosen.title} already {past} kernel {release} ({architecture}), skip."
            print(f"{text} You may override by specifying --force.")
    targets = work.bring_up([release for release, _ in work.scope.kernels(missing=True)], chosen.force)
    for release, architecture in work.scope.kernels():
        tell(chosen, targets.get(release, {}), release, architecture, release in done and not chosen.force)
    return 0


def autoinstall(work: Work) -> int:
    """Register what is added and wants to be built, and bring everything up to date."""
    added = {name for name, _ in work.tree.added}
    for name in sorted(added - work.tree.modules.keys()):
        found = work.tree.newest(name)
        if found and work.tree.is_wanted(found[1]):
            work.tree.register(name, *found, True)
    if work.scope.defer("build"):
        return 0
    ((release, architecture),) = work.scope.kernels()[:1] or [("", "")]
    work.read()
    kept = {name for name, _ in work.tree.confs}
    failed = []
    for target in bring_up(work.arguments.root).values():
        if target["kernel"] == release and target["module"] in kept and target["verdict"] in ("failed", "waiting"):
            failed.append(f"{target['module']} for {release} ({architecture}): {target['reason']}")
    if failed:
        text = "One or more modules failed to install during autoinstall."
        raise Refusal(11, text, *failed)
    return 0
