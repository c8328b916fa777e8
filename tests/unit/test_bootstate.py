"""What is read of the boot loader: entries and what they lack, defaults that lead nowhere, and nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmodd.core.booting import Booting, Hold
from kmodd.core.errors import Problem
from kmodd.core.grubenv import BLOCK, is_whole, parse, render
from kmodd.core.sysroot import Sysroot
from kmodd.deploy.grubenvironment import GrubEnvironment
from kmodd.host.bootloader import MOST, BootReader
from kmodd.host.bootstate import BootStateReader

ID = "8e4d7a3c9d0b4f6e9a3a1c5f2b7d6e80"
OLD, NEW = "5.14.0-70.el9.x86_64", "5.14.0-427.13.1.el9_4.x86_64"
IMAGE, CPIO = b"MZ\0\0", b"070701" + b"0" * 200


def install(root: Path, release: str, boot: str = "boot", name: str = "", initrd: str = "", **fields: str) -> None:
    """Write an entry, its kernel and its initramfs as kernel-install does."""
    entry = root / boot / "loader/entries" / f"{name or f'{ID}-{release}'}.conf"
    entry.parent.mkdir(parents=True, exist_ok=True)
    said = {"title": f"Rocky ({release})", "version": release, "linux": f"/vmlinuz-{release}", **fields}
    lines = [f"{key} {value}\n" for key, value in said.items()]
    entry.write_text("".join([*lines, f"initrd {initrd or f'/initramfs-{release}.img $tuned_initrd'}\n"]))
    (root / boot / f"vmlinuz-{release}").write_bytes(IMAGE)
    (root / boot / f"initramfs-{release}.img").write_bytes(CPIO)


def grub(root: Path, **variables: str) -> None:
    (root / "boot/grub2").mkdir(parents=True, exist_ok=True)
    (root / "boot/grub2/grubenv").write_bytes(render(variables))


def read(root: Path, *releases: str) -> Booting:
    sysroot = Sysroot(root)
    return BootStateReader(sysroot, BootReader(sysroot)).read(releases or (OLD, NEW))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A server with two kernels and GRUB; looking at it changes nothing on /boot."""
    install(tmp_path, OLD)
    install(tmp_path, NEW)
    grub(tmp_path, saved_entry=f"{ID}-{OLD}")
    yield tmp_path


def picture(root: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_grub_with_entries(root: Path) -> None:
    before = picture(root)
    found = read(root)
    assert picture(root) == before
    assert (found.loader, found.default, found.boots_next, found.saved) == (
        "grub-bls",
        f"{ID}-{OLD}",
        OLD,
        f"{ID}-{OLD}",
    )
    assert [entry.release for entry in found.entries or ()] == [NEW, OLD]
    entry = found.of(NEW)
    assert entry is not None and entry.fault is None
    assert (entry.image, entry.initrds) == (f"/boot/vmlinuz-{NEW}", (f"/boot/initramfs-{NEW}.img",))
    assert found.faults == () and found.bootable(OLD) and not found.bootable("6.1.0")


def lose(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


def write(path: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / path).write_bytes(data)


def pipe(path: str) -> Callable[[Path], object]:
    return lambda root: [(root / path).unlink(), os.mkfifo(root / path)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lose(f"boot/vmlinuz-{NEW}"), "cannot be read"),
        (lose(f"boot/initramfs-{NEW}.img"), "cannot be read"),
        (write(f"boot/initramfs-{NEW}.img", b""), "is empty"),
        (write(f"boot/initramfs-{NEW}.img", b"<html>"), "is no initramfs"),
        (pipe(f"boot/initramfs-{NEW}.img"), "not a plain file"),
    ],
)
def test_an_entry_that_would_not_boot(root: Path, change: Callable[[Path], object], said: str) -> None:
    change(root)
    found = read(root).of(NEW)
    assert found is not None and found.fault is not None
    assert found.fault.problem == "entry-broken" and said in found.fault.message


@pytest.mark.parametrize(
    ("env", "default", "codes", "next_release"),
    [
        (render({"saved_entry": "gone"}), "", ["default-dangling"], NEW),
        (render({"saved_entry": "7"}), "", ["default-dangling"], NEW),
        (render({"saved_entry": "1"}), "", [], OLD),
        (render({"saved_entry": f"Rocky ({OLD})"}), "", [], OLD),
        (render({}), "", [], NEW),
        (b"", "", ["grubenv-damaged"], NEW),
        (render({"saved_entry": f"{ID}-{OLD}"})[:200], "", ["grubenv-damaged"], OLD),
        (b"\0" * BLOCK, "", ["grubenv-damaged"], NEW),
        (render({}), "GRUB_DEFAULT=gone\n", ["default-dangling"], NEW),
        (render({"next_entry": f"{ID}-{OLD}"}), "GRUB_DEFAULT=0\n", [], OLD),
    ],
)
def test_what_grub_boots_instead(root: Path, env: bytes, default: str, codes: list[str], next_release: str) -> None:
    (root / "boot/grub2/grubenv").write_bytes(env)
    (root / "etc/default").mkdir(parents=True)
    (root / "etc/default/grub").write_text(default)
    found = read(root)
    assert ([fault.problem for fault in found.faults], found.boots_next) == (codes, next_release)
    assert found.pinnable == ("next_entry" if default else "saved_entry")


def test_two_entries_of_one_release_and_one_of_none(root: Path) -> None:
    install(root, NEW, name=f"{ID}-custom", linux="/vmlinuz-gone")
    install(root, "0-rescue", name=f"{ID}-0-rescue", version=f"0-rescue-{ID}")
    found = read(root)
    assert [entry.release for entry in found.entries or ()].count(NEW) == 2
    chosen = found.of(NEW)
    assert chosen is not None and chosen.name == f"{ID}-{NEW}"  # the one that would boot
    assert [entry.name for entry in found.entries or () if not entry.release] == [f"{ID}-0-rescue"]


def test_a_grub_cfg_that_names_the_kernels_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "boot/grub").mkdir(parents=True)
    (tmp_path / "boot/grub/grub.cfg").write_text(f"menuentry 'Debian' {{ linux /boot/vmlinuz-{OLD} }}\n")
    found = read(tmp_path)
    assert (found.loader, found.entries, found.bootable(OLD)) == ("grub-cfg", None, None)
    assert "/boot/grub/grub.cfg names the kernels itself" in found.unknown


def test_systemd_boot_with_counts(tmp_path: Path) -> None:
    install(tmp_path, OLD, boot="efi")
    install(tmp_path, NEW, boot="efi", name=f"{ID}-{NEW}+2-1")
    (tmp_path / "efi/loader/loader.conf").write_text("timeout 3\n")
    found = read(tmp_path)
    assert (found.loader, found.boots_next, found.pinnable) == ("systemd-boot", NEW, "")
    entry = found.of(NEW)
    assert entry is not None and (entry.left, entry.image) == (2, f"/efi/vmlinuz-{NEW}")


def test_no_boot_loader_and_unreadable_files(tmp_path: Path, open_path: Path) -> None:
    assert read(tmp_path).unknown and read(tmp_path).entries is None
    install(open_path, NEW)
    grub(open_path)
    (open_path / "boot/loader").chmod(0)
    before = os.geteuid()
    os.seteuid(65534 if before == 0 else before)
    try:
        found = read(open_path)
    finally:
        os.seteuid(before)
        (open_path / "boot/loader").chmod(0o700)
    assert found.entries is None and "cannot be read" in found.unknown


def test_entries_that_are_pipes_links_to_nowhere_or_too_many_are_no_trap(root: Path) -> None:
    where = root / "boot/loader/entries"
    os.mkfifo(where / "pipe.conf")
    (where / "loop.conf").symlink_to("loop.conf")
    (where / "zero.conf").symlink_to("/dev/zero")
    assert read(root).entries is None or read(root).boots_next == OLD
    (where / "loop.conf").unlink()
    for number in range(MOST + 100):
        (where / f"{number}.conf").write_text(f"linux /x{number}\n")
    assert len(read(root).entries or ()) <= MOST


def test_what_is_held_is_read_with_its_time(root: Path) -> None:
    held = root / "var/lib/kmodd/boot/held"
    held.mkdir(parents=True)
    (held / NEW).touch()
    os.utime(held / NEW, (1000, 1000))
    (held / OLD).write_text('{"since": 500, "was": "x"}')
    (held / "6.1").write_text('{"since": "often"')
    os.utime(held / "6.1", (7, 7))
    found = read(root)
    assert found.held == {NEW: Hold(1000.0), OLD: Hold(500.0, True, "x"), "6.1": Hold(7.0)}
    assert (found.here, found.guards, found.guard) == (False, False, None)  # nothing is guarded below --root


@pytest.mark.parametrize(("text", "system"), [("ID=rocky\nVERSION_ID='9.4'\n", "rocky 9"), ("ID=x\n", "x"), ("", "")])
def test_the_system_is_its_id_and_major_version(root: Path, text: str, system: str) -> None:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/os-release").write_text(text)
    assert read(root).system == system


# -- GRUB's environment ----------------------------------------------------------------------------------------------
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
VALUES = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=30)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_an_environment_block_is_read_as_it_was_written(variables: dict[str, str]) -> None:
    try:
        data = render(variables)
    except Problem as problem:
        assert problem.code == "boot-unwritable"
        return
    assert len(data) == BLOCK and is_whole(data.decode()) and parse(data.decode()) == variables


@settings(suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=3000))
def test_whatever_the_environment_holds_it_is_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("env") / "grubenv"
    path.write_bytes(data)
    environment = GrubEnvironment(path)
    environment.read()
    try:
        environment.set({"saved_entry": "a"})
    except Problem as problem:
        assert problem.code == "boot-unwritable"
    else:
        assert environment.read()["saved_entry"] == "a"


def test_the_environment_is_replaced_not_rewritten(root: Path) -> None:
    """A file that was open before has the old block whole: what GRUB reads is never cut short."""
    path = root / "boot/grub2/grubenv"
    path.chmod(0o640)
    with path.open("rb") as before:
        GrubEnvironment(path).set({"saved_entry": "new", "next_entry": None})
        assert parse(before.read().decode()) == {"saved_entry": f"{ID}-{OLD}"}
    assert parse(path.read_text()) == {"saved_entry": "new"}
    assert path.stat().st_mode & 0o777 == 0o640
    stamp = path.stat().st_mtime_ns
    GrubEnvironment(path).set({"saved_entry": "new", "next_entry": None})
    assert path.stat().st_mtime_ns == stamp


def test_an_environment_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problem) as raised:
        GrubEnvironment(tmp_path).set({"saved_entry": "x"})
    assert raised.value.code == "boot-unwritable"
