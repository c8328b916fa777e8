"""Checks of what each kernel, the key and the registered modules need, and of who else owns the same modules."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator

from ...core.errors import Problem
from ...core.model import REFUSED, Kernel
from ...core.modulefile import canonical, object_name
from ...core.rootwarnings import KEY, find_warnings
from ...host.kernels import SUFFIXES
from ...sign import certificate_facts
from ...sign.signfile import find_sign_file
from . import Finding, Host

AKMOD = re.compile(r"(?P<name>.+?)-kmod[-.].*")
FOREIGN = ("extra", "updates", "weak-updates")


def _names(kernels: Iterable[Kernel]) -> str:
    return ", ".join(kernel.release for kernel in kernels)


async def build_trees(host: Host) -> AsyncIterator[Finding]:
    """Every kernel has its build tree."""
    good = [kernel for kernel in host.snapshot.present() if kernel.build_tree_fault is None]
    for kernel in host.snapshot.present():
        if kernel.build_tree_fault is not None:
            yield Finding("kernel-devel", "fail", kernel.build_tree_fault.message, kernel.build_tree_fault.hint)
    if good:
        yield Finding("kernel-devel", "ok", f"there are build trees for {_names(good)}")


async def compilers(host: Host) -> AsyncIterator[Finding]:
    """Every kernel has a compiler, best the one that it was built with."""
    good = []
    for kernel in host.snapshot.present():
        try:
            found = await host.observer.inputs.compiler(kernel)
        except Problem as problem:
            yield Finding("compiler", "fail", f"for {kernel.release} {problem.message}", problem.hint)
            continue
        if found.mismatch:
            major = kernel.config.get("CONFIG_CC_VERSION_TEXT", "").rpartition(" ")[2].partition(".")[0]
            fix = f"dnf install gcc-toolset-{major}" if major.isdigit() and "clang" not in found.mismatch else ""
            yield Finding("compiler", "warning", f"{kernel.release}: {found.mismatch}", fix)
        else:
            good.append(kernel)
    if good:
        yield Finding("compiler", "ok", f"there is the compiler of {_names(good)}")


async def sign_files(host: Host) -> AsyncIterator[Finding]:
    """Every kernel that knows signatures has a sign-file that root may run."""
    good = []
    for kernel in host.snapshot.present():
        if kernel.signature_hash and kernel.build_tree:
            try:
                find_sign_file(host.sysroot, host.sysroot.resolve(kernel.build_tree))
                good.append(kernel)
            except Problem as problem:
                yield Finding("sign-file", "fail", problem.message, problem.hint)
    if good:
        yield Finding("sign-file", "ok", f"there is the sign-file of {_names(good)}")


async def keys(host: Host) -> AsyncIterator[Finding]:
    """There is a key, hidden from others, and its certificate is valid."""
    keyring = host.observer.keys.now
    signer = keyring.signer()
    if signer.fault is not None:
        absent = signer.fault.problem == "signing-key-absent"
        text = f"{signer.fault.message}; the first installation makes one" if absent else signer.fault.message
        yield Finding("keys", "warning" if absent else "fail", text, signer.fault.hint)
        return
    if not keyring.is_token:
        directory = host.sysroot.resolve(keyring.private).parent
        mode = directory.stat().st_mode & 0o777
        if mode & 0o022 or (directory == host.sysroot.keys and mode & 0o077):
            text = f"{host.sysroot.inside(directory)} is open to others (mode {mode:o})"
            yield Finding("keys", "fail", text, f"chmod 700 {directory}")
    if os.geteuid() == 0:
        try:
            await keyring.check()
        except Problem as problem:
            yield Finding("keys", "fail", problem.message, problem.hint)
            return
    try:
        facts = await certificate_facts(keyring)
    except Problem as problem:
        yield Finding("keys", "fail", problem.message, problem.hint)
        return
    if facts["not_after"] < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()):
        text = f"the certificate's time ended on {facts['not_after'][:10]}"
        yield Finding("keys", "warning", text, "kmoddctl key rotate")
    else:
        text = f"{facts['subject']} ({facts['algorithm']}) signs, valid until {facts['not_after'][:10]}"
        yield Finding("keys", "ok", text)


async def enrolment(host: Host) -> AsyncIterator[Finding]:
    """Kernels that load only signed modules trust the key."""
    if host.observer.keys.now.signer().fault is not None:
        return
    good = []
    for kernel in host.snapshot.present():
        why = host.observer.trust.enforcement(kernel)
        if why and not await host.observer.trust.is_trusted(host.observer.keys.now.published, kernel):
            text = f"{kernel.release} takes only modules of keys that it trusts ({why}), and kmodd's is none"
            yield Finding("enrolment", "fail", text, "kmoddctl key enroll")
        else:
            good.append(kernel)
    if good:
        yield Finding("enrolment", "ok", f"what kmodd signs is accepted by {_names(good)}")


async def depmods(host: Host) -> AsyncIterator[Finding]:
    """modules.dep of every kernel is what depmod would write now."""
    for kernel in host.snapshot.present():
        if kernel.depmod_stale:
            fix = f"depmod {'' if host.sysroot.is_host else f'-b {host.sysroot.root} '}{kernel.release}"
            yield Finding("depmod", "fail", f"{kernel.release}: {kernel.depmod_stale}", fix)


async def names(host: Host) -> AsyncIterator[Finding]:
    """Kernels and sources have names that they can have."""
    for item in host.snapshot.skipped:
        yield Finding("names", "warning", item.fault.message, item.fault.hint)
    if not host.snapshot.skipped:
        yield Finding("names", "ok", "nothing in /lib/modules is passed over for its name")


async def leftovers(host: Host) -> AsyncIterator[Finding]:
    """No removed kernel left its directory behind."""
    for release, kernel in sorted(host.snapshot.kernels.items()):
        if not kernel.present:
            path = host.sysroot.kernel(release)
            text = f"{host.sysroot.inside(path)} is what a removed kernel left behind"
            yield Finding("leftovers", "warning", text, f"find {path} -type f; rm -r {path}")


async def module_files(host: Host) -> AsyncIterator[Finding]:
    """No module file has an error."""
    for broken in host.snapshot.broken:
        yield Finding("module-files", "fail", broken.fault.message, broken.fault.hint)
    if not host.snapshot.broken:
        yield Finding("module-files", "ok", f"{len(host.snapshot.modules)} modules are registered")


async def without_effect(host: Host) -> AsyncIterator[Finding]:
    """Every module is for some kernel, and every file among the module files is read."""
    for warning in find_warnings(host.snapshot):
        if not warning.fault.problem.startswith(KEY):  # keys tells of those
            where = "kernel-rules" if warning.module else "module-files"
            yield Finding(where, "warning", warning.fault.message, warning.fault.hint)


async def owners(host: Host) -> AsyncIterator[Finding]:
    """Only root can change what is signed, and source RPMs are signed by keys that rpm trusts."""
    said: dict[str, tuple[str, str]] = {}
    for broken in host.snapshot.broken:
        if broken.fault.problem in REFUSED:
            said[broken.fault.message] = (broken.name, broken.fault.hint)
    for target, row in sorted(host.snapshot.targets.items()):
        fault = row.input_fault
        if fault is not None and fault.problem in REFUSED:
            said.setdefault(fault.message, (target.module, fault.hint))
    for message, (name, hint) in said.items():
        yield Finding("owners", "fail", f"{name} is not built: {message}", hint)
    trusting = sorted(name for name, module in host.snapshot.modules.items() if module.file.source.trust_owner)
    if trusting:
        text = f"whoever can change the sources of {', '.join(trusting)} decides what is signed (source.trust_owner)"
        yield Finding("owners", "warning", text, "give the sources to root and remove source.trust_owner")
    unpinned = [n for n, m in host.snapshot.modules.items() if m.file.source.archive and not m.file.source.sha256]
    if unpinned:
        text = f"whatever lies in the place of the archive of {', '.join(sorted(unpinned))} is built"
        yield Finding("owners", "warning", text, "say its source.sha256 in the module file")
    if host.settings.sources.allow_unsigned:
        text = "source RPMs are built without a signature of a key that rpm trusts (sources.allow_unsigned)"
        yield Finding("owners", "warning", text, "import the distribution's key by rpm --import and remove the setting")
    if not said and not trusting and not unpinned:
        yield Finding("owners", "ok", "what is built can be changed by root alone")


async def others(host: Host) -> AsyncIterator[Finding]:
    """Nobody else builds or installs the same modules."""
    ours: dict[str, str] = {canonical(name): name for name in host.snapshot.modules}
    installed = set()
    for target, record in host.snapshot.records.items():
        ours |= {canonical(item.name): target.module for item in (record.built.objects if record.built else ())}
        installed |= {item.path for item in (record.installed.objects if record.installed else ())}
    for name, version, objects in _dkms(host):
        owner = next((ours[one] for one in sorted({canonical(name), *objects}) if one in ours), None)
        if owner:
            text = f"DKMS has {name}/{version}, which kmodd keeps as {owner}: both would install it"
            yield Finding("others", "warning", text, f"dkms remove {name}/{version} --all")
    for path in sorted(host.sysroot.resolve("/usr/src/akmods").glob("*.rpm")):
        found = AKMOD.fullmatch(path.name)
        if found and canonical(found["name"]) in ours:
            text = f"akmods has {path.name}, which kmodd keeps as {ours[canonical(found['name'])]}"
            yield Finding("others", "warning", text, f"dnf remove akmod-{found['name']}")
    for kernel in host.snapshot.present():
        for inside, stem in _objects(host, kernel.release):
            if stem in ours and inside not in installed:
                text = f"{inside} is another copy of {stem}, not by kmodd"
                yield Finding("others", "warning", text, f"rpm -qf {inside}; remove what it belongs to")


def _dkms(host: Host) -> Iterator[tuple[str, str, set[str]]]:
    """Yield DKMS's modules: name, version, and the objects that it built (layout of /var/lib/dkms, dkms(8)).

    kmodd's own command dkms makes links in that tree, too, and builds nothing there; DKMS brings a framework.conf.
    """
    top = host.sysroot.resolve("/var/lib/dkms")
    is_there = (host.sysroot.dkms_overrides / "framework.conf").exists()
    for version in sorted(top.glob("*/*")):
        built = {object_name(name.name) for name in version.glob("*/*/module/*.ko*")}
        if os.path.lexists(version / "source") and (built or is_there):
            yield version.parent.name, version.name, built


def _objects(host: Host, release: str) -> Iterator[tuple[str, str]]:
    """Yield the objects outside the kernel's own: in-root path, canonical name."""
    suffixes = tuple(f".ko{suffix}" for suffix in ("", *SUFFIXES))
    for name in FOREIGN:
        directory = host.sysroot.kernel(release) / name
        for top, _, files in os.walk(directory):
            for file in sorted(files):
                if file.endswith(suffixes):
                    inside = f"/lib/modules/{release}/{os.path.relpath(top, host.sysroot.kernel(release))}/{file}"
                    yield os.path.normpath(inside), object_name(file)


CHECKS = (
    module_files, build_trees, compilers, sign_files, keys, enrolment, depmods, names, leftovers, without_effect,
    owners, others,
)  # fmt: skip
