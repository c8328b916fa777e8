"""What the command lines that a kernel may get do to a module: refuse it, leave it out, pass it options. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

from ..core.commandline import CommandLine
from ..core.model import Check, Fault, Kernel
from .loader import Shape

HINT = "remove the word with grubby --update-kernel, or from the boot entry"


def check(kernel: Kernel, name: str, shape: Shape, at_boot: bool) -> list[Check]:
    """Return the check of an object against the command lines. name: of its file, canonical."""
    inner, functions = shape.info_name or shape.name, shape.init_names()
    lines = [CommandLine(text) for text in kernel.command_lines]

    def about(find: Callable[[CommandLine], str], fault: Fault) -> Iterable[Check]:
        words = [find(line) for line in lines]
        word = next(filter(None, words), "")
        text = fault.message.format(word)
        if word and all(words):
            yield Check(name, "command-line", "failed", text, fault.problem, HINT)
        elif word:
            text += ", which only some of the kernel's boot entries have"
            yield Check(name, "command-line", "untold", text, "command-line-unknown", HINT)

    disabled = Fault("modules-disabled", "the kernel loads no modules: {}")
    refused = Fault("kernel-blacklisted", f"the kernel refuses {name}: {{}}")
    skipped = Fault("initcall-blacklisted", f"the kernel does not start {name}: {{}}")
    kept = Fault("blacklisted", f"{name} is not loaded at boot: {{}}")
    found = [
        *about(lambda line: line.disabling(kernel.release), disabled),
        *about(lambda line: line.blacklisting(inner), refused),
        *about(lambda line: line.skipping(functions), skipped),
    ]
    if at_boot:
        found += about(lambda line: line.keeping(name), kept)
    if found:
        return found
    if kernel.command_line_unknown:
        text = f"which command line this kernel gets cannot be determined: {kernel.command_line_unknown}"
        return [Check(name, "command-line", "untold", text, "command-line-unknown", HINT)]
    return [Check(name, "command-line", "passed", "nothing on the kernel's command line keeps it from loading")]


def options(kernel: Kernel, name: str, given: str, own: str) -> list[str]:
    """Return the options that a module gets, by each command line that the kernel may have.

    given: what modprobe passes here, which ends in what the command line of the running kernel says; own: that line.
    """
    here = " ".join(CommandLine(own).options(name))
    base = given[: len(given) - len(here)].rstrip() if here and given.endswith(here) else given
    return list(dict.fromkeys(f"{base} {' '.join(CommandLine(t).options(name))}".strip() for t in kernel.command_lines))


def refusals(kernel: Kernel, name: str, shape: Shape) -> list[Fault]:
    """Return what certainly keeps a module that another needs from being loaded."""
    checks = check(kernel, name, shape, at_boot=False)
    return [c.fault for c in checks if c.outcome == "failed"]
