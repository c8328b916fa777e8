"""Short ways to write down snapshots for the planner's tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional

from kmodd.model import (
    Action,
    BrokenFile,
    BuildModule,
    Fault,
    InstallModule,
    Judgement,
    Kernel,
    Policy,
    RunDepmod,
    Signer,
    Snapshot,
    Target,
)
from kmodd.modulefile import Module, ModuleFile
from kmodd.planner import judge, plan
from kmodd.record import Attempt, Built, BuiltObject, Installed, InstalledObject, TargetRecord

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


def world(*modules: Module, kernels: tuple[Kernel, ...] = (), **more: Any) -> Snapshot:
    """Return a snapshot in which every input is known and nothing was built."""
    modules = modules or (module(),)
    kernels = kernels or (kernel(),)
    inputs = {
        Target(m.name, k.release): INPUTS for m in modules for k in kernels if k.present and k.build_tree is not None
    }
    facts = {"signer": SIGNER, "inputs": inputs, **more}
    return Snapshot(kernels={k.release: k for k in kernels}, modules={m.name: m for m in modules}, **facts)


def settled(*modules: Module, kernels: tuple[Kernel, ...] = (), **more: Any) -> Snapshot:
    """Return a snapshot in which everything is built and installed."""
    found = world(*modules, kernels=kernels)
    records = {t: record(t.module, t.kernel) for t in found.inputs}
    return replace(found, **{"records": records, **more})


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
