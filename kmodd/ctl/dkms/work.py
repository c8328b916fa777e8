"""What an action of dkms works with: its arguments, kernels and transaction, and the tree of what is added."""

from __future__ import annotations

from collections.abc import Collection

from ...core.documents.choosing import Document
from .arguments import Arguments
from .dkmstree import Tree
from .outcome import bring_up
from .scope import Scope


class Work:
    """The work of one action on one root."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.scope = Scope(arguments)
        self.sysroot = self.scope.sysroot
        self.tree = Tree(self.sysroot)

    def read(self) -> None:
        """Read again what is added, after a change."""
        self.tree = Tree(self.sysroot)

    def bring_up(self, releases: Collection[str], force: bool = False) -> dict[str, Document]:
        """Bring the module up to date; returns its targets by kernel. releases: on these; none: on all."""
        module = self.arguments.module
        found = bring_up(self.arguments.root, module, releases, force)
        return {target.kernel: document for target, document in found.items() if target.module == module}
