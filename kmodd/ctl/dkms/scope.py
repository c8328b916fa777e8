"""What a command line means here: its root and kernels, whether an rpm transaction surrounds it, what it may not ask.

Must not: change anything.
"""

from __future__ import annotations

import os
import platform

from ...core.recipe import DKMS_TREE
from ...core.sysroot import DKMS_SOURCES, Sysroot
from ...system.lock import Lock
from .arguments import Arguments, Refusal
from .dkmstree import Tree
from .scriptlet import find_transaction

#: The trees that options name, of which kmodd has no others.
TREES = {"dkms_tree": DKMS_TREE, "source_tree": DKMS_SOURCES, "install_tree": "/lib/modules"}


class Scope:
    """What the arguments are about. transaction: the pid of the rpm that runs this, or None."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.sysroot = Sysroot.at(arguments.root)
        self.transaction = find_transaction(self.sysroot)
        self.installed = Tree(self.sysroot).kernels()

    @property
    def inside(self) -> bool:
        return self.transaction is not None

    def check_options(self) -> None:
        """Refuse what would have kmodd build something else than it keeps built; elsewhere it has no meaning."""
        chosen = self.arguments
        for name, fixed in TREES.items():
            given = getattr(chosen, name)
            if given and os.path.normpath(given) != fixed:
                raise Refusal(1, f"kmodd has no other tree than {fixed}: {given} cannot be used.")
        if chosen.action not in ("build", "install", "autoinstall"):
            return
        if chosen.directives:
            where = f"/etc/dkms/{chosen.module}.conf"
            raise Refusal(1, f"kmodd builds again for every kernel: write {chosen.directives[0]} to {where} instead.")
        for release, _ in self.kernels(missing=True):
            tree = self.sysroot.resolve(f"/lib/modules/{release}/build")
            for given, own in ((chosen.kernel_source, tree), (chosen.config, tree / ".config")):
                if given and self.sysroot.resolve(os.path.abspath(given)) != own:
                    text = f"kmodd builds for a kernel with its own build tree, /lib/modules/{release}/build."
                    raise Refusal(1, text, f"{given} cannot be used.")
        for release, architecture in self.kernels(missing=True):
            machine = self.installed.get(release)
            if machine is not None and architecture != machine.architecture:
                raise Refusal(1, f"{release} is a kernel for {machine.architecture}, not for {architecture}.")

    def check_module(self, action: str) -> None:
        chosen = self.arguments
        if not (chosen.module and chosen.version):
            raise Refusal(
                1,
                "Arguments <module> and <module-version> are not specified.",
                f"Usage: {action} <module>/<module-version> or",
                f"       {action} -m <module>/<module-version> or",
                f"       {action} -m <module> -v <module-version>",
            )

    def kernels(self, missing: bool = False) -> list[tuple[str, str]]:
        """Return the kernels that are meant: those named, else the running one, else, in another root, all.

        missing: also those that are not installed.
        """
        here = self.installed
        named = self.arguments.kernels
        if not named:
            running = os.uname().release
            named = [running] if running in here or not here else sorted(here)
        given = self.arguments.architectures
        given = given * len(named) if len(given) == 1 else given
        own = [here[release].architecture if release in here else platform.machine() for release in named]
        both = zip(named, [*given, *own[len(given) :]])
        return [(release, architecture) for release, architecture in both if missing or release in here]

    # -- having it done --------------------------------------------------------------------------------------------
    def defer(self, what: str) -> bool:
        """Inside a transaction, print that kmodd does the rest later; tells whether this is one."""
        if not self.inside:
            return False
        running = Lock(self.sysroot).holder() is not None
        who = "Left to kmodd" if running else "kmodd is not running; left to kmoddctl sync"
        print(f"{who}, after the rpm transaction: {what} {self.arguments.title if self.arguments.module else 'all'}")
        return True
