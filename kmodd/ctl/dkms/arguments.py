"""The words of a dkms command line, as DKMS takes them: options in any order, `-k 6.1/x86_64`, `module/version`. Pure.

Source of the options, messages and exit codes: dkms(8) and its script, version 3.0.10. Must not: read the disk, but
for whether a word is a file or a directory, or print.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

ACTIONS = (
    "add", "remove", "build", "unbuild", "install", "uninstall", "match", "autoinstall", "mktarball", "ldtarball",
    "status", "generate_mok", "kernel_preinst", "kernel_postinst", "kernel_prerm",
)  # fmt: skip
#: Options that take a value, by the field that holds it.
VALUES = {
    "--module": "module", "-m": "module", "-v": "version", "--kernelver": "kernels", "-k": "kernels", "-c": "conf",
    "--arch": "architectures", "-a": "architectures", "--templatekernel": "template", "--config": "config",
    "--archive": "archive", "--kernelsourcedir": "kernel_source", "--directive": "directives", "-j": "jobs",
    "--dkmstree": "dkms_tree", "--sourcetree": "source_tree", "--installtree": "install_tree", "--root": "root",
}  # fmt: skip
FLAGS = {
    "--quiet": "quiet", "-q": "quiet", "--force": "force", "--all": "all", "--rpm_safe_upgrade": "safe_upgrade",
    "--verbose": "verbose", "--version": "show_version", "-V": "show_version", "--help": "show_help",
    "-h": "show_help", "--binaries-only": "binaries_only", "--source-only": "source_only",
}  # fmt: skip
#: Options that change nothing: kmodd shares its jobs, runs depmod once a kernel, and loads nothing.
IGNORED = ("--force-version-override", "--symlink-modules", "--no-depmod", "--modprobe-on-install", "--debug")
DEPRECATED = ("--no-initrd", "--no-clean-kernel", "--no-prepare-kernel")
USAGE = """\
Usage: dkms [action] [options]
  [action]  = { add | remove | build | unbuild | install | uninstall | autoinstall |
                match | status }
  [options] = [-m module] [-v module-version] [-k kernel-version] [-a arch]
              [-c dkms.conf-location] [-q] [--force] [--all] [--rpm_safe_upgrade]
              [--templatekernel=kernel] [--kernelsourcedir=source-location]
              [--no-depmod] [-j number] [--root dir] [--version]
This is kmodd's dkms, which registers modules with kmodd: see dkms(8)."""


class Refusal(Exception):
    """Ends the command as DKMS would: with an exit code, and lines of which the first follows "Error! "."""

    def __init__(self, code: int, *lines: str, usage: bool = False) -> None:
        super().__init__(lines[0])
        self.code = code
        self.lines = lines
        self.usage = usage


@dataclass
class Arguments:
    """What was asked for. kernels and architectures belong together, index by index, where both are given."""

    action: str = ""
    module: str = ""
    version: str = ""
    kernels: list[str] = field(default_factory=list)
    architectures: list[str] = field(default_factory=list)
    directives: list[str] = field(default_factory=list)
    conf: str = ""
    template: str = ""
    config: str = ""
    archive: str = ""
    kernel_source: str = ""
    jobs: str = ""
    dkms_tree: str = ""
    source_tree: str = ""
    install_tree: str = ""
    root: str = "/"
    tree: str = ""  # a directory with a dkms.conf, named without an option
    quiet: bool = False
    force: bool = False
    all: bool = False
    safe_upgrade: bool = False
    verbose: bool = False
    show_version: bool = False
    show_help: bool = False
    binaries_only: bool = False
    source_only: bool = False
    deprecated: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.module}/{self.version}"


def parse(words: Sequence[str]) -> Arguments:
    """Return what the words ask for. Raises Refusal."""
    found = Arguments()
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.partition("=")
        if word in FLAGS:
            setattr(found, FLAGS[word], True)
            if word in ("--version", "-V", "--help", "-h"):
                return found
        elif word in DEPRECATED:
            found.deprecated.append(word)
        elif name in VALUES:
            if not equals:
                value = pending.pop(0) if pending else ""
            _store(found, VALUES[name], value)
        elif word in IGNORED:
            continue
        elif word.startswith("-"):
            raise Refusal(2, f" Unknown option: {word}", usage=True)
        else:
            _name(found, word)
    _check(found)
    return found


def _store(found: Arguments, name: str, value: str) -> None:
    if name == "module":
        module, slash, version = value.partition("/")
        found.module, found.version = module, version if slash else found.version
    elif name == "kernels":
        release, slash, architecture = value.partition("/")
        found.kernels.append(release)
        found.architectures += [architecture] if slash else []
    elif name in ("architectures", "directives"):
        getattr(found, name).append(value)
    else:
        setattr(found, name, value)


def _name(found: Arguments, word: str) -> None:
    """Parse a word without an option: the action, a source, an archive, or module/version."""
    if word in ACTIONS:
        if found.action:
            raise Refusal(4, "Cannot specify more than one action.")
        found.action = word
    elif word.endswith("dkms.conf") and os.path.isfile(word):
        found.tree = os.path.dirname(word) or "."
    elif os.path.isfile(os.path.join(word, "dkms.conf")):
        found.tree = word
    elif os.path.isfile(word):
        found.archive = word
    elif not found.module:
        _store(found, "module", word)
    else:
        found.surplus.append(word)


def _check(found: Arguments) -> None:
    if found.binaries_only and found.source_only:
        raise Refusal(8, " You have specified both --binaries-only and --source-only.", "You cannot do this.")
    if len(found.architectures) > 1 and len(found.kernels) != len(found.architectures):
        raise Refusal(
            1,
            " If more than one arch is specified on the command line, then there",
            "must be an equal number of kernel versions also specified (1:1 relationship).",
        )
    for given, what in ((found.kernels, "a kernel version"), (found.architectures, "an arch")):
        if given and found.all:
            code = 2 if given is found.kernels else 3
            raise Refusal(code, f" You cannot specify {what} and also specify", "--all on the command line.")
    for part, what in ((found.module, "module"), (found.version, "version"), *((k, "kernel") for k in found.kernels)):
        if part in (".", "..") or not re.fullmatch(r"[^/\s\0]*", part):
            raise Refusal(1, f"{part!r} is no {what}.")
