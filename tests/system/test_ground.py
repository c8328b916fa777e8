"""The ground itself: a kernel's RPMs install into a private root, build, sign and resolve modules, and go again."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest
from ground import cache, debian, kernels, modules, privateroot, rpmfile
from ground.command import GroundError, run

pytestmark = pytest.mark.system

SERIES = "6.1" if kernels.uses_apt() else "5.14"
SOURCE = """
#include <linux/module.h>
#include <linux/usb.h>
static int __init ground_init(void) { pr_info("%d\\n", usb_disabled()); return 0; }
static void __exit ground_exit(void) { }
module_init(ground_init);
module_exit(ground_exit);
MODULE_LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def release() -> str:
    return kernels.pick(SERIES, 1)[0]


@pytest.fixture(scope="module")
def root(release: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ground.", dir=privateroot.find_scratch()) as name:
        made = privateroot.make_root(Path(name) / "root")
        privateroot.rpm(made, "-i", *kernels.make(release, Path(name) / "rpms", slim=True))
        yield made


RELEASES = {
    "6.1.0-56-amd64": "",
    "6.12.117+deb12-amd64": "",
    "6.1.0-56-rt-amd64": "rt",
    "6.12.117+deb12-cloud-amd64": "cloud",
    "6.1.0-0.deb11.22-amd64": "",
    "6.1.0-56-common": None,
    "amd64": None,
}


@pytest.mark.parametrize(("release", "flavour"), RELEASES.items())
def test_flavour_of_a_release_of_debian(release: str, flavour: Optional[str]) -> None:
    assert debian.flavour_of(release) == flavour


@pytest.mark.skipif(not kernels.uses_apt(), reason="flavours are Debian's")
@pytest.mark.parametrize("flavour", ["", "rt", "cloud"])
def test_kernels_of_one_flavour_are_picked(flavour: str) -> None:
    assert {debian.flavour_of(release) for release in kernels.find_kernels(flavour=flavour)} == {flavour}
    assert debian.flavour_of(kernels.pick(SERIES, 1, flavour=flavour)[0]) == flavour


def test_layout_is_that_of_rhel(root: Path, release: str) -> None:
    directory = root / "lib/modules" / release
    for name in ("vmlinuz", "System.map", "config", "symvers.gz", "modules.dep", "modules.order", "modules.builtin"):
        assert (directory / name).stat().st_size > 0, name
    assert os.readlink(directory / "build") == f"/usr/src/kernels/{release}"
    assert os.readlink(directory / "source") == "build"
    tree = root / "usr/src/kernels" / release
    assert gzip.decompress((directory / "symvers.gz").read_bytes()) == (tree / "Module.symvers").read_bytes()
    listed = set((directory / "modules.order").read_text().split())
    assert listed == {str(path.relative_to(directory)).split(".ko")[0] + ".ko" for path in directory.rglob("*.ko*")}


def test_packages_are_found_by_what_they_provide(root: Path, release: str) -> None:
    for name in ("kernel-core", "kernel-modules-core", "kernel-devel"):
        found = privateroot.find_packages(root, f"{name}-uname-r = {release}")
        assert [package.startswith(f"{name}-") for package in found] == [True]
    assert privateroot.find_packages(root, "kernel-devel-uname-r = 1.2.3") == []


def test_build_tree_builds_and_signs_a_module_that_resolves(root: Path, release: str, tmp_path: Path) -> None:
    tree = root / "usr/src/kernels" / release
    (tmp_path / "ground.c").write_text(SOURCE)
    (tmp_path / "Kbuild").write_text("obj-m := ground.o\n")
    log = run(["make", "-C", tree, f"M={tmp_path}", "V=1", "modules"])
    assert "/usr/src/linux-" not in log
    module = tmp_path / "ground.ko"
    run(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ground", "-outform", "PEM",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"])  # fmt: skip
    run([tree / "scripts/sign-file", "sha256", tmp_path / "key.pem", tmp_path / "cert.pem", module])
    assert run(["modinfo", "-F", "signer", module]).strip() == "ground"
    extra = root / "lib/modules" / release / "extra"
    extra.mkdir()
    shutil.move(module, extra / "ground.ko")
    run(["depmod", "-b", root, release])
    needed = run(["modprobe", "-n", "--show-depends", "-d", root, "-S", release, "ground"])
    assert needed.split()[-1].endswith("/extra/ground.ko")
    assert "usbcore.ko" in needed


def test_second_call_gives_the_same_files_at_once(release: str, tmp_path: Path) -> None:
    first = kernels.make(release, tmp_path / "a", slim=True)
    began = time.monotonic()
    second = kernels.make(release, tmp_path / "b", slim=True)
    assert time.monotonic() - began < 0.5
    assert [digest(path) for path in first] == [digest(path) for path in second]
    run(["rpm", "-K", "--nosignature", "--dbpath", tmp_path / "db", *second])


def test_erasing_a_kernel_leaves_only_what_rpm_does_not_own(release: str, tmp_path: Path) -> None:
    root = privateroot.make_root(tmp_path / "root")
    core, packed, _devel = kernels.make(release, tmp_path / "rpms", slim=True)
    with pytest.raises(GroundError, match=f"kernel-modules-core-uname-r = {re.escape(release)}"):
        privateroot.rpm(root, "-i", core)
    privateroot.rpm(root, "-i", core, packed)
    extra = root / "lib/modules" / release / "extra"
    extra.mkdir()
    (extra / "ours.ko").touch()
    run(["depmod", "-b", root, release])
    assert len(privateroot.erase(root, release)) == 2
    assert [path.name for path in sorted(extra.parent.rglob("*"))] == ["extra", "ours.ko"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("6.1.0-56-amd64", ("6.1.0", "56", "")),
        ("6.12.117+deb12-amd64", ("6.12.117+deb12", "1", "")),
        ("6.1.0-56-rt-amd64", ("6.1.0", "56", "-rt")),
    ],
)
def test_release_becomes_version_and_release(name: str, expected: tuple[str, str, str]) -> None:
    assert rpmfile.split_release(name) == expected


OLD_NONE = "A=y\nCONFIG_MODULE_COMPRESS_NONE=y\n# CONFIG_MODULE_COMPRESS_XZ is not set\nB=y\n"
NEW_XZ = "CONFIG_MODULE_COMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y\nCONFIG_MODULE_COMPRESS_ALL=y\nB=y\n"


@pytest.mark.parametrize(
    ("text", "compression", "expected"),
    [
        (OLD_NONE, "xz", "A=y\nCONFIG_MODULE_COMPRESS_XZ=y\nB=y\n"),
        (OLD_NONE, "none", "A=y\nCONFIG_MODULE_COMPRESS_NONE=y\nB=y\n"),
        (NEW_XZ, "zstd", NEW_XZ.replace("XZ", "ZSTD")),
        (NEW_XZ, "none", "# CONFIG_MODULE_COMPRESS is not set\nB=y\n"),
        ("#define CONFIG_MODULE_COMPRESS_NONE 1\n", "xz", "#define CONFIG_MODULE_COMPRESS_XZ 1\n"),
        ("#define CONFIG_MODULE_COMPRESS 1\n#define B 1\n", "none", "#define B 1\n"),
        ("B=y\n", "xz", "B=y\n"),
    ],
)
def test_configuration_says_how_modules_are_compressed(text: str, compression: str, expected: str) -> None:
    assert modules.configured(text, compression) == expected


def test_a_result_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(work: Path) -> None:
        (work / "half").touch()
        raise GroundError("no")

    with pytest.raises(GroundError):
        cache.provide(tmp_path, "kind", "key", fail)
    assert list((tmp_path / "kind").iterdir()) == []


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
