"""What the actions of dkms do: they change what is registered, and then have kmodd bring the root to that.

Inside an rpm transaction only the registration changes, and kmodd acts when the transaction has ended: nothing is
built, waited for or asked of rpm there, and what is there already, or gone already, is no failure.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from ...core.documents.choosing import Document
from ...core.errors import Problem
from ...core.modulefile import NAME, Module, ModuleFile, Source
from ...dkms.conffiles import is_adopted
from ...system.deleting import remove_tree
from ...system.files import explained
from .arguments import Arguments, Refusal
from .dkmstree import Tree
from .outcome import LINES, bring_up, explained_by, look_at, tell
from .scope import Scope
from .scriptlet import SafeUpgrade


class Actions:
    """The actions on one root."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.scope = Scope(arguments)
        self.sysroot = self.scope.sysroot
        self.tree = Tree(self.sysroot)

    def run(self) -> int:
        """Do what the arguments ask for; returns the exit code. Raises Refusal, Problem."""
        name = self.arguments.action
        if name in ("add", "build", "install", "match") and self.arguments.all:
            raise Refusal(5, f"The action {name} does not support the --all parameter.")
        if name != "status":
            self.scope.check_options()
        try:
            return int(getattr(self, name)())
        except Problem as problem:
            if not (self.scope.inside and name in ("remove", "uninstall", "unbuild")):
                raise
            print(f"Warning: {problem.message}", file=sys.stderr)  # a scriptlet that fails keeps a package installed
            return 0

    # -- reading ---------------------------------------------------------------------------------------------------
    def status(self) -> int:
        """Print what is added, built and installed, and say what failed."""
        chosen = self.arguments
        architectures = [*chosen.architectures, *[""] * len(chosen.kernels)]
        for kernel, architecture in zip(chosen.kernels or [""], architectures or [""]):
            states = self.tree.states(chosen.module, chosen.version, kernel, architecture)
            for state in states:
                print(state)
            kept = {key[0] for key in self.tree.confs}
            for name in sorted({state.name for state in states} & kept):
                for release, why in self.tree.failures(name):
                    print(f"Warning: {name} failed for {release}: {why}", file=sys.stderr)
        return 0

    # -- adding ----------------------------------------------------------------------------------------------------
    def add(self) -> int:
        """Register a version; an older one than the registered is only linked."""
        chosen = self.arguments
        if chosen.archive and not chosen.module:
            return self.ldtarball()
        if chosen.tree and not chosen.module:
            self._copy_source(Path(chosen.tree))
        self.scope.check_module("add")
        if chosen.safe_upgrade and self.scope.transaction is not None:
            SafeUpgrade(self.sysroot, chosen.module, chosen.version).mark(self.scope.transaction)
        if (chosen.module, chosen.version) in self.tree.added:
            if not self.scope.inside:
                text = f"DKMS tree already contains: {chosen.module}-{chosen.version}"
                raise Refusal(3, text, "You cannot add the same module/version combo more than once.")
            print(f"Module {chosen.title} already added.")
        self._add()
        self.scope.defer("build")
        return 0

    def _add(self) -> None:
        """Check a version's source, and register it. Raises Refusal."""
        chosen = self.arguments
        source = self.tree.source(chosen.module, chosen.version)
        conf = chosen.conf or f"{source}/dkms.conf"
        if not self.sysroot.resolve(source).is_dir():
            lines = ("Could not find module source directory.", f"Directory: {source} does not exist.")
            raise Refusal(2, *lines)
        if self.sysroot.resolve(conf).parent != self.sysroot.resolve(source):
            raise Refusal(1, f"kmodd takes the dkms.conf of the source itself, {source}/dkms.conf.")
        if not self.sysroot.resolve(conf).is_file():
            raise Refusal(4, "Could not locate dkms.conf file.", f"File: {conf} does not exist.")
        wanted = self.tree.is_wanted(conf)
        if not self.scope.inside:
            wanted = self._read_conf(conf)
        known = (chosen.module, chosen.version) in self.tree.added
        before = any(name == chosen.module for name, _ in self.tree.confs)
        link = self.tree.link(chosen.module, chosen.version)
        if not known:
            print(f"Creating symlink {link} -> {source}")
        self.tree = Tree(self.sysroot)
        newest = self.tree.newest(chosen.module)
        if newest is None or newest[0] == chosen.version:
            module = self.tree.modules.get(chosen.module)
            kept = before and module is not None and not is_adopted(module)
            self.tree.register(chosen.module, chosen.version, conf, None if kept else wanted)
            self.tree = Tree(self.sysroot)

    def _read_conf(self, conf: str) -> bool:
        """Evaluate the conf for every kernel; tells whether AUTOINSTALL says yes. Raises Refusal."""
        seen = look_at(self.arguments.root)
        confs = seen.confs()
        name = self.arguments.module if NAME.fullmatch(self.arguments.module) else "module"
        module = Module(name=name, file=ModuleFile(source=Source(dkms=conf)), path=conf)
        wanted = False
        for kernel in seen.kernels():
            try:
                wanted |= asyncio.run(confs.find(module, kernel)).autoinstall
            except Problem as problem:
                lines = ("Bad conf file.", f"File: {conf} does not represent a valid dkms.conf file.")
                raise Refusal(8, *lines, *explained_by(problem.message, problem.hint)) from None
        return wanted

    def _copy_source(self, place: Path) -> None:
        """Copy a source tree to where its name and version put it, as dkms does. Raises Refusal, Problem."""
        conf = f"{self.sysroot.inside(place.resolve()) if not self.sysroot.is_host else place.resolve()}/dkms.conf"
        if self.scope.inside:
            text = f"{place} cannot be taken inside an rpm transaction."
            raise Refusal(10, text, "The package should install it as /usr/src/NAME-VERSION.")
        seen = look_at(self.arguments.root)
        confs = seen.confs()
        module = Module(name="module", file=ModuleFile(source=Source(dkms=conf)), path=conf)
        try:
            recipe = asyncio.run(confs.find(module, seen.kernels()[0]))
        except Problem as problem:
            lines = ("Malformed dkms.conf file. Cannot load source tree.", *explained_by(problem.message, problem.hint))
            raise Refusal(10, *lines) from None
        self.arguments.module, self.arguments.version = recipe.name, recipe.version
        target = self.sysroot.resolve(self.tree.source(recipe.name, recipe.version))
        if target == place.resolve() or (target.exists() and not self.arguments.force):
            return
        with explained(f"copying {place} to {target}"):
            if target.exists():
                remove_tree(target)
            shutil.copytree(place, target, symlinks=True)

    # -- building and installing -----------------------------------------------------------------------------------
    def build(self) -> int:
        """Have kmodd keep a version built for the kernels, and wait until it is; kmodd installs what it builds."""
        return self._keep("build")

    def install(self) -> int:
        return self._keep("install")

    def _keep(self, action: str) -> int:
        chosen = self.arguments
        self.scope.check_module(action)
        key = (chosen.module, chosen.version)
        if key not in self.tree.added:
            self._add()
        conf = self.tree.added[key]
        done = {s.kernel for s in self.tree.states(*key) if s.state == "installed" and key in self.tree.confs}
        self.tree.register(*key, conf, True)
        for release, _ in self.scope.kernels(missing=True):
            self.tree = Tree(self.sysroot)
            self.tree.include(chosen.module, release)
        if self.scope.defer("build"):
            return 0
        for release, architecture in self.scope.kernels(missing=True):
            if not self.tree.has_kernel(release):
                if action == "build":
                    raise Refusal(21, LINES[21].format(kernel=release))
                text = "You cannot install a module onto a non-existant kernel."
                raise Refusal(6, f"The directory /lib/modules/{release} doesn't exist.", text)
            if release in done and not chosen.force:
                past = "built for" if action == "build" else "installed on"
                text = f"Module {chosen.title} already {past} kernel {release} ({architecture}), skip."
                print(f"{text} You may override by specifying --force.")
        targets = self._bring_up([release for release, _ in self.scope.kernels(missing=True)], chosen.force)
        for release, architecture in self.scope.kernels():
            tell(chosen, targets.get(release, {}), release, architecture, release in done and not chosen.force)
        return 0

    def autoinstall(self) -> int:
        """Register what is added and wants to be built, and bring everything up to date."""
        added = {name for name, _ in self.tree.added}
        for name in sorted(added - self.tree.modules.keys()):
            found = self.tree.newest(name)
            if found and self.tree.is_wanted(found[1]):
                self.tree.register(name, *found, True)
        if self.scope.defer("build"):
            return 0
        ((release, architecture),) = self.scope.kernels()[:1] or [("", "")]
        self.tree = Tree(self.sysroot)
        kept = {name for name, _ in self.tree.confs}
        failed = []
        for target in bring_up(self.arguments.root).values():
            if target["kernel"] == release and target["module"] in kept and target["verdict"] in ("failed", "waiting"):
                failed.append(f"{target['module']} for {release} ({architecture}): {target['reason']}")
        if failed:
            text = "One or more modules failed to install during autoinstall."
            raise Refusal(11, text, *failed)
        return 0

    # -- removing --------------------------------------------------------------------------------------------------
    def uninstall(self) -> int:
        return self._drop("uninstall")

    def unbuild(self) -> int:
        return self._drop("unbuild")

    def remove(self) -> int:
        """Take a version out of kernels, or out of everything."""
        chosen = self.arguments
        self.scope.check_module("remove")
        pid = self.scope.transaction if chosen.safe_upgrade else None
        if pid is not None and SafeUpgrade(self.sysroot, chosen.module, chosen.version).take(pid):
            raise Refusal(0, "Remove cancelled because --rpm_safe_upgrade scenario detected.")
        return self._drop("remove")

    def _drop(self, action: str) -> int:
        chosen = self.arguments
        self.scope.check_module(action)
        key = (chosen.module, chosen.version)
        if key not in self.tree.added:
            text = f"The module/version combo: {chosen.module}-{chosen.version} is not located in the DKMS tree."
            if not self.scope.inside:
                raise Refusal(3, text)
            print(f"Warning: {text}", file=sys.stderr)
            return 0
        installed = {s.kernel: s.architecture for s in self.tree.states(*key) if s.kernel}
        kept = key in self.tree.confs
        wanted = sorted(installed.items()) if chosen.all else self.scope.kernels(missing=True)
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
                self.tree.exclude(chosen.module, release)
                self.tree = Tree(self.sysroot)
        if whole:
            self._forget(key)
        elif chosen.all and kept:
            self.tree.disable(chosen.module)
        if not self.scope.defer("remove") and kept:
            self._bring_up([] if chosen.all or whole else [release for release, _ in wanted])
        return 0

    def _forget(self, key: tuple[str, str]) -> None:
        """Unregister a version; where an older one is added, too, that one is kept from now on."""
        print(f"Deleting module {'-'.join(key)} completely from the DKMS tree.")
        kept = key in self.tree.confs
        self.tree.unlink(*key)
        if not kept:
            return
        enabled = self.tree.modules[key[0]].enabled
        self.tree.added.pop(key)
        other = self.tree.newest(key[0])
        if other:
            self.tree.register(key[0], *other, enabled)
        else:
            self.tree.unregister(key[0], leaving=self.scope.inside)

    # -- what kmodd does without -----------------------------------------------------------------------------------
    def match(self) -> int:
        """Print that there is nothing to do: what kmodd keeps, it keeps for every kernel."""
        chosen = self.arguments
        if not chosen.template:
            usage = "match --templatekernel=<kernel-version> -k <kernel-version>"
            lines = (f"Usage: {usage}", f"   or: {usage} <module>")
            raise Refusal(1, "Invalid number of parameters passed.", *lines)
        release, architecture = self.scope.kernels(missing=True)[0]
        if release == chosen.template:
            raise Refusal(2, "The templatekernel and the specified kernel version are the same.")
        print(f"\nMatching modules in kernel: {release} ({architecture})")
        print(f"to the configuration of kernel: {chosen.template} ({architecture})")
        print("\nThere is nothing to be done for this match.")
        return 0

    def mktarball(self) -> int:
        """Refuse: kmodd has no tarballs."""
        self.scope.check_module("mktarball")
        if (self.arguments.module, self.arguments.version) not in self.tree.added:
            return self._drop("mktarball")
        text = "kmodd makes no tarballs of built modules: each kernel's are built where they are used."
        raise Refusal(6, text, f"The source is {self.tree.source(self.arguments.module, self.arguments.version)}.")

    def ldtarball(self) -> int:
        """Refuse: kmodd has no tarballs."""
        if not self.arguments.archive or not os.path.exists(self.arguments.archive):
            raise Refusal(2, f"{self.arguments.archive} does not exist.")
        text = "kmodd loads no tarballs: what others built is not what this kernel was asked for."
        raise Refusal(7, text, "Unpack its source to /usr/src/NAME-VERSION and add that, or use kmoddctl add ARCHIVE.")

    def generate_mok(self) -> int:
        raise Refusal(1, "kmodd has a key of its own: kmoddctl key generate, or kmoddctl key import --from dkms.")

    def kernel_preinst(self) -> int:
        """Do nothing: kmodd notices kernels by itself."""
        return 0

    kernel_postinst = kernel_prerm = kernel_preinst

    # -- having it done ----------------------------------------------------------------------------------------------
    def _bring_up(self, releases: Collection[str], force: bool = False) -> dict[str, Document]:
        """Bring the module up to date; returns its targets by kernel. releases: on these; none: on all."""
        module = self.arguments.module
        found = bring_up(self.arguments.root, module, releases, force)
        return {target.kernel: document for target, document in found.items() if target.module == module}
