"""The table of build methods. Must not: know how any of them builds."""

from __future__ import annotations

from ..core.modulefile import Module
from .buildmethod import Method
from .dkmsrecipe import DkmsMethod
from .intree import IntreeMethod
from .owncommand import CommandMethod
from .plainkbuild import KbuildMethod

#: The first that is for a module builds it.
METHODS: tuple[type[Method], ...] = (IntreeMethod, DkmsMethod, CommandMethod, KbuildMethod)


def find_method(module: Module) -> type[Method]:
    """Return how a module is built."""
    return next(method for method in METHODS if method.is_for(module))
