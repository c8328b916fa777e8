"""The release of a kernel in a root of its own, with programs that stand for kernel-install and dracut.

What the real kernel-install makes of it is in tests/booted/test_boot_guard.py.
"""

from __future__ import annotations

import asyncio
import json
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_bootstate import ID, NEW, OLD, grub, install

from kmodd.core.errors import Problem
from kmodd.core.grubenv import parse
from kmodd.core.sysroot import Sysroot
from kmodd.deploy.kernelinstall import unit_name
from kmodd.reconcile.release import Release

#: Writes an entry, makes it the default, then the initramfs anew, and calls the plugin that keeps the default.
KERNEL_INSTALL = """\
#!/bin/sh
set -e
top={top}
echo "$*" >>$top/calls
[ ! -e $top/fails ] || exit 3
case $1 in
add)
    cp "$top$3" "$top/boot/vmlinuz-$2"
    [ -e $top/forgets ] || cp $top/entry "$top/boot/loader/entries/{id}-$2.conf"
    sed 's/^saved_entry=.*/saved_entry={id}-'$2'/' $top/boot/grub2/grubenv >$top/grubenv
    cat $top/grubenv >$top/boot/grub2/grubenv  # in place, as grub2-editenv does
    [ ! -e $top/breaks ] || head -c 60 $top/image >"$top/boot/initramfs-$2.img"
    ;;
remove) rm -f "$top/boot/vmlinuz-$2" "$top/boot/loader/entries/{id}-$2.conf" ;;
esac
"""
DRACUT = """\
#!/bin/sh
for word; do case $word in */*) out=$word ;; esac; done
[ ! -e {top}/poor ] || {{ head -c 90 {top}/image >"$out"; exit 0; }}
[ ! -e {top}/dies ] || {{ echo "dracut: no room" >&2; exit 1; }}
cp {top}/image "$out"
"""


def member(name: str, data: bytes = b"") -> bytes:
    numbers = (1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + "".join(f"{number:08x}" for number in numbers).encode() + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


PLAIN = member("init", b"#!/bin/sh\n") + member("x.ko", os.urandom(5000)) + member("TRAILER!!!")
EARLY = member("kernel/x86/microcode", b"u" * 100) + member("TRAILER!!!") + b"\0" * 512


class Root:
    """A root with one kernel that boots, and another one that is installed and held."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = top
        self.sysroot = Sysroot(top)
        install(top, OLD)
        install(top, NEW)
        entries = top / "boot/loader/entries"
        (entries / f"{ID}-{NEW}.conf").rename(top / "entry")
        for name in (f"vmlinuz-{NEW}", f"initramfs-{NEW}.img"):
            (top / "boot" / name).unlink()
        grub(top, saved_entry=f"{ID}-{OLD}")
        (top / "image").write_bytes(EARLY + lzma.compress(PLAIN, check=lzma.CHECK_CRC32))
        (top / f"lib/modules/{NEW}").mkdir(parents=True)
        (top / f"lib/modules/{NEW}/vmlinuz").write_bytes(b"MZ")
        held = top / "var/lib/kmodd/boot/held"
        held.mkdir(parents=True)
        (held / NEW).touch()
        (top / "run").mkdir()
        programs = top / "programs"
        programs.mkdir()
        for name, text in (("kernel-install", KERNEL_INSTALL), ("dracut", DRACUT)):
            (programs / name).write_text(text.format(top=top, id=ID))
            (programs / name).chmod(0o755)
        monkeypatch.setenv("KMODD_PROGRAM_PATH", f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin")

    def release(self) -> None:
        asyncio.run(Release(self.sysroot, NEW, (OLD, NEW)).run())

    def fail(self) -> Problem:
        with pytest.raises(Problem) as raised:
            self.release()
        return raised.value

    def touch(self, name: str) -> None:
        (self.top / name).touch()

    @property
    def default(self) -> str:
        return parse((self.top / "boot/grub2/grubenv").read_text()).get("saved_entry", "")

    @property
    def is_held(self) -> bool:
        return (self.top / "var/lib/kmodd/boot/held" / NEW).exists()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    return Root(tmp_path, monkeypatch)


def test_a_release_makes_the_image_the_entry_and_the_default(root: Root) -> None:
    root.release()
    assert root.default == f"{ID}-{NEW}" and not root.is_held
    assert (root.top / f"boot/initramfs-{NEW}.img").read_bytes() == (root.top / "image").read_bytes()
    assert (root.top / "calls").read_text() == f"add {NEW} /lib/modules/{NEW}/vmlinuz\n"
    assert not list((root.top / "boot").glob(".*")) and not list((root.top / "run/kmodd").iterdir())


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("fails", "kernel-install-failed"),
        ("forgets", "kernel-install-failed"),
        ("breaks", "initramfs-failed"),
        ("dies", "initramfs-failed"),
        ("poor", "initramfs-failed"),
    ],
)
def test_a_release_that_fails_leaves_the_default_and_can_be_repeated(root: Root, how: str, code: str) -> None:
    root.touch(how)
    problem = root.fail()
    assert (problem.code, problem.transient) == (code, True)
    assert root.default == f"{ID}-{OLD}" and root.is_held
    assert not list((root.top / "boot").glob(".*"))
    assert (root.top / "calls").exists() == (how in ("fails", "forgets", "breaks"))  # no entry without an image
    (root.top / how).unlink()
    root.release()
    assert root.default == f"{ID}-{NEW}" and not root.is_held


def test_no_kernel_is_released_with_another_build_of_a_module_in_its_image(root: Root) -> None:
    """As dracut takes it from weak-updates, or where a module is built again meanwhile."""
    inside = f"lib/modules/{NEW}/extra/hello.ko"
    installed = root.top / inside
    installed.parent.mkdir()
    installed.write_bytes(b"new")
    whole = member(f"usr/{inside}", b"old") + PLAIN
    (root.top / "image").write_bytes(EARLY + lzma.compress(whole, check=lzma.CHECK_CRC32))
    problem = root.fail()
    assert problem.code == "initramfs-failed" and f"another build of hello (usr/{inside})" in problem.message
    assert root.default == f"{ID}-{OLD}" and root.is_held
    installed.write_bytes(b"old")
    root.release()
    assert root.default == f"{ID}-{NEW}"


def test_a_default_that_nobody_kept_is_kept_only_while_it_is_released(root: Root) -> None:
    grub(root.top, boot_success="1")
    root.touch("breaks")
    assert root.fail().code == "initramfs-failed"
    assert root.default == f"{ID}-{OLD}"  # whatever has the highest version would be the one that is broken
    noted = json.loads((root.top / "var/lib/kmodd/boot/held" / NEW).read_text())
    assert noted["was"] == ""
    (root.top / "breaks").unlink()
    grub(root.top, boot_success="1", saved_entry=f"{ID}-{OLD}")
    text = (root.top / "programs/kernel-install").read_text()
    (root.top / "programs/kernel-install").write_text(
        "".join(ln for ln in text.splitlines(True) if "grubenv" not in ln)
    )
    root.release()
    assert root.default == ""  # as it was before the first try


def test_a_full_boot_partition_is_told_and_nothing_is_written(root: Root) -> None:
    mounted = root.top / "boot"
    shutil.copytree(mounted, root.top / "kept")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mounted], check=True)
    try:
        shutil.copytree(root.top / "kept", mounted, dirs_exist_ok=True)
        before = sorted(path.name for path in mounted.rglob("*"))
        assert root.fail().code == "boot-full"
        assert sorted(path.name for path in mounted.rglob("*")) == before
        assert root.default == f"{ID}-{OLD}" and root.is_held
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_read_only_boot_partition_is_told(root: Root) -> None:
    mounted = root.top / "boot"
    subprocess.run(["mount", "--bind", mounted, mounted], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
        assert root.fail().code in ("initramfs-failed", "boot-unwritable", "read-only")
        assert root.default == f"{ID}-{OLD}" and root.is_held
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_kernel_that_went_is_not_released(root: Root) -> None:
    (root.top / f"lib/modules/{NEW}/vmlinuz").unlink()
    assert root.fail().code == "kernel-unknown"
    assert not (root.top / "calls").exists()


def test_a_damaged_environment_is_made_whole(root: Root) -> None:
    (root.top / "boot/grub2/grubenv").write_bytes(b"")
    root.release()
    assert (root.top / "boot/grub2/grubenv").stat().st_size == 1024


@pytest.mark.parametrize("release", ["5.14.0-427.13.1.el9_4.x86_64+rt", "6.1~rc1^x", "a:b.c"])
def test_the_name_of_the_unit_is_escaped_as_systemd_does(release: str) -> None:
    done = subprocess.run(["systemd-escape", release], capture_output=True, text=True, check=True)
    assert unit_name(release) == f"kmodd-release-{done.stdout.strip()}.service"
