"""What is read of a kernel from the files of its packages, as they are, half there, or left over."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from kmodd.core.model import Kernel
from kmodd.core.record import Depmod
from kmodd.core.sysroot import Sysroot
from kmodd.host.kernels import NEEDED, KernelReader, read_config
from kmodd.system.moduleindex import MAGIC, identify, read_configuration, read_state

R = "5.14.0-503.el9.x86_64"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root with a kernel and its build tree."""
    add_kernel(tmp_path, R)
    add_tree(tmp_path, R)
    return tmp_path


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def add_kernel(root: Path, release: str) -> Path:
    directory = root / "lib/modules" / release
    put(directory / "modules.order", "kernel/fs/ext4/ext4.ko\nkernel/drivers/net/veth-x.ko\nkernel/fs/gone.ko\n")
    put(directory / "modules.builtin")
    put(directory / "kernel/fs/ext4/ext4.ko.xz")
    put(directory / "kernel/drivers/net/veth-x.ko.xz")
    put(
        directory / "config",
        'CONFIG_A=y\nCONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_HASH="sha512"\n# CONFIG_B is not set\n',
    )
    (directory / "build").symlink_to(f"/usr/src/kernels/{release}")
    return directory


def add_tree(root: Path, release: str) -> Path:
    tree = root / "usr/src/kernels" / release
    for name in NEEDED:
        put(tree / name)
    put(tree / "include/generated/utsrelease.h", f'#define UTS_RELEASE "{release}"\n')
    return tree


def read(root: Path, **more: Any) -> dict[str, Kernel]:
    asked: dict[str, Any] = {"symbols": (), "objects": (), "installed": {}, "devel_packages": {}}
    return KernelReader(Sysroot(root)).read(**{**asked, **more})


def test_whole_kernel(root: Path) -> None:
    (kernel,) = read(root, devel_packages={R: "kernel-devel-1"}, symbols={"CONFIG_A", "CONFIG_B"}).values()
    assert kernel == Kernel(
        release=R,
        architecture="x86_64",
        build_tree=f"/usr/src/kernels/{R}",
        devel_package="kernel-devel-1",
        config={"CONFIG_A": "y", "CONFIG_MODULE_SIG": "y", "CONFIG_MODULE_SIG_HASH": "sha512"},
        compression="xz",
        signature_hash="sha512",
    )


def test_no_kernels_at_all(tmp_path: Path) -> None:
    assert read(tmp_path) == {}
    (tmp_path / "lib/modules").mkdir(parents=True)
    put(tmp_path / "lib/modules/a-file")
    (tmp_path / "lib/modules/.hidden").mkdir()
    assert read(tmp_path) == {}


def test_modules_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "lib/modules")
    with pytest.raises(NotADirectoryError):
        read(tmp_path)


@pytest.mark.parametrize("left", ["extra/m/m.ko", "modules.dep", "weak-updates/m.ko", "vmlinuz.old"])
def test_directory_without_the_kernels_own_files_is_a_leftover(root: Path, left: str) -> None:
    put(root / "lib/modules/5.14.0-70.el9.x86_64" / left)
    assert {r: k.present for r, k in read(root).items()} == {"5.14.0-70.el9.x86_64": False, R: True}


@pytest.mark.parametrize(
    ("release", "flavour", "architecture"),
    [
        ("5.14.0-503.el9.x86_64+debug", "debug", "x86_64"),
        ("5.14.0-503.el9.aarch64+64k", "64k", "aarch64"),
        ("5.14.0-503.el9.x86_64+rt-debug", "rt-debug", "x86_64"),
        ("4.18.0-553.rt7.342.el8.x86_64", "rt", "x86_64"),
        ("6.1.0-18-rt-amd64", "rt", "x86_64"),
        ("6.1.0-18-cloud-amd64", "cloud", "x86_64"),
        ("6.1.0-18-amd64", "", "x86_64"),
        ("6.1.0-18-arm64", "", "aarch64"),
        ("5.14.0-503.el9.ppc64le", "", "ppc64le"),
        ("5.15.0-200.el9uek.x86_64", "", "x86_64"),
        ("6.6.0-custom", "", platform.machine()),
    ],
)
def test_flavour_and_architecture_are_told_from_the_release(
    root: Path, release: str, flavour: str, architecture: str
) -> None:
    add_kernel(root, release)
    found = read(root)[release]
    assert (found.flavour, found.architecture) == (flavour, architecture)


# -- the build tree --------------------------------------------------------------------------------------------------
def drop_tree(root: Path) -> None:
    (root / "usr/src/kernels" / R).rename(root / "usr/src/kernels/away")


def relink(root: Path, to: str) -> None:
    link = root / "lib/modules" / R / "build"
    link.unlink()
    link.symlink_to(to)


def claim(root: Path, release: str) -> None:
    put(root / "usr/src/kernels" / R / "include/generated/utsrelease.h", f'#define UTS_RELEASE "{release}"\n')


TREES: list[tuple[str, Callable[[Path], object], str, str, str]] = [
    ("dangling link", drop_tree, "", "kernel-devel-missing", "is not installed"),
    (
        "dangling link, package there",
        drop_tree,
        "kernel-devel-1",
        "build-tree-incomplete",
        "kernel-devel-1 is installed, but",
    ),
    ("link to itself's file", lambda r: relink(r, "modules.order"), "", "kernel-devel-missing", "is not installed"),
    *(
        (f"no {n}", lambda r, n=n: (r / "usr/src/kernels" / R / n).unlink(), "", "build-tree-incomplete", f"has no {n}")
        for n in NEEDED
    ),
    (
        "of another kernel",
        lambda r: claim(r, f"{R}+debug"),
        "",
        "build-tree-mismatch",
        f"belongs to {R}+debug, not to {R}",
    ),
]


@pytest.mark.parametrize(("damage", "package", "code", "message"), [t[1:] for t in TREES], ids=[t[0] for t in TREES])
def test_tree_that_cannot_be_used(
    root: Path, damage: Callable[[Path], object], package: str, code: str, message: str
) -> None:
    damage(root)
    found = read(root, devel_packages={R: package} if package else {})[R]
    assert found.build_tree is None
    assert found.build_tree_fault is not None
    assert found.build_tree_fault.problem == code
    assert message in found.build_tree_fault.message
    assert ("dnf reinstall kernel-devel-1" if package else f"kernel-devel-uname-r = {R}") in found.build_tree_fault.hint


def test_hint_installs_into_the_root(root: Path) -> None:
    drop_tree(root)
    fault = read(root)[R].build_tree_fault
    assert fault is not None
    assert fault.hint == f"dnf --installroot={root} install 'kernel-devel-uname-r = {R}'"


def test_tree_is_found_without_the_link_and_through_another(root: Path) -> None:
    (root / "lib/modules" / R / "build").unlink()
    assert read(root)[R].build_tree == f"/usr/src/kernels/{R}"
    (root / "usr/src/kernels" / R).rename(root / "srv")
    (root / "lib/modules" / R / "build").symlink_to("../../../srv")
    assert read(root)[R].build_tree == "/srv"


def test_tree_that_appears_is_seen_by_the_same_reader(root: Path) -> None:
    drop_tree(root)
    reader = KernelReader(Sysroot(root))
    assert reader.read((), (), {}, {}, {})[R].build_tree is None
    (root / "usr/src/kernels/away").rename(root / "usr/src/kernels" / R)
    assert reader.read((), (), {}, {}, {})[R].build_tree is not None


# -- configuration and the kernel's own modules ----------------------------------------------------------------------
@pytest.mark.parametrize("place", ["lib/modules/{}/config", "usr/src/kernels/{}/.config", "boot/config-{}"])
def test_configuration_is_read_from_where_it_is(root: Path, place: str) -> None:
    (root / "lib/modules" / R / "config").unlink()
    if "boot" in place:
        drop_tree(root)
    put(root / place.format(R), "CONFIG_X=m\n")
    assert read(root, symbols={"CONFIG_X"})[R].config == {"CONFIG_X": "m"}


def test_symbols_are_read_without_quotes_and_only_those_asked_for(tmp_path: Path) -> None:
    path = put(tmp_path / "config", 'CONFIG_A="gcc (GCC) 11"\nCONFIG_AB=y\n# CONFIG_B is not set\nCONFIG_C=0x10\n')
    wanted = {"CONFIG_A", "CONFIG_B", "CONFIG_C"}
    assert read_config(path, wanted) == {"CONFIG_A": "gcc (GCC) 11", "CONFIG_C": "0x10"}


def test_kernel_that_knows_no_signatures(root: Path) -> None:
    put(root / "lib/modules" / R / "config", "# CONFIG_MODULE_SIG is not set\n")
    assert read(root)[R].signature_hash == ""


@pytest.mark.parametrize(
    ("suffix", "config", "expected"),
    [
        ("", "XZ", ""),
        (".xz", "ZSTD", "xz"),
        (".zst", "XZ", "zst"),
        (".gz", "", "gz"),
        (None, "ZSTD", "zst"),
        (None, "", ""),
    ],
)
def test_compression_is_that_of_the_files_else_of_the_configuration(
    root: Path, suffix: str, config: str, expected: str
) -> None:
    directory = root / "lib/modules" / R
    for path in list((directory / "kernel").rglob("*.ko.xz")):
        path.unlink()
    if suffix is not None:
        put(directory / "kernel/x.ko").rename(directory / f"kernel/x.ko{suffix}")
    put(directory / "config", f"CONFIG_MODULE_COMPRESS_{config}=y\n" if config else "")
    assert read(root)[R].compression == expected


def test_own_modules_are_those_listed_and_installed(root: Path) -> None:
    asked = {"ext4", "veth_x", "gone", "other"}
    assert read(root, objects=asked)[R].in_tree == {"ext4", "veth_x"}
    assert read(root, objects=())[R].in_tree == frozenset()


# -- depmod ----------------------------------------------------------------------------------------------------------
OURS = "extra/m/m.ko"
EMPTY = MAGIC + (12).to_bytes(4, "big")  # an index without a node


def depmod(root: Path, *names: str, time: float = 4e9) -> None:
    directory = root / "lib/modules" / R
    path = put(directory / "modules.dep", "".join(f"{n}:\n" for n in ("kernel/fs/ext4/ext4.ko.xz", *names)))
    os.utime(path, (time, time))
    for name in ("dep", "alias", "symbols"):
        (directory / f"modules.{name}.bin").write_bytes(EMPTY)
    for name in ("alias", "symbols", "softdep"):
        put(directory / f"modules.{name}", "# a comment\n")


def stale(root: Path, *installed: str, last: Optional[Depmod] = None) -> str:
    return look(root, *installed, last=last).depmod_stale


def look(root: Path, *installed: str, last: Optional[Depmod] = None) -> Kernel:
    ours = {R: dict.fromkeys(installed, "sha")} if installed else {}
    return read(root, installed=ours, depmods={R: last} if last else {})[R]


def ran(root: Path, *installed: str, **more: Any) -> Depmod:
    """Return the record of a depmod that ran with what is there now."""
    inputs = identify(dict.fromkeys(installed, "sha"), read_configuration(Sysroot(root))[0])
    return Depmod(**{"inputs": inputs, "outputs": read_state(root / "lib/modules" / R), **more})


def test_depmod_is_not_missed_where_nothing_of_ours_is(root: Path) -> None:
    assert stale(root) == ""
    depmod(root)
    assert stale(root) == ""


def test_depmod_that_saw_everything_is_fresh(root: Path) -> None:
    put(root / "lib/modules" / R / OURS)
    depmod(root, OURS)
    assert stale(root, OURS) == ""


def test_depmod_that_is_stale_says_why(root: Path) -> None:
    put(root / "lib/modules" / R / OURS)
    assert stale(root, OURS) == "modules.dep is missing"
    depmod(root)
    assert stale(root, OURS) == f"modules.dep does not list {OURS}"
    depmod(root, OURS, "extra/gone.ko")
    assert stale(root, OURS) == "modules.dep lists extra/gone.ko, which is gone"
    assert stale(root) == "modules.dep lists extra/gone.ko, which is gone"
    depmod(root, OURS, time=1)
    assert stale(root, OURS) == "files changed since it last ran"
    depmod(root, OURS)
    (root / "lib/modules" / R / "modules.dep.bin").unlink()
    assert stale(root, OURS) == "modules.dep.bin is missing"


def test_depmod_of_ours_is_compared_by_what_it_saw_and_not_by_clocks(root: Path) -> None:
    put(root / "lib/modules" / R / OURS)
    depmod(root, OURS, time=1)
    last = ran(root, OURS)
    assert stale(root, OURS, last=last) == ""  # although it is older than what it lists
    assert stale(root, OURS, last=last.model_copy(update={"inputs": "other"})) == "files changed since it last ran"
    put(root / "etc/depmod.d/foreign.conf", "search updates\n")
    assert stale(root, OURS, last=last) == "files changed since it last ran"
    assert stale(root, OURS, last=ran(root, OURS)) == ""


def test_depmod_that_did_not_help_is_not_missed_again_until_something_changes(root: Path) -> None:
    ours = put(root / "lib/modules" / R / OURS)
    put(root / "lib/modules" / R / "extra/n/n.ko")
    both = (OURS, "extra/n/n.ko")
    depmod(root, "extra/n/n.ko")
    state = (ours.stat().st_size, ours.stat().st_mtime_ns)
    last = ran(root, *both, omitted={OURS: state})
    assert (look(root, *both, last=last).depmod_stale, look(root, *both, last=last).omitted) == ("", {OURS})
    for changed in (last.model_copy(update={"omitted": {}}), last.model_copy(update={"inputs": "other"})):
        assert stale(root, *both, last=changed) == f"modules.dep does not list {OURS}"
    ours.write_text("another")
    assert stale(root, *both, last=last) == f"modules.dep does not list {OURS}"
