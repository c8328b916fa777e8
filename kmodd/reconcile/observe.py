"""Assembles the snapshot from what the edges see. Reads only; must not decide or change anything."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Optional

from ..boot import BootReader
from ..build.compiler import Compiler, CompilerFinder
from ..build.evaluation import evaluate
from ..commandline import merge
from ..config import Settings
from ..dkms.conf import ConfReader
from ..dkms.places import adopt, find_unusable, is_adopted
from ..dropins import DropinFiles
from ..errors import Problem
from ..kernels import KernelReader
from ..loaded import LoadedReader
from ..log import get_logger
from ..model import REFUSED, UNREAD, Check, Fault, Kernel, Loaded, Presence, Snapshot, Target, Unseen
from ..modulefile import Module, canonical
from ..moduleindex import identify, read_configuration
from ..paths import Sysroot
from ..planner import find_exclusion
from ..reading import reach
from ..recipe import Recipe
from ..record import BootRecord, InitRefusal, TargetRecord
from ..registry import Registry, RegistryReader
from ..rpmdb import CommandQueries, RpmQueries, open_queries
from ..sign import Keyring
from ..sources import DigestCache, SourceReader
from ..sources.ownership import check_owners
from ..sources.symvers import symvers_identity
from ..store import Store
from ..trust import TrustReader
from ..verify import Verifier
from ..verify.owncopies import OwnCopies
from .again import Again
from .checking import Checker, Key, harden, unread
from .signatures import Signatures

#: Problems that say nothing of what was looked at: it is looked at again after a pause, though nothing changes.
ACCIDENTS = (
    "build-tree-unreadable", "dkms-conf-timeout", "module-file-unreadable", "source-unreadable", "tool-failed",
    "tool-killed", "tool-timeout",
)  # fmt: skip
#: What is said of a module with source.trust_owner.
TRUSTING = "source.trust_owner is set: whoever can change its source decides what is signed"
#: And of one with an archive that is not named by its content.
UNPINNED = "source.archive has no source.sha256: whatever lies there is built"
#: Of a build tree, what is looked at for who may change it: what every build reads first.
BUILD_TREE = ("Makefile", "scripts/Makefile.build", "include/generated/autoconf.h", ".config", "Module.symvers")


def open_keyring(sysroot: Sysroot, settings: Settings) -> Keyring:
    """Return the key that the settings name."""
    chosen = settings.sign
    environment = dict(chosen.environment)
    if chosen.pkcs11_module:
        environment["PKCS11_MODULE_PATH"] = chosen.pkcs11_module  # what libp11's engine looks at
    return Keyring(sysroot, chosen.key, chosen.certificate, chosen.passphrase_file, environment)


@dataclass
class _Read:
    """What targets are built from, and why that is not known. unseen: of the faults, those that are accidents."""

    inputs: dict[Target, Mapping[str, str]] = field(default_factory=dict)
    recipes: dict[Target, Recipe] = field(default_factory=dict)
    faults: dict[Target, Fault] = field(default_factory=dict)
    unseen: dict[Target, Fault] = field(default_factory=dict)

    def note(self, target: Target, problem: Problem, accident: bool) -> None:
        self.faults[target] = Fault(problem.code, problem.message, problem.hint)
        if accident:
            self.unseen[target] = self.faults[target]


class Observer:
    """Everything that reads a root, and what it remembers between two looks."""

    def __init__(self, sysroot: Sysroot, settings: Settings, brief: bool = False, anew: bool = False) -> None:
        """brief: for a short time only; rpm(8) answers before its binding is imported. anew: as Verifier's."""
        self.sysroot = sysroot
        self.registry = RegistryReader(sysroot)
        self.kernels = KernelReader(sysroot)
        self.boot = BootReader(sysroot)
        self.sources = SourceReader(sysroot)
        self.digests = DigestCache()
        self.signatures = Signatures(sysroot, self.sources.kernel)
        self.confs = ConfReader(sysroot, partial(evaluate, sysroot), self.sources.identity, self._digest)
        self.own_copies = OwnCopies()
        self.compilers = CompilerFinder()
        self.store = Store(sysroot)
        self.dropins = DropinFiles(sysroot)
        self.verifier = Verifier(sysroot, anew)
        self.loaded = LoadedReader(sysroot)
        self.trust = TrustReader(sysroot, settings.sign.trusted)
        self.rpm: Optional[RpmQueries] = CommandQueries(sysroot) if brief else None
        self.packages: dict[str, str] = {}
        self.source_packages: dict[str, str] = {}
        self.rpm_fault: Optional[Problem] = None
        self._unseen: Again[Target] = Again(settings.retry.first, settings.retry.longest)
        self._unread: Again[str] = Again(settings.retry.first, settings.retry.longest)  # what is of no target alone
        self._unchecked: Again[Target] = Again(settings.retry.first, settings.retry.longest)
        self.take(settings)

    def take(self, settings: Settings) -> None:
        """Look with these settings from now on."""
        self.keyring = open_keyring(self.sysroot, settings)
        self.trust.vouched = settings.sign.trusted
        self.strict = settings.verify.strict
        self.signatures.allow_unsigned = settings.sources.allow_unsigned
        self.sources.kernel.places = settings.sources.srpm_path
        self.adopt = settings.dkms.adopt
        self.confs.allowed = settings.dkms.allow_hooks
        self.forced = settings.dkms.force_version_override
        for again in (self._unseen, self._unchecked, self._unread):
            again.first, again.longest = settings.retry.first, settings.retry.longest

    async def observe(self, running: frozenset[Target] = frozenset()) -> Snapshot:
        """Look at everything once. Raises Problem where /lib/modules itself cannot be read."""
        registry = await asyncio.to_thread(self._registry)
        records = await asyncio.to_thread(self.store.records)
        dropins = self.dropins.read()
        kernels = await asyncio.to_thread(self._kernels, registry, records)
        if await self._ask_rpm(kernels):
            kernels = await asyncio.to_thread(self._kernels, registry, records)
        wanted = {
            Target(name, release): module
            for release, kernel in kernels.items()
            for name, module in registry.modules.items()
            if kernel.present and module.enabled and not find_exclusion(module.file.kernels, kernel)
        }
        read = await self._read(wanted, kernels)
        self.sources.remember()
        self.confs.remember()
        damaged, store_damaged = await asyncio.to_thread(self._damage, records, read.unseen)
        left = await self._left(registry, kernels, records, read.unseen)
        signer = self.keyring.signer()
        checker = Checker(self.sysroot, self.verifier, self.trust, Key(signer, self.keyring.published))
        checks = await checker.check(registry, kernels, records, damaged)
        checks = harden(checks) if self.strict else checks
        self.verifier.remember()
        loaded = await asyncio.to_thread(self._loaded, kernels, records, store_damaged)
        reloaded = [t for t in loaded if t.module in registry.modules and _is_reloaded(registry.modules[t.module])]
        loaded = await self.loaded.complete(loaded, reloaded)
        skipped = (*self.kernels.skipped, *(find_unusable(self.sysroot) if self.adopt else ()))
        interrupted = [item.path for item in (*registry.broken, *skipped) if item.fault.problem == UNREAD]
        return Snapshot(
            kernels=kernels,
            modules=registry.modules,
            broken=registry.broken,
            skipped=skipped,
            again=min(self._unread.note(interrupted, time.time()).values(), default=None),
            inputs=read.inputs,
            recipes=_named(read.recipes, registry),
            input_faults=read.faults,
            records=records,
            left=left,
            damaged=damaged,
            store_damaged=store_damaged,
            kernel_attempts={k: r.attempt for k, r in self.store.kernel_records().items() if r.attempt},
            dropins=dropins,
            signer=signer,
            faults={
                target: tuple(Fault(c.problem, c.message, c.hint) for c in found if c.outcome == "failed")
                for target, found in checks.items()
            },
            warnings=_warnings(checks, left, _reservations(wanted, read.faults, records)),
            unseen=_until(self._unseen, read.unseen),
            unchecked=_until(self._unchecked, _interrupted(checks)),
            checks=checks,
            running=running,
            loaded=loaded,
            boot=self.loaded.boot() if self.sysroot.is_host else "",
            refusals=_refusals(records, self.store.boot_records(), loaded),
        )

    async def _read(self, wanted: Mapping[Target, Module], kernels: Mapping[str, Kernel]) -> _Read:
        """Read what wanted targets are built from: the recipes of all, then the inputs of those that have one."""
        read = _Read()
        turn = asyncio.Semaphore(os.cpu_count() or 1)

        async def read_conf(target: Target, module: Module) -> None:
            try:
                async with turn:
                    recipe = await self.recipe(module, kernels[target.kernel])
                if recipe is not None:
                    read.recipes[target] = recipe
            except Problem as problem:
                read.note(target, problem, self._is_accident(problem))

        await asyncio.gather(*(read_conf(target, module) for target, module in wanted.items()))
        for target, module in wanted.items():
            conf = read.recipes.get(target)
            if target in read.faults or (conf is not None and conf.excluded):
                continue
            try:
                found = await self.inputs(module, kernels[target.kernel], conf)
                if found is not None:
                    read.inputs[target] = found
            except Problem as problem:
                read.note(target, problem, self._is_accident(problem))
        return read

    def _registry(self) -> Registry:
        registry = self.registry.read()
        if not self.adopt:
            return registry
        adopted = adopt(self.sysroot, registry.modules, {broken.name for broken in registry.broken})
        return Registry({**registry.modules, **adopted}, registry.broken)

    def _loaded(
        self, kernels: Mapping[str, Kernel], records: Mapping[Target, TargetRecord], store_damaged: frozenset[Target]
    ) -> dict[Target, tuple[Loaded, ...]]:
        """Look at the memory of the running kernel, which is this root's only where it is the host's own."""
        asked: dict[Target, dict[str, Optional[Path]]] = {}
        for target, record in records.items():
            kernel = kernels.get(target.kernel)
            if self.sysroot.is_host and kernel and kernel.running and record.installed and record.built:
                stored = {item.sha256 for item in record.built.objects} if target not in store_damaged else set()
                directory = self.store.objects(target)
                asked[target] = {
                    item.name: directory / f"{item.name}.ko" if item.built in stored else None
                    for item in record.installed.objects
                }
        return self.loaded.read(asked)

    async def _left(
        self,
        registry: Registry,
        kernels: Mapping[str, Kernel],
        records: Mapping[Target, TargetRecord],
        unseen: dict[Target, Fault],
    ) -> dict[Target, dict[str, str]]:
        """Return what a dkms.conf's targets leave to the kernel, as DKMS would: objects, and why.

        unseen: takes the targets for which that could not be told.
        """
        found: dict[Target, dict[str, str]] = {}
        taken = {n for n, m in registry.modules.items() if m.file.source.dkms and n not in self.forced}
        for target, record in records.items():
            kernel = kernels.get(target.kernel)
            if target.module not in taken or kernel is None or record.built is None:
                continue
            for item in record.built.objects:
                own = self.kernels.own_file(kernel.release, canonical(item.name))
                ours = self.store.objects(target) / f"{item.name}.ko"
                try:
                    reason = await self.own_copies.why_left(item.name, own, ours) if own else ""
                except (Problem, OSError) as error:
                    unseen[target] = unread(f"the kernel's own {item.name}", error)
                    continue
                if reason:
                    found.setdefault(target, {})[item.name] = reason
        return found

    def _kernels(self, registry: Registry, records: Mapping[Target, TargetRecord]) -> dict[str, Kernel]:
        symbols = {s.lstrip("!") for m in registry.modules.values() for s in m.file.kernels.config}
        objects: set[str] = set()
        for record in records.values():
            if record.built:
                objects |= {canonical(item.name) for item in record.built.objects}
        depmods = {release: record.depmod for release, record in self.store.kernel_records().items() if record.depmod}
        try:
            kernels = self.kernels.read(
                symbols, objects, _installed(records), self.packages, self.source_packages, depmods
            )
        except OSError as error:
            where = self.sysroot.inside(self.sysroot.modules)
            text = f"{where} cannot be read: {error.strerror}"
            raise Problem("modules-unreadable", text, "kmodd looks again when something changes") from error
        default = self.boot.default(kernels)
        return {release: self._booted(kernel, default) for release, kernel in kernels.items()}

    def _booted(self, kernel: Kernel, default: Optional[str]) -> Kernel:
        """Return a kernel with what the boot loader says of it. default: the release that boots next, if known."""
        if not kernel.present:
            return kernel
        lines = self.boot.command_lines(kernel.release, kernel.running)
        texts = lines.texts if kernel.running else [merge(text, kernel.config) for text in lines.texts]
        return replace(
            kernel,
            default_boot=kernel.release == default if default is not None else None,
            command_lines=tuple(dict.fromkeys(texts)),
            command_line_unknown=lines.unknown,
        )

    def depmod_inputs(self, release: str) -> tuple[str, Mapping[str, str]]:
        """Return what identifies a depmod of a kernel that begins now, and our objects there, as Depmod has them."""
        installed = _installed(self.store.records()).get(release, {})
        return identify(installed, read_configuration(self.sysroot)[0]), installed

    async def _ask_rpm(self, kernels: Mapping[str, Kernel]) -> bool:
        """Learn which packages provide the build trees; tells whether that changed. Never fails: it is only a hint."""
        releases = [release for release, kernel in kernels.items() if kernel.present]
        before = self.packages
        try:
            if self.rpm is None:
                self.rpm = await open_queries(self.sysroot)
            self.packages = await self.rpm.devel_packages(releases)
            self.source_packages = await self.rpm.source_packages(releases)
            self.rpm_fault = None
        except Problem as problem:
            if self.rpm_fault is None or self.rpm_fault.message != problem.message:
                get_logger().warning("rpm database not read", problem=problem.code, message=problem.message)
            self.rpm_fault = problem
            if problem.code not in ACCIDENTS:
                self.packages, self.source_packages = {}, {}
        return self.packages != before

    def _is_accident(self, problem: Problem) -> bool:
        """Tell whether a problem of a target's inputs says nothing of them."""
        if problem.code == "kernel-source-unknown":  # it is rpm that knows it
            return self.rpm_fault is not None and self.rpm_fault.code in ACCIDENTS
        return problem.transient and problem.code in ACCIDENTS

    async def compiler(self, kernel: Kernel) -> Compiler:
        """Return the compiler for a kernel. Raises Problem compiler-missing."""
        return await self.compilers.find(kernel.config.get("CONFIG_CC_VERSION_TEXT", ""))

    async def recipe(self, module: Module, kernel: Kernel) -> Optional[Recipe]:
        """Return what a module's dkms.conf comes to for a kernel; None where it has none. Raises Problem."""
        if not module.file.source.dkms:
            return None
        for path in self.confs.overrides():
            with contextlib.suppress(FileNotFoundError), reach(self.sysroot, self.sysroot.inside(path)) as found:
                check_owners(module, "source.dkms", found.weakness)
        recipe = await self.confs.find(module, kernel)
        if is_adopted(module) and not recipe.autoinstall and not recipe.excluded:
            return recipe.model_copy(update={"excluded": "AUTOINSTALL is not yes"})
        return recipe

    async def inputs(self, module: Module, kernel: Kernel, recipe: Optional[Recipe]) -> Optional[dict[str, str]]:
        """Return what identifies a build but for its dependencies; None without a build tree. Raises Problem."""
        if kernel.build_tree is None:
            return None
        compiler = await self.compiler(kernel)
        if module.file.source.kernel:
            await self.signatures.check(kernel)

        def read() -> dict[str, str]:
            parts = self._build_tree(module, str(kernel.build_tree))
            said = module.file.build.model_dump_json() + str([o.model_dump_json() for o in module.file.object])
            said += recipe.digest if recipe else ""
            others = symvers_identity(self.sysroot, module, kernel.release, self.digests.digest)
            return {
                **({"symvers": others} if others else {}),
                "source": self._source(module, kernel),
                "patches": self.sources.patches_identity(module, kernel.release),
                "module": hashlib.sha256(said.encode()).hexdigest(),
                "build_tree": hashlib.sha256("".join(parts).encode()).hexdigest(),
                "compiler": compiler.version,
            }

        return await asyncio.to_thread(read)

    def _build_tree(self, module: Module, tree: str) -> list[str]:
        """Return the digests of a build tree's configuration and symvers. Raises Problem, also source-unsafe."""
        parts = []
        for name in BUILD_TREE:
            try:
                with reach(self.sysroot, f"{tree}/{name}") as found:
                    check_owners(module, "the build tree", found.weakness)
                    parts += [self.digests.digest(found)] if name in (".config", "Module.symvers") else []
            except FileNotFoundError:
                if name in (".config", "Module.symvers"):
                    raise Problem("build-tree-unreadable", f"{tree}/{name} does not exist") from None
            except OSError as error:
                raise Problem("build-tree-unreadable", f"{tree} cannot be read: {error.strerror}") from error
        return parts

    def _digest(self, path: Path) -> str:
        """Return the sha256 of a file of the root, a host path. Raises OSError."""
        with reach(self.sysroot, self.sysroot.inside(path)) as found:
            return self.digests.digest(found)

    def _source(self, module: Module, kernel: Kernel) -> str:
        if module.file.source.kernel:
            return self.sources.kernel.identity(module, kernel)
        return self.sources.identity(module)

    def _damage(
        self, records: Mapping[Target, TargetRecord], unseen: dict[Target, Fault]
    ) -> tuple[dict[Target, str], frozenset[Target]]:
        damaged: dict[Target, str] = {}
        store_damaged: set[Target] = set()
        for target, record in records.items():
            try:
                text = self.verifier.find_damage(record.installed) if record.installed else ""
                if text:
                    damaged[target] = text
                if record.built and self.store.is_damaged(target, record.built):
                    store_damaged.add(target)
            except OSError as error:
                unseen[target] = unread(f"what is built and installed of {target}", error)
        return damaged, frozenset(store_damaged)


def _installed(records: Mapping[Target, TargetRecord]) -> dict[str, dict[str, str]]:
    """Return our objects' paths relative to their kernel's directory, and their sha256, by release."""
    found: dict[str, dict[str, str]] = {}
    for target, record in records.items():
        if record.installed:
            start = len(f"/lib/modules/{target.kernel}/")
            found.setdefault(target.kernel, {}).update(
                (item.path[start:], item.sha256) for item in record.installed.objects
            )
    return found


def _reservations(
    wanted: Mapping[Target, Module], faults: Mapping[Target, Fault], records: Mapping[Target, TargetRecord]
) -> dict[Target, tuple[str, ...]]:
    """Return what is to be said of targets that nothing is wrong with: what their files let pass, or the next build."""
    found = {target: notes for target, module in wanted.items() if (notes := _notes(module))}
    for target, fault in faults.items():
        if fault.problem in REFUSED and target in records and records[target].installed:
            found[target] = (f"the next build will be refused: {fault.message}",)
    return found


def _warnings(
    checks: Mapping[Target, Sequence[Check]],
    left: Mapping[Target, Mapping[str, str]],
    reservations: Mapping[Target, Sequence[str]],
) -> dict[Target, tuple[str, ...]]:
    return {
        target: (
            *(c.message for c in checks.get(target, ()) if c.outcome in ("warning", "untold")),
            *left.get(target, {}).values(),
            *reservations.get(target, ()),
        )
        for target in {*checks, *left, *reservations}
    }


def _refusals(
    records: Mapping[Target, TargetRecord],
    boots: Mapping[str, BootRecord],
    loaded: Mapping[Target, Sequence[Loaded]],
) -> dict[Target, tuple[InitRefusal, ...]]:
    """Return what init functions of objects refused that are installed still, and not in memory by now."""
    found: dict[Target, tuple[InitRefusal, ...]] = {}
    for target, record in records.items():
        boot = boots.get(target.kernel)
        if boot is None or record.installed is None:
            continue
        installed = {(canonical(item.name), item.built) for item in record.installed.objects}
        there = {item.name for item in loaded.get(target, ()) if item.presence is not Presence.ABSENT}
        refused = tuple(r for r in boot.refused if (r.name, r.built) in installed and r.name not in there)
        if refused:
            found[target] = refused
    return found


def _is_reloaded(module: Module) -> bool:
    return module.file.load.reload == "if-unused"


def _notes(module: Module) -> tuple[str, ...]:
    """Return what a module's file lets pass, fit to print."""
    source = module.file.source
    notes = (TRUSTING,) if source.trust_owner else ()
    return (*notes, UNPINNED) if source.archive is not None and source.sha256 is None else notes


def _interrupted(checks: Mapping[Target, Sequence[Check]]) -> dict[Target, Fault]:
    """Return of targets with a check that could not be made the first such."""
    found = {t: [check for check in made if check.outcome == "interrupted"] for t, made in checks.items()}
    return {t: Fault(of[0].problem, f"{of[0].object}: {of[0].message}", of[0].hint) for t, of in found.items() if of}


def _until(again: Again[Target], faults: Mapping[Target, Fault]) -> dict[Target, Unseen]:
    times = again.note(faults, time.time())
    return {target: Unseen(fault, times[target]) for target, fault in faults.items()}


def _named(recipes: Mapping[Target, Recipe], registry: Registry) -> dict[Target, Recipe]:
    """Return recipes whose BUILD_DEPENDS, which are PACKAGE_NAMEs, are the names of registered modules."""
    owners = {recipe.name: target.module for target, recipe in sorted(recipes.items(), reverse=True)}
    return {
        target: recipe.model_copy(
            update={"depends": tuple(d if d in registry.modules else owners.get(d, d) for d in recipe.depends)}
        )
        for target, recipe in recipes.items()
    }
