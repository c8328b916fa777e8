"""The tree that a part of the kernel's own source is built in: links, what is real, symvers and Kbuild files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from worlds import K, kernel

from kmodd.core.errors import Problem
from kmodd.core.modulefile import Module, ModuleFile
from kmodd.core.sysroot import Sysroot
from kmodd.core.tomlfile import parse
from kmodd.kbuild.overlay import Overlay, Part, without

SYMVERS = """\
0x00000001\tceph_create\tnet/ceph/libceph\tEXPORT_SYMBOL\t
0x00000002\trbd_x\tdrivers/block/rbd\tEXPORT_SYMBOL\t
0x00000003\tloop_x\tdrivers/block/loop\tEXPORT_SYMBOL_GPL\t
0x00000004\tovs_x\tnet/openvswitch/openvswitch\tEXPORT_SYMBOL_GPL\t
0x00000005\tvport_x\tnet/openvswitch/vport-gre\tEXPORT_SYMBOL_GPL\t
0x00000006\tcephalopod\tnet/cephalopod/x\tEXPORT_SYMBOL\t
0x00000007\tprintk\tvmlinux\tEXPORT_SYMBOL\t
"""


def module(text: str) -> Module:
    return Module(name="m", file=parse(ModuleFile, text), path="/etc/kmodd/modules.d/m.toml")


def source(*paths: str, more: str = "") -> Module:
    return module(f"[source]\nkernel = {list(paths)}\n{more}")


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# -- Module.symvers --------------------------------------------------------------------------------------------------
OBJECT = '[[object]]\nname = "vport-gre"\n'
GONE = [
    (source("net/ceph"), (), {"ceph_create"}),
    (source("drivers/block/rbd.c"), (), {"rbd_x"}),
    (source("drivers/block"), (), {"rbd_x", "loop_x"}),
    (source("net/openvswitch"), (), {"ovs_x", "vport_x"}),
    (source("net/openvswitch", more=OBJECT), (), {"vport_x"}),
    (source("net/openvswitch", more=OBJECT.replace("-", "_")), (), {"vport_x"}),
    (source("fs/ceph"), ("ceph_create",), {"ceph_create"}),
    (source("fs/ceph"), (), set()),
]


@pytest.mark.parametrize(("what", "symbols", "gone"), GONE)
def test_symbols_of_what_is_built_anew_and_of_dependencies_leave_symvers(
    what: Module, symbols: tuple[str, ...], gone: set[str]
) -> None:
    left = without(SYMVERS, what, symbols)
    assert {line for line in SYMVERS.splitlines() if line not in left.splitlines()} == {
        line for line in SYMVERS.splitlines() if line.split("\t")[1] in gone
    }


# -- the tree --------------------------------------------------------------------------------------------------------
@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = tmp_path / "root/usr/src/kernels" / K
    put(tree / "Makefile")
    put(tree / "Module.symvers", SYMVERS)
    put(tree / "include/linux/ceph/osdmap.h", "old")
    put(tree / "include/linux/list.h")
    put(tree / "include/trace/define_trace.h")
    put(tree / "include/config/auto.conf", "CONFIG_A=m\nCONFIG_B=y\n")
    put(tree / "include/generated/autoconf.h", "#define CONFIG_A_MODULE 1\n#define CONFIG_B 1\n")
    put(tree / "net/ceph/Makefile", "kernel-devel's")
    put(tree / "net/core/Makefile")
    return tmp_path / "root"


def overlay(root: Path) -> Overlay:
    top = root.parent / "source"
    top.mkdir(exist_ok=True)
    return Overlay(Sysroot(root), kernel(), top, (os.getuid(), os.getgid()))


def test_what_the_module_brings_is_real_and_all_else_a_link_into_the_build_tree(root: Path) -> None:
    made = overlay(root)
    put(made.top / "net/ceph/Makefile", "ours")
    made.complete(source("net/ceph"), ["include/linux/ceph/osdmap.h", "net/core/new.h", "Makefile/x"], [])
    real = {str(p.relative_to(made.top)) for p in made.top.rglob("*") if not p.is_symlink() and not p.is_dir()}
    assert real == {"net/ceph/Makefile", "include/linux/ceph/osdmap.h", "Module.symvers"}
    links = {str(p.relative_to(made.top)): os.readlink(p) for p in made.top.rglob("*") if p.is_symlink()}
    assert links == {
        path: f"/usr/src/kernels/{K}/{path}"
        for path in (
            "Makefile", "net/core/Makefile", "include/config", "include/generated", "include/linux/list.h",
            "include/trace/define_trace.h",
        )
    }  # fmt: skip
    assert (made.top / "net/ceph/Makefile").read_text() == "ours"
    assert "libceph" not in (made.top / "Module.symvers").read_text()


def test_dependencies_symbols_leave_the_kernels_symvers(root: Path) -> None:
    made = overlay(root)
    theirs = root.parent / "theirs"
    theirs.write_text("0xff\tceph_create\tnet/ceph/libceph\tEXPORT_SYMBOL\t\n")
    made.complete(source("fs/ceph"), [], [theirs])
    assert "ceph_create" not in (made.top / "Module.symvers").read_text()
    assert "ceph_create" in (root / "usr/src/kernels" / K / "Module.symvers").read_text()


CONFIG = """[build]
config = { CONFIG_A = "y", CONFIG_B = "n", CONFIG_C = "m", CONFIG_D = 5 }
"""


def test_make_and_the_compiler_see_the_same_configuration(root: Path) -> None:
    made = overlay(root)
    made.complete(source("net/ceph", more=CONFIG), [], [])
    conf = dict(line.split("=") for line in (made.top / "include/config/auto.conf").read_text().splitlines())
    assert conf == {"CONFIG_A": "y", "CONFIG_B": "", "CONFIG_C": "m", "CONFIG_D": "5"}
    header = made.top / "include/generated/autoconf.h"
    done = os.popen(f"echo '{' '.join(f'CONFIG_{n} CONFIG_{n}_MODULE' for n in 'ABCD')}' | cpp -P -include {header}")
    assert done.read().split() == ["1", "CONFIG_A_MODULE", "CONFIG_B", "CONFIG_B_MODULE", "CONFIG_C", "1", "5",
                                   "CONFIG_D_MODULE"]  # fmt: skip
    assert (root / "usr/src/kernels" / K / "include/config/auto.conf").read_text() == "CONFIG_A=m\nCONFIG_B=y\n"


# -- what is built ---------------------------------------------------------------------------------------------------
MAKEFILE = "obj-$(CONFIG_A) += a.o b-c.o\na-y := one.o\n"
PARTS = [
    (source("net/ceph"), [Part("net/ceph")]),
    (source("net/ceph", "net/core"), [Part("net/ceph"), Part("net/core")]),
    (source("net/ceph/a.c"), [Part("net/ceph", ("a",))]),
    (source("net/ceph/a.c", "net/ceph/a.h", "net/ceph/one.c"), [Part("net/ceph", ("a", "one"))]),
    (source("net/ceph/a.c", "net/ceph"), [Part("net/ceph")]),
    (source("include/linux/ceph", "net/ceph"), [Part("net/ceph")]),
    (source("net/ceph", "net/core", more='[build]\ndirectory = "net/core"\n'), [Part("net/core")]),
    (source("net/ceph", more='[[object]]\nname = "b-c"\n'), [Part("net/ceph", ("b-c",))]),
    (source("net/core", "net/ceph", more='[[object]]\nname = "a"\n'), [Part("net/ceph", ("a",))]),
    (source("net/core", "net/ceph", more='[[object]]\nname = "a"\npath = "net/ceph"\n'), [Part("net/ceph", ("a",))]),
]


@pytest.fixture
def sources(root: Path) -> Overlay:
    made = overlay(root)
    put(made.top / "net/ceph/Makefile", MAKEFILE)
    put(made.top / "net/ceph/a.c")
    put(made.top / "include/linux/ceph/x.h")
    put(made.top / "net/core/Kbuild", "obj-y += x.o\n")
    return made


@pytest.mark.parametrize(("what", "parts"), PARTS)
def test_parts_are_what_the_module_file_names(sources: Overlay, what: Module, parts: list[Part]) -> None:
    assert sources.parts(what) == parts
    for part in parts:
        assert (sources.top / part.directory / "Kbuild").exists() == (bool(part.objects) or "core" in part.directory)


def test_kbuild_of_chosen_objects_keeps_what_the_directory_says_of_them(sources: Overlay) -> None:
    put(sources.top / "net/core/Kbuild", "ccflags-y := -DX\nobj-y += x.o\nobj-m += y.o\n")
    sources.parts(source("net/core", more='[[object]]\nname = "y"\n'))
    text = "show:\n\t@echo $(ccflags-y) $(obj-y) $(obj-m)\ninclude net/core/Kbuild\n"
    (sources.top / "show.mk").write_text(text)
    assert os.popen(f"make -s -C {sources.top} -f show.mk show --no-print-directory").read() == "-DX y.o\n"


WRONG = [
    (source("net/ceph", more='[[object]]\nname = "z"\n'), "object-missing"),
    (source("net/ceph", more='[[object]]\nname = "c"\n'), "object-missing"),
    (source("net/ceph", more='[build]\ndirectory = "net/none"\n'), "kernel-source-makefile"),
    (source("include/linux/ceph"), "kernel-source-makefile"),
    (source("net/ceph/x.h"), "kernel-source-makefile"),
]


@pytest.mark.parametrize(("what", "code"), WRONG)
def test_what_nothing_builds_is_a_problem(sources: Overlay, what: Module, code: str) -> None:
    with pytest.raises(Problem) as caught:
        sources.parts(what)
    assert (caught.value.code, caught.value.transient) == (code, False)


@pytest.mark.parametrize("link", ["net", "net/ceph", "net/ceph/Makefile"])
def test_links_that_a_patch_made_are_not_followed(sources: Overlay, tmp_path: Path, link: str) -> None:
    path = sources.top / link
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Problem, match="has neither Kbuild nor Makefile"):
        sources.parts(source("net/ceph/a.c"))
    assert not list((tmp_path / "elsewhere").parent.rglob("elsewhere/**/Kbuild.kernel"))
