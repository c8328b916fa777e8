"""Short ways to write down snapshots for the planner's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Optional

from kmodd.core.actions import Action, BuildModule, InstallModule, RunDepmod
from kmodd.core.model import (
    BrokenFile,
    Check,
    Damage,
    Fault,
    Judgement,
    Kernel,
    Policy,
    Signer,
    Snapshot,
    Target,
    TargetState,
)
from kmodd.core.modulefile import Module, ModuleFile
from kmodd.core.planner import judge, plan
from kmodd.core.record import Attempt, Built, BuiltObject, Installed, InstalledObject, TargetRecord
from kmodd.core.settings import Settings, SettingsSource
from kmodd.core.tomlfile import parse

K = "6.1.0-1.el9.x86_64"
K2 = "6.1.0-2.el9.x86_64"
T = Target("m", K)
NOW = 1000.0
POLICY = Policy(retry_first=60, retry_longest=3600)
T2 = Target("m", K2)
SIGNER = Signer(identity="key1")
INPUTS = {"source": "s", "patches": "", "module": "m", "build_tree": "b", "compiler": "gcc 12"}
MISSING = Fault("kernel-devel-missing", f"kernel-devel for {K} is not installed", "dnf install kernel-devel")
BROKEN = Fault("module-file-invalid", "m.toml: line 1 is wrong", "correct it")


def module(name: str = "m", **tables: Any) -> Module:
    """Return a module; keywords are the tables of its file."""
    document = {"source": {"path": f"/usr/src/{name}"}, **tables}
    return Module(name=name, file=ModuleFile.model_validate(document), path=f"/etc/kmodd/modules.d/{name}.toml")


def settings_of(text: str = "") -> SettingsSource:
    """Return the source of settings that kmodd.toml has."""
    return SettingsSource(parse(Settings, text))


def kernel(release: str = K, **more: Any) -> Kernel:
    return Kernel(
        **{"release": release, "build_tree": f"/usr/src/kernels/{release}", "signature_hash": "sha256", **more}
    )


def built(name: str = "m", inputs: Optional[Mapping[str, str]] = None, sha256: str = "u1") -> Built:
    return Built(inputs=dict(INPUTS if inputs is None else inputs), objects=(BuiltObject(name=name, sha256=sha256),))


def installed(name: str = "m", release: str = K, **more: Any) -> Installed:
    facts = {"signer": "key1", "built": "u1", **more}
    path = f"/lib/modules/{release}/extra/{name}/{name}.ko"
    return Installed(objects=(InstalledObject(name=name, path=path, sha256="i1", **facts),))


def record(name: str = "m", release: str = K, **more: Any) -> TargetRecord:
    """Return the record of a target that is built and installed, but for what is given."""
    parts = {"built": built(name), "installed": installed(name, release), **more}
    return TargetRecord(module=name, kernel=release, module_file=f"/etc/kmodd/modules.d/{name}.toml", **parts)


def failed(stage: str = "build", transient: bool = False, failures: int = 1, **more: Any) -> Attempt:
    facts: dict[str, Any] = {
        "began": 900, "ended": 1000, "outcome": "failed", "problem": "build-failed", "message": "m.c:1: error: x",
        "inputs": INPUTS, **more,
    }  # fmt: skip
    return Attempt(stage=stage, transient=transient, failures=failures, **facts)  # type: ignore[arg-type]


#: A part of many rows at once, as tests write it down -> how it becomes the part of one row.
PARTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "records": ("record", lambda found: found),
    "inputs": ("inputs", lambda found: found),
    "recipes": ("recipe", lambda found: found),
    "input_faults": ("input_fault", lambda found: found),
    "left": ("left", lambda found: found),
    "damaged": ("damage", lambda found: Damage("m.ko", found) if isinstance(found, str) else found),
    "checks": ("checks", lambda found: found),
    "faults": ("checks", lambda found: tuple(Check("m", "x", "failed", f.message, f.problem, f.hint) for f in found)),
    "warnings": ("notes", lambda found: found),
    "unseen": ("unseen", lambda found: found),
    "unchecked": ("unchecked", lambda found: found),
    "loaded": ("loaded", lambda found: found),
    "store_damaged": ("store_damaged", lambda _: True),
    "running": ("running", lambda _: True),
}


def change(snapshot: Snapshot, **facts: Any) -> Snapshot:
    """Return a snapshot with other facts: its own, or parts of rows by target, instead of what all rows have there.

    kernel_attempts: the last failed depmod, by release.
    """
    rows = {target: replace(row) for target, row in snapshot.targets.items()}
    attempts = facts.pop("kernel_attempts", None)
    parts = {name: facts.pop(name) for name in list(facts) if name in PARTS}
    for part in {PARTS[name][0] for name in parts}:
        for row in rows.values():
            setattr(row, part, getattr(TargetState(), part))
    for name, found in parts.items():
        part, convert = PARTS[name]
        for target in found:
            setattr(
                rows.setdefault(target, TargetState()),
                part,
                convert(found[target] if isinstance(found, Mapping) else None),
            )
    changed = replace(snapshot, **{"targets": rows, **facts})
    if attempts is not None:
        kernels = {
            r: replace(k, failures={"depmod": attempts[r]} if r in attempts else {}) for r, k in changed.kernels.items()
        }
        changed = replace(changed, kernels=kernels)
    return changed


def parts(snapshot: Snapshot, name: str) -> dict[Target, Any]:
    """Return a part of all rows that have it."""
    part = PARTS[name][0]
    return {
        t: getattr(row, part)
        for t, row in snapshot.targets.items()
        if getattr(row, part) != getattr(TargetState(), part)
    }


def world(*modules: Module, kernels: tuple[Kernel, ...] = (), **more: Any) -> Snapshot:
    """Return a snapshot in which every input is known and nothing was built."""
    modules = modules or (module(),)
    kernels = kernels or (kernel(),)
    inputs = {
        Target(m.name, k.release): INPUTS for m in modules for k in kernels if k.present and k.build_tree is not None
    }
    empty = Snapshot(kernels={k.release: k for k in kernels}, modules={m.name: m for m in modules})
    return change(empty, **{"signer": SIGNER, "inputs": inputs, **more})


def settled(*modules: Module, kernels: tuple[Kernel, ...] = (), **more: Any) -> Snapshot:
    """Return a snapshot in which everything is built and installed."""
    found = world(*modules, kernels=kernels)
    records = {t: record(t.module, t.kernel) for t in parts(found, "inputs")}
    return change(found, **{"records": records, **more})


def broken(name: str = "m", path: str = "") -> BrokenFile:
    return BrokenFile(path or f"/etc/kmodd/modules.d/{name}.toml", name, BROKEN)


def do(snapshot: Snapshot, now: float = NOW) -> list[Action]:
    return list(plan(snapshot, POLICY, now))


def verdict(snapshot: Snapshot, target: Target = T, now: float = NOW) -> Judgement:
    return judge(snapshot, POLICY, now)[target]


def build(target: Target = T, reason: str = "never built for this kernel", **more: Any) -> list[Action]:
    return [
        BuildModule(target, reason, {**INPUTS, **more.pop("inputs", {})}, **more),
        InstallModule(target, "once it is built"),
        RunDepmod(target.kernel, "objects are installed"),
    ]
