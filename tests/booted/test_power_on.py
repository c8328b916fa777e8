"""Power on: the machine's own kernel, initramfs and disk in QEMU, up to systemd, with our module loaded.

Runs after test_booted, on the machine as that left it. The kernels of the ground have no scriptlets, so that the test
runs dracut, which kernel-core's %posttrans does elsewhere.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from nspawn import Machine, Repository

pytestmark = pytest.mark.booted

LIMIT = 600.0  # seconds until systemd is up in an emulated machine, on a busy one
REPORT = """\
[Unit]
Description=Tells over the second serial line what became of the boot
After=kmodd-boot.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c '{ uname -r; echo; lsmod; echo; systemctl is-active kmodd kmodd-boot systemd-modules-load; echo; \\
    kmoddctl gate --kernel $$(uname -r); echo; modinfo -n hello; echo end; } >/dev/ttyS1 2>&1; \\
    systemctl poweroff --no-block'
[Install]
WantedBy=multi-user.target
"""


def prepare(machine: Machine, release: str) -> None:
    """Make the initramfs of a kernel, as its package would."""
    machine.run("dracut", "--force", "--quiet", "--no-hostonly", f"/boot/initramfs-{release}.img", release)


def power_on(machine: Machine, release: str, work: Path) -> list[str]:
    """Boot a kernel of the powered-off machine in QEMU; returns the parts of what it reported."""
    disk, console, told = work / "disk", work / "console", work / "report"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", machine.root, disk, "5G"], check=True)
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536", "-no-reboot"]
    argv += ["-nodefaults", "-display", "none", "-monitor", "none"]
    argv += ["-serial", f"file:{console}", "-serial", f"file:{told}"]
    argv += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    argv += ["-kernel", str(machine.root / "usr/lib/modules" / release / "vmlinuz")]
    argv += ["-initrd", str(machine.root / "boot" / f"initramfs-{release}.img")]
    argv += ["-append", "root=/dev/vda rw console=ttyS0 nokaslr mitigations=off no_timer_check panic=-1"]
    try:
        subprocess.run(argv, timeout=LIMIT, check=True, capture_output=True)
    except subprocess.SubprocessError as error:
        raise AssertionError(f"{error}\n{console.read_text(errors='replace')[-4000:]}") from error
    text = told.read_text(errors="replace").replace("\r", "")
    assert text.endswith("end\n"), console.read_text(errors="replace")[-4000:]
    disk.unlink()
    return text.split("\n\n")


def check(parts: list[str], release: str) -> None:
    running, loaded, units, gate, place = parts
    assert running == release
    assert "hello" in {line.split()[0] for line in loaded.splitlines()}, loaded
    assert units.split() == ["active", "active", "active"]
    assert gate.startswith(f"{release}: ready")
    assert place.split()[0] == f"/lib/modules/{release}/extra/hello/hello.ko"


def test_after_power_on_the_module_is_loaded(machine: Machine, repository: Repository, tmp_path: Path) -> None:
    machine.write("/etc/systemd/system/report.service", REPORT)
    machine.run("systemctl", "enable", "report.service")
    prepare(machine, repository.new)
    machine.power_off()
    check(power_on(machine, repository.new, tmp_path), repository.new)


def test_after_an_update_and_a_reboot_too(machine: Machine, repository: Repository, tmp_path: Path) -> None:
    (machine.root / "etc/systemd/system/multi-user.target.wants/report.service").unlink()  # it powers off
    machine.start()
    machine.run("rpm", "-i", "--oldpackage", *repository.kernels[repository.old])
    machine.wait_for("hello", repository.old)
    prepare(machine, repository.old)
    machine.run("systemctl", "enable", "report.service")
    machine.power_off()
    check(power_on(machine, repository.old, tmp_path), repository.old)
