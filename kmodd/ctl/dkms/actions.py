"""What the actions of dkms do: they change what is registered, and then have kmodd bring the root to that.

Inside an rpm transaction only the registration changes, and kmodd acts when the transaction has ended: nothing is
built, waited for or asked of rpm there, and what is there already, or gone already, is no failure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from ...core.errors import Problem
from .adding import add, refuse_archive
from .arguments import Arguments, Refusal
from .keeping import autoinstall, build, install
from .removing import drop, remove, unbuild, uninstall
from .work import Work


def run(arguments: Arguments) -> int:
    """Do what the arguments ask for; returns the exit code. Raises Refusal, Problem."""
    work, name = Work(arguments), arguments.action
    if name in ("add", "build", "install", "match") and arguments.all:
        raise Refusal(5, f"The action {name} does not support the --all parameter.")
    if name != "status":
        work.scope.check_options()
    try:
        return ACTIONS[name](work)
    except Problem as problem:
        if not (work.scope.inside and name in ("remove", "uninstall", "unbuild")):
            raise
        print(f"Warning: {problem.message}", file=sys.stderr)  # a scriptlet that fails keeps a package installed
        return 0


def status(work: Work) -> int:
    """Print what is added, built and installed, and say what failed."""
    chosen = work.arguments
    architectures = [*chosen.architectures, *[""] * len(chosen.kernels)]
    for kernel, architecture in zip(chosen.kernels or [""], architectures or [""]):
        states = work.tree.states(chosen.module, chosen.version, kernel, architecture)
        for state in states:
            print(state)
        kept = {key[0] for key in work.tree.confs}
        for name in sorted({state.name for state in states} & kept):
            for release, why in work.tree.failures(name):
                print(f"Warning: {name} failed for {release}: {why}", file=sys.stderr)
    return 0


def match(work: Work) -> int:
    """Print that there is nothing to do: what kmodd keeps, it keeps for every kernel."""
    chosen = work.arguments
    if not chosen.template:
        usage = "match --templatekernel=<kernel-version> -k <kernel-version>"
        lines = (f"Usage: {usage}", f"   or: {usage} <module>")
        raise Refusal(1, "Invalid number of parameters passed.", *lines)
    release, architecture = work.scope.kernels(missing=True)[0]
    if release == chosen.template:
        raise Refusal(2, "The templatekernel and the specified kernel version are the same.")
    print(f"\nMatching modules in kernel: {release} ({architecture})")
    print(f"to the configuration of kernel: {chosen.template} ({architecture})")
    print("\nThere is nothing to be done for this match.")
    return 0


def mktarball(work: Work) -> int:
    """Refuse: kmodd has no tarballs."""
    work.scope.check_module("mktarball")
    if (work.arguments.module, work.arguments.version) not in work.tree.added:
        return drop(work, "mktarball")
    text = "kmodd makes no tarballs of built modules: each kernel's are built where they are used."
    raise Refusal(6, text, f"The source is {work.tree.source(work.arguments.module, work.arguments.version)}.")


def generate_mok(work: Work) -> int:
    raise Refusal(1, "kmodd has a key of its own: kmoddctl key generate, or kmoddctl key import --from dkms.")


def kernel_preinst(work: Work) -> int:
    """Do nothing: kmodd notices kernels by itwork."""
    return 0


#: Action -> what does it.
ACTIONS: Mapping[str, Callable[[Work], int]] = {
    "status": status,
    "add": add,
    "build": build,
    "install": install,
    "autoinstall": autoinstall,
    "uninstall": uninstall,
    "unbuild": unbuild,
    "remove": remove,
    "match": match,
    "mktarball": mktarball,
    "ldtarball": refuse_archive,
    "generate_mok": generate_mok,
    "kernel_preinst": kernel_preinst,
    "kernel_postinst": kernel_preinst,
    "kernel_prerm": kernel_preinst,
}
