"""The kernel's own source: which source RPM it is, what of it is kept, and what a module gets of that."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from worlds import K, kernel, settings_of

from kmodd.core.errors import Problem
from kmodd.core.model import Kernel
from kmodd.core.modulefile import Module, ModuleFile
from kmodd.core.sysroot import Sysroot
from kmodd.core.tomlfile import parse
from kmodd.sources.kernelsource import KernelSources, companions
from kmodd.system.reading import Reached

SRPM = "kernel-6.1.0-1.el9.src.rpm"
OWNER = (os.getuid(), os.getgid())
KERNEL = kernel(source_package=SRPM)


def module(*paths: str, config: str = "") -> Module:
    text = f"[source]\nkernel = {list(paths)}\n[build]\nconfig = {{ {config} }}\n"
    return Module(name="m", file=parse(ModuleFile, text), path="/etc/kmodd/modules.d/m.toml")


BCACHE = module("drivers/md/bcache")


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def sources(tmp_path: Path) -> KernelSources:
    settings = settings_of('[sources]\nsrpm_path = ["/srv/srpms", "/srv/more"]\n')
    return KernelSources(Sysroot(tmp_path), Reached.digest, settings)


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    top = tmp_path / "unpacked"
    put(top / "drivers/md/Kconfig", 'config BCACHE\n\ttristate "x"\n  menuconfig MD_X\nif config\n')
    put(top / "drivers/md/bcache/super.c", "int a;")
    put(top / "drivers/md/bcache/sub/x.h")
    put(top / "drivers/block/rbd.c")
    put(top / "drivers/block/Makefile")
    put(top / "drivers/block/loop.c")
    (top / "linked").symlink_to("drivers")
    return top


def fault(sources: KernelSources, of: Kernel = KERNEL) -> Problem:
    with pytest.raises(Problem) as caught:
        sources.identity(BCACHE, of)
    return caught.value


# -- the source RPM --------------------------------------------------------------------------------------------------
def test_missing_source_rpm_is_said_with_the_command_that_downloads_it(sources: KernelSources, tmp_path: Path) -> None:
    problem = fault(sources)
    assert problem.code == "kernel-source-missing"
    assert problem.message == f"{SRPM}, the source of {K}, is not in /srv/srpms or /srv/more"
    assert problem.hint == (
        f"dnf --installroot={tmp_path} download --source --destdir={tmp_path}/srv/srpms kernel-6.1.0-1.el9.src"
    )


def test_source_rpm_of_another_release_is_none_and_is_said(sources: KernelSources, tmp_path: Path) -> None:
    put(tmp_path / "srv/more/kernel-6.1.0-2.el9.src.rpm")
    put(tmp_path / "srv/more/kernel-rt-6.1.0-1.el9.src.rpm")
    assert fault(sources).message.endswith("; kernel-6.1.0-2.el9.src.rpm there is of another release")


def test_kernel_of_no_package_has_no_source_rpm(sources: KernelSources) -> None:
    assert fault(sources, kernel()).code == "kernel-source-unknown"


def test_identity_is_that_of_the_source_rpm_and_the_paths(sources: KernelSources, tmp_path: Path) -> None:
    path = put(tmp_path / "srv/more" / SRPM, "one")
    first = sources.identity(BCACHE, KERNEL)
    assert sources.identity(module("drivers/md"), KERNEL) != first
    with sources.require(KERNEL) as found:
        assert found.host == path
    put(tmp_path / "srv/srpms" / SRPM, "one")
    assert sources.identity(BCACHE, KERNEL) == first
    put(tmp_path / "srv/srpms" / SRPM, "two")
    assert sources.identity(BCACHE, KERNEL) != first


# -- what is kept ----------------------------------------------------------------------------------------------------
def test_what_was_kept_serves_without_the_source_rpm_until_that_is_another(
    sources: KernelSources, tmp_path: Path, unpacked: Path
) -> None:
    path = put(tmp_path / "srv/srpms" / SRPM, "one")
    before = sources.identity(BCACHE, KERNEL)
    assert sources.lacks(KERNEL, companions(BCACHE))
    sources.keep(KERNEL, hashlib.sha256(path.read_bytes()).hexdigest(), unpacked, {"drivers/md/bcache", "none"})
    assert not sources.lacks(KERNEL, {"drivers/md/bcache", "none"})
    assert sources.lacks(KERNEL, {"drivers/block"})
    path.rename(tmp_path / "aside")
    assert not sources.lacks(KERNEL, {"drivers/md/bcache"})
    assert sources.identity(BCACHE, KERNEL) == before
    put(path, "two")
    assert sources.lacks(KERNEL, {"drivers/md/bcache"})


def test_damaged_record_means_that_nothing_is_kept(sources: KernelSources, tmp_path: Path, unpacked: Path) -> None:
    sources.keep(KERNEL, "1", unpacked, {"drivers/md/bcache"})
    (record,) = tmp_path.rglob("record.json")
    for text in ("", "[]", "{}", '{"sha256": 1, "paths": 2, "absent": []}'):
        record.write_text(text)
        assert sources.kept(KERNEL) is None


def test_sources_of_other_kernels_are_let_go(sources: KernelSources, tmp_path: Path, unpacked: Path) -> None:
    other = kernel(source_package="kernel-6.1.0-2.el9.src.rpm")
    for one in (KERNEL, other):
        sources.keep(one, "1", unpacked, {"drivers/md/bcache"})
    put(tmp_path / "var/cache/kmodd/kernel-source/.kernel-6.1.0-1.el9.new/tree/x")
    sources.forget([other, kernel()])
    assert [p.name for p in (tmp_path / "var/cache/kmodd/kernel-source").iterdir()] == ["kernel-6.1.0-2.el9"]


# -- a module's part -------------------------------------------------------------------------------------------------
def lay(sources: KernelSources, unpacked: Path, what: Module, *more: str) -> list[str]:
    sources.keep(KERNEL, "1", unpacked, companions(what) | set(more))
    top = unpacked.parent / "laid"
    sources.copy_part(what, KERNEL, more, top, OWNER)
    return sorted(str(p.relative_to(top)) for p in top.rglob("*") if not p.is_dir())


LAID = [
    (module("drivers/md/bcache"), (), ["drivers/md/bcache/sub/x.h", "drivers/md/bcache/super.c"]),
    (module("drivers/block/rbd.c"), (), ["drivers/block/Makefile", "drivers/block/rbd.c"]),
    (
        module("drivers/block/rbd.c"),
        ("drivers/block/loop.c", "include/linux/x.h"),
        ["drivers/block/Makefile", "drivers/block/loop.c", "drivers/block/rbd.c"],
    ),
    (
        module("drivers/md/bcache/sub", "drivers/md/bcache"),
        (),
        ["drivers/md/bcache/sub/x.h", "drivers/md/bcache/super.c"],
    ),
]


@pytest.mark.parametrize(("what", "more", "files"), LAID)
def test_module_gets_what_it_names_at_its_place(
    sources: KernelSources, unpacked: Path, what: Module, more: tuple[str, ...], files: list[str]
) -> None:
    assert lay(sources, unpacked, what, *more) == files


@pytest.mark.parametrize("path", ["drivers/md/bcash", "drivers/block/rbd.c/x", "linked", "linked/md/bcache"])
def test_path_that_the_source_lacks_is_a_problem(sources: KernelSources, unpacked: Path, path: str) -> None:
    with pytest.raises(Problem) as caught:
        lay(sources, unpacked, module(path))
    assert caught.value.code == "kernel-source-path"
    assert caught.value.message == f"/etc/kmodd/modules.d/m.toml: source.kernel: {SRPM} has no {path}"


def test_symbol_that_no_kconfig_knows_is_a_problem(sources: KernelSources, unpacked: Path) -> None:
    known = module("drivers/md/bcache", config='CONFIG_BCACHE = "m", CONFIG_MD_X = "y"')
    assert lay(sources, unpacked, known)
    with pytest.raises(Problem, match=r"m\.toml: build\.config\.CONFIG_BCASHE: no Kconfig") as caught:
        sources.copy_part(module("drivers/md/bcache", config='CONFIG_BCASHE = "m"'), KERNEL, (), unpacked / "x", OWNER)
    assert (caught.value.code, caught.value.hint) == ("config-unknown", "did you mean CONFIG_BCACHE?")
