"""Power on: the machine's own kernel, initramfs and disk in QEMU, up to systemd, with our module loaded; then an update
of the kernel on the emulated machine itself, a reboot, and the same for the second kernel.

Runs last, on the machine as the other tests left it. The kernels of the ground have no scriptlets, so that dracut,
which kernel-core's %posttrans runs elsewhere, is run by hand. KMODD_TRANSCRIPT names a file for what was to be seen.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from nspawn import Machine, Repository

pytestmark = pytest.mark.booted

LIMIT = 900.0  # seconds for one power-on of an emulated machine, on a busy one
SERVICE = """\
[Unit]
Description=Shows over the second serial line what became of the boot
After=kmodd-boot.service
[Service]
Type=oneshot
ExecStart=/bin/sh /root/story
StandardOutput=file:/dev/ttyS1
StandardError=inherit
[Install]
WantedBy=multi-user.target
"""
LOOK = (
    "uname -r",
    "lsmod | grep -w hello",
    "cat /proc/cmdline",
    "modinfo --field filename,signer hello",
    "systemctl is-active kmodd kmodd-boot systemd-modules-load",
    "systemctl show --property MemoryMax,MemoryCurrent,OOMPolicy kmodd",
    "kmoddctl gate --kernel $(uname -r)",
)
DRACUT = "dracut --quiet --force --no-hostonly --omit 'crypt lvm multipath network' /boot/initramfs-{0}.img {0}"
UPDATE = (
    "rpm --install --oldpackage {packages}",
    "kmoddctl gate --kernel {release} --wait 12min",
    DRACUT.replace("{0}", "{release}"),
    "kmoddctl status",
)


def tell(machine: Machine, commands: tuple[str, ...], end: str) -> None:
    """Have the machine run commands at its next boot, show each with its output, and go down."""
    lines = [f'echo {shlex.quote(f"# {command}")}\n{command} 2>&1\necho "= $?"\n' for command in commands]
    machine.write("/root/story", "".join([*lines, f"echo '# {end}'\n", f"{end} --no-block\n"]))
    machine.write("/etc/systemd/system/story.service", SERVICE)
    wanted = machine.root / "etc/systemd/system/multi-user.target.wants/story.service"
    wanted.unlink(missing_ok=True)
    wanted.symlink_to("/etc/systemd/system/story.service")


class Emulated:
    """The machine's disk, kernel and initramfs in QEMU."""

    def __init__(self, machine: Machine, work: Path) -> None:
        self.disk, self.console, self.told = machine.directory / "disk", work / "console", work / "told"
        self.work = work
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", machine.root, self.disk, "6G"], check=True)

    def fetch(self, inside: str) -> Path:
        """Copy a file off the disk."""
        out = self.work / Path(inside).name
        subprocess.run(["debugfs", "-R", f"dump {inside} {out}", self.disk], check=True, capture_output=True)
        assert out.stat().st_size, inside
        return out

    def put(self, file: Path, inside: str) -> None:
        """Replace a file on the disk."""
        commands = f"rm {inside}\nwrite {file} {inside}\n"
        subprocess.run(["debugfs", "-w", "-f", "-", self.disk], input=commands, text=True, check=True)

    def power_on(self, release: str) -> dict[str, str]:
        """Boot a kernel until the machine goes down; returns what it told: command -> output."""
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"]
        argv += ["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]
        argv += ["-serial", f"file:{self.console}", "-serial", f"file:{self.told}"]
        argv += ["-drive", f"file={self.disk},format=raw,if=virtio,cache=unsafe"]
        argv += ["-kernel", str(self.fetch(f"/usr/lib/modules/{release}/vmlinuz"))]
        argv += ["-initrd", str(self.fetch(f"/boot/initramfs-{release}.img"))]
        argv += ["-append", "root=/dev/vda rw console=ttyS0 nokaslr mitigations=off no_timer_check panic=-1"]
        try:
            subprocess.run(argv, timeout=LIMIT, check=True, capture_output=True)
        except subprocess.SubprocessError as error:
            raise AssertionError(f"{error}\n{self.shown()}") from error
        text = self.told.read_text(errors="replace").replace("\r", "")
        if "KMODD_TRANSCRIPT" in os.environ:
            with Path(os.environ["KMODD_TRANSCRIPT"]).open("a") as stream:
                stream.write(text)
        assert text, self.shown()
        parts = [part.partition("\n") for part in ("\n" + text).split("\n# ")[1:]]
        return {command: output for command, _, output in parts}

    def shown(self) -> str:
        return self.console.read_text(errors="replace")[-4000:]


def check(told: dict[str, str], release: str) -> None:
    running, loaded, _, place, units, limits, gate = (told[command] for command in LOOK)
    assert running.startswith(f"{release}\n")
    assert loaded.startswith("hello "), told
    assert f"/lib/modules/{release}/extra/hello/hello.ko" in place and "kmodd" in place
    assert units.startswith("active\nactive\nactive\n"), units
    assert "OOMPolicy=continue" in limits
    assert gate.startswith(f"{release}: ready"), gate


def test_power_on_update_and_reboot_end_with_the_module_loaded(
    machine: Machine, repository: Repository, tmp_path: Path
) -> None:
    old, new = repository.old, repository.new
    machine.wait_for("hello", new)
    assert not machine.target("hello", old)
    machine.run("sh", "-c", DRACUT.format(new))
    update = tuple(u.format(release=old, packages=" ".join(repository.kernels[old])) for u in UPDATE)
    tell(machine, (*LOOK, *update), "systemctl reboot")
    machine.power_off()
    emulated = Emulated(machine, tmp_path)
    told = emulated.power_on(new)
    check(told, new)
    for command in update:
        assert told[command].endswith("= 0"), told[command]

    tell(machine, LOOK, "systemctl poweroff")
    emulated.put(machine.root / "root/story", "/root/story")
    check(emulated.power_on(old), old)
