"""Which kernel boots next, by the files of grub2 and systemd-boot as the EL family, Fedora and others write them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest

from kmodd.core.sysroot import Sysroot
from kmodd.host.bootloader import VENDOR, BootReader, CommandLines

ID = "8e4d7a3c9d0b4f6e9a3a1c5f2b7d6e80"
OLD, NEW, DEBUG = "5.14.0-70.el9.x86_64", "5.14.0-427.13.1.el9_4.x86_64", "5.14.0-427.13.1.el9_4.x86_64+debug"
KERNELS = {OLD, NEW, DEBUG}


def entry(root: Path, release: str, name: str = "", boot: str = "boot", **fields: str) -> None:
    """Write an entry as kernel-install does on the EL family; rescue has no release of its own."""
    path = root / boot / "loader/entries" / f"{name or f'{ID}-{release}'}.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"title": f"Red Hat ({release})", "version": release, "linux": f"/vmlinuz-{release}", **fields}
    path.write_text("# comment\n\n" + "".join(f"{key} {value}\n" for key, value in said.items() if value))


def grub(root: Path, env: Optional[str] = None, default: Optional[str] = None) -> None:
    (root / "boot/grub2").mkdir(parents=True)
    (root / "etc/default").mkdir(parents=True)
    if env is not None:
        (root / "boot/grub2/grubenv").write_text(f"# GRUB Environment Block\n{env}\n{'#' * 900}")
    if default is not None:
        (root / "etc/default/grub").write_text(default)


def ask(root: Path) -> Optional[str]:
    return BootReader(Sysroot(root)).default(KERNELS)


@pytest.mark.parametrize(
    ("env", "default", "expected"),
    [
        (f"saved_entry={ID}-{OLD}", "GRUB_DEFAULT=saved\n", OLD),
        (f"saved_entry={ID}-{NEW}", None, NEW),
        (f"saved_entry={ID}-{DEBUG}", None, DEBUG),
        (f"saved_entry=Red Hat ({OLD})", None, OLD),
        ("saved_entry=0", None, DEBUG),  # base+debug sorts after base
        ("saved_entry=2", None, OLD),
        ("saved_entry=3", None, ""),  # the rescue entry is the last one
        ("saved_entry=gone", None, DEBUG),
        ("kernelopts=quiet", None, DEBUG),
        (None, None, DEBUG),
        (f"saved_entry={ID}-{NEW}\nnext_entry={ID}-{OLD}", None, OLD),
        (f"saved_entry={ID}-{NEW}\nnext_entry=", None, NEW),
        (f"saved_entry={ID}-{NEW}", 'GRUB_DEFAULT="2"\n', OLD),
        (f"saved_entry={ID}-{NEW}", "GRUB_ENABLE_BLSCFG=false\n", None),
        (f"saved_entry={ID}-{NEW}", "#GRUB_ENABLE_BLSCFG=false\nGRUB_ENABLE_BLSCFG=true\n", NEW),
    ],
)
def test_grub_takes(tmp_path: Path, env: Optional[str], default: Optional[str], expected: Optional[str]) -> None:
    for release in (OLD, NEW, DEBUG):
        entry(tmp_path, release)
    entry(tmp_path, f"0-rescue-{ID}", name=f"{ID}-0-rescue")
    grub(tmp_path, env, default)
    assert ask(tmp_path) == expected


def test_newest_entry_is_told_by_version_and_not_by_the_alphabet(tmp_path: Path) -> None:
    grub(tmp_path)
    entry(tmp_path, OLD)
    entry(tmp_path, NEW)
    assert ask(tmp_path) == NEW


def test_grubenv_on_the_efi_partition_is_found_through_its_link(tmp_path: Path) -> None:
    entry(tmp_path, OLD)
    entry(tmp_path, NEW)
    grub(tmp_path)
    (tmp_path / "boot/efi/EFI/redhat").mkdir(parents=True)
    (tmp_path / "boot/efi/EFI/redhat/grubenv").write_text(f"saved_entry={ID}-{OLD}\n")
    (tmp_path / "boot/grub2/grubenv").symlink_to("../efi/EFI/redhat/grubenv")
    assert ask(tmp_path) == OLD


def test_grub_that_names_kernels_itself_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "boot/grub").mkdir(parents=True)
    (tmp_path / "boot/grub/grub.cfg").write_text("menuentry 'Debian' { linux /boot/vmlinuz-6.1.0-1-amd64 }\n")
    assert ask(tmp_path) is None
    grub(tmp_path, f"saved_entry={ID}-{NEW}")
    assert ask(tmp_path) is None


def test_root_without_a_boot_loader_is_unknown(tmp_path: Path) -> None:
    assert ask(tmp_path) is None


def test_files_that_this_user_cannot_read_are_unknown(open_path: Path) -> None:
    entry(open_path, NEW)
    grub(open_path)
    (open_path / "boot/loader").chmod(0)
    before = os.geteuid()
    if before == 0:  # whom no mode stops
        os.seteuid(65534)
    try:
        assert ask(open_path) is None
    finally:
        os.seteuid(before)
    (open_path / "boot/loader").chmod(0o700)
    assert ask(open_path) == NEW


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        (f"default {ID}-{OLD}.conf\ntimeout 3\n", OLD),
        (f"default {ID}-*70*\n", OLD),
        ("default gone*\n", NEW),
        ("timeout 3\n", NEW),
        (f"#default {ID}-{OLD}.conf\ntimeout 3\n", NEW),
        ("default @saved\n", NEW),  # of another machine: its EFI variables are not ours
    ],
)
@pytest.mark.parametrize("partition", ["boot", "efi", "boot/efi"])
def test_systemd_boot_takes(tmp_path: Path, partition: str, configuration: str, expected: str) -> None:
    for release in (OLD, NEW):
        entry(tmp_path, release, boot=partition, linux=f"/{ID}/{release}/linux")
    (tmp_path / partition / "loader/loader.conf").write_text(configuration)
    assert ask(tmp_path) == expected


def test_systemd_boot_prefers_sort_keys_and_entries_with_tries_left(tmp_path: Path) -> None:
    entry(tmp_path, DEBUG)
    entry(tmp_path, OLD, **{"sort-key": "rhel", "machine-id": ID})
    entry(tmp_path, NEW, name=f"{ID}-{NEW}+0-3", **{"sort-key": "rhel", "machine-id": ID})
    (tmp_path / "boot/loader/loader.conf").write_text("timeout 3\n")
    assert ask(tmp_path) == OLD
    entry(tmp_path, NEW, name=f"{ID}-{NEW}+2-1", **{"sort-key": "rhel", "machine-id": ID})
    assert ask(tmp_path) == NEW


def test_variable_of_the_firmware_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    efivars = tmp_path / "sys/firmware/efi/efivars"
    efivars.mkdir(parents=True)
    (efivars / f"LoaderEntryOneShot-{VENDOR}").write_bytes(b"\x07\0\0\0" + f"{ID}-{OLD}.conf\0".encode("utf-16-le"))
    for release in (OLD, NEW):
        entry(tmp_path, release)
    (tmp_path / "boot/loader/loader.conf").write_text(f"default {ID}-{NEW}.conf\n")
    monkeypatch.setattr(Sysroot, "is_host", property(lambda self: True))
    assert ask(tmp_path) == OLD


# -- command lines ---------------------------------------------------------------------------------------------------
def told(root: Path, release: str = NEW) -> CommandLines:
    return BootReader(Sysroot(root)).command_lines(release)


@pytest.mark.parametrize(
    ("env", "options", "text"),
    [
        (None, "root=/dev/sda ro", "root=/dev/sda ro"),
        ("kernelopts=root=/dev/sda ro ", "$kernelopts quiet", "root=/dev/sda ro quiet"),
        ("tuned_params=isolcpus=1 module.sig_enforce=1", "ro $tuned_params", "ro isolcpus=1 module.sig_enforce=1"),
        (None, "ro $tuned_params", "ro"),
        ('kernelopts=dyndbg="file a.c +p" ro', "$kernelopts", '"dyndbg=file a.c +p" ro'),
        ("x=a\\\nb", "ro $x", "ro a b"),
    ],
)
def test_entry_tells_the_command_line(tmp_path: Path, env: Optional[str], options: str, text: str) -> None:
    entry(tmp_path, NEW, options=options)
    grub(tmp_path, env)
    assert told(tmp_path) == CommandLines((text,))


def test_lines_of_options_add_up(tmp_path: Path) -> None:
    entry(tmp_path, NEW, options="root=/dev/sda\noptions  quiet")
    grub(tmp_path)
    assert told(tmp_path) == CommandLines(("root=/dev/sda quiet",))


def test_variable_that_only_grub_cfg_sets_is_resolved(tmp_path: Path) -> None:
    entry(tmp_path, NEW, options="$kernelopts $tuned_params")
    grub(tmp_path)
    (tmp_path / "boot/grub2/grub.cfg").write_text('set kernelopts="root=/dev/sda ro "\nset tuned_params=""\n')
    assert told(tmp_path) == CommandLines(("root=/dev/sda ro",))


def test_variable_with_several_values_cannot_be_told(tmp_path: Path) -> None:
    entry(tmp_path, NEW, options="ro $tuned_params")
    grub(tmp_path)
    (tmp_path / "boot/grub2/grub.cfg").write_text('set tuned_params="a"\nif x; then\n  set tuned_params="b"\nfi\n')
    assert "tuned_params" in told(tmp_path).unknown
    (tmp_path / "boot/grub2/grubenv").write_text("tuned_params=c\n")
    assert told(tmp_path) == CommandLines(("ro c",))


def test_entry_that_boots_next_settles_between_two_of_one_release(tmp_path: Path) -> None:
    entry(tmp_path, NEW, options="ro")
    entry(tmp_path, NEW, name=f"{ID}-{NEW}~custom", options="ro module.sig_enforce=1")
    grub(tmp_path, f"saved_entry={ID}-{NEW}~custom")
    assert told(tmp_path) == CommandLines(("ro module.sig_enforce=1",))
    (tmp_path / "boot/grub2/grubenv").write_text(f"saved_entry={ID}-{OLD}\n")
    entry(tmp_path, OLD)
    assert set(told(tmp_path).texts) == {"ro", "ro module.sig_enforce=1"}


@pytest.mark.parametrize("directory", ["grub", "grub2"])
def test_kernel_that_only_grub_cfg_names_has_its_line(tmp_path: Path, directory: str) -> None:
    (tmp_path / "boot" / directory).mkdir(parents=True)
    (tmp_path / "boot" / directory / "grub.cfg").write_text(
        f"menuentry x {{\n\tlinux /boot/vmlinuz-{NEW} root=UUID=x ro quiet\n}}\n"
        f"menuentry y {{\n\tlinux /boot/vmlinuz-{NEW} root=UUID=x ro single\n}}\n"
        f"menuentry z {{\n\tlinux /boot/vmlinuz-{NEW}+debug root=UUID=x debug\n}}\n"
    )
    assert told(tmp_path) == CommandLines(("root=UUID=x ro quiet", "root=UUID=x ro single"))
    assert told(tmp_path, DEBUG) == CommandLines(("root=UUID=x debug",))


def test_kernel_without_an_entry_gets_what_kernel_install_writes(tmp_path: Path) -> None:
    (tmp_path / "etc/kernel").mkdir(parents=True)
    (tmp_path / "etc/kernel/cmdline").write_text("root=/dev/sda\nquiet\n")
    assert told(tmp_path) == CommandLines(("root=/dev/sda quiet",))


def test_command_line_that_nothing_speaks_of_is_empty(tmp_path: Path) -> None:
    assert told(tmp_path) == CommandLines(("",))


def test_line_that_grub_would_run_cannot_be_told(tmp_path: Path) -> None:
    entry(tmp_path, NEW, options="ro `x`")
    grub(tmp_path)
    assert "cannot be determined" in told(tmp_path).unknown


def test_systemd_boot_passes_options_as_they_are(tmp_path: Path) -> None:
    entry(tmp_path, NEW, options='a="b c" $x', boot="efi")
    (tmp_path / "efi/loader/loader.conf").write_text("timeout 3\n")
    assert told(tmp_path) == CommandLines(('a="b c" $x',))
