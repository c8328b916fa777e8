"""Power on: the machine's own kernel, initramfs and disk in QEMU, up to systemd, with our module loaded; then an update
of the kernel, a reboot, and the same for the second kernel.

The update is made by dnf on the booted container, which takes
seconds where an emulated machine takes minutes. The kernels of the ground have no scriptlets, so that dracut, which
kernel-core's %posttrans runs elsewhere, is called by hand. KMODD_TRANSCRIPT names a file for all that was to be seen.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from nspawn import Machine, Repository
from patience import LIMIT

pytestmark = pytest.mark.booted

SERVICE = """\
[Unit]
Description=Shows over the second serial line what became of the boot
After=kmodd-boot.service
[Service]
Type=oneshot
ExecStart=/bin/sh /root/story
StandardOutput=file:/dev/ttyS1
StandardError=inherit
Environment=NO_COLOR=1
[Install]
WantedBy=multi-user.target
"""
LOOK = (
    "uname -r",
    "lsmod | grep -w hello",
    "modinfo -F filename hello; modinfo -F signer hello",
    "systemctl is-active kmodd.service kmodd-boot.service systemd-modules-load.service",
    "kmoddctl status",
    "kmoddctl gate --kernel $(uname -r)",
)
DAEMON = "systemctl show --property MainPID,NRestarts,ActiveState,MemoryMax kmodd"
#: Under the unit's own limits, by the second version of control groups: a module whose build takes all memory.
EATER = "$(obj)/eater.o: $(obj)/eaten\n$(obj)/eaten: ; python3 -c 'x = b\"x\" * 1000000000'\n"
GREED = (
    DAEMON,
    "cat /proc/$(systemctl show --value --property MainPID kmodd)/oom_score_adj",
    "kmoddctl add /usr/src/eater-1.0",
    "kmoddctl sync 2>&1 | cat",
    "kmoddctl explain eater",
    f"{DAEMON} # again",
    "cat /sys/fs/cgroup/system.slice/kmodd.service/memory.events",
    "systemd-analyze security kmodd.service | tail -n 1",
)


TRANSCRIPT = os.environ.get("KMODD_TRANSCRIPT")
INTRODUCTION = """\
# From power on to an update, a reboot, and the module in the new kernel

Captured by `make power-on`: a Debian system with rpm, dnf and kmodd's package, and kernels as RPMs. Each power on is
QEMU with that system's disk, kernel and initramfs. The update is made on the same system, booted as a container.
"""


def show(title: str, text: str) -> None:
    """Add to the transcript, if one is wanted."""
    if TRANSCRIPT:
        path = Path(TRANSCRIPT)
        before = path.read_text() if path.exists() else INTRODUCTION
        path.write_text(f"{before}\n## {title}\n\n```\n{text.strip()}\n```\n")


def power_on(machine: Machine, release: str, commands: tuple[str, ...], work: Path) -> dict[str, str]:
    """Boot a kernel of the powered-off machine in QEMU and have it run commands; returns what each printed."""
    lines = [f'echo {shlex.quote(f"# {command}")}\n{command} 2>&1\necho "= $?"\n' for command in commands]
    machine.write("/root/story", "".join([*lines, "systemctl poweroff --no-block\n"]))
    machine.write("/etc/systemd/system/story.service", SERVICE)
    wanted = machine.root / "etc/systemd/system/multi-user.target.wants/story.service"
    wanted.symlink_to("/etc/systemd/system/story.service")
    disk, console, told = machine.directory / "disk", work / f"console-{release}", work / f"told-{release}"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", machine.root, disk, "6G"], check=True)
    wanted.unlink()  # it powers off
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536", "-no-reboot"]
    argv += ["-nodefaults", "-display", "none", "-monitor", "none"]
    argv += ["-serial", f"file:{console}", "-serial", f"file:{told}"]
    argv += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    argv += ["-kernel", str(machine.root / "usr/lib/modules" / release / "vmlinuz")]
    argv += ["-initrd", str(machine.root / "boot" / f"initramfs-{release}.img")]
    argv += ["-append", "root=/dev/vda rw console=ttyS0 nokaslr mitigations=off no_timer_check panic=-1"]
    try:
        subprocess.run(argv, timeout=3 * LIMIT, check=True, capture_output=True)
    except subprocess.SubprocessError as error:
        raise AssertionError(f"{error}\n{told.read_text()}\n{console.read_text(errors='replace')[-4000:]}") from error
    finally:
        disk.unlink()
    text = told.read_text(errors="replace").replace("\r", "")
    parts = [part.partition("\n") for part in ("\n" + text).split("\n# ")[1:]]
    answers = {command: output for command, _, output in parts}
    assert set(answers) == set(commands), f"{text}\n{console.read_text(errors='replace')[-4000:]}"
    return answers


def check(told: dict[str, str], release: str) -> None:
    shown = "\n".join(f"# {command}\n{told[command].rpartition('= ')[0]}" for command in LOOK)
    show(f"Power on, kernel {release}", shown)
    running, loaded, place, units, _, gate = (told[command] for command in LOOK)
    assert running.startswith(f"{release}\n")
    assert loaded.startswith("hello "), told
    assert place.startswith(f"/lib/modules/{release}/extra/hello/hello.ko\nkmodd "), place
    assert units.startswith("active\nactive\nactive\n"), units
    assert gate.startswith(f"{release}: ready"), gate


#: No more than this disk needs: all that dracut knows would take minutes.
DRACUT = (
    "dracut --quiet --force --no-hostonly --no-compress --drivers 'virtio_blk virtio_pci ext4' "
    "--modules 'base systemd systemd-initrd udev-rules kernel-modules rootfs-block fs-lib'"
)


def make_initramfs(machine: Machine, release: str) -> None:
    machine.run("sh", "-c", f"{DRACUT} /boot/initramfs-{release}.img {release} 2>&1")


def test_after_power_on_the_module_is_loaded(machine: Machine, repository: Repository, tmp_path: Path) -> None:
    """The first kernel is the older one. A build that takes all memory fails, and nothing else."""
    machine.run("rpm", "-e", *repository.names(repository.new))
    machine.wait(lambda: not machine.target("hello", repository.new), "the removal")
    make_initramfs(machine, repository.old)
    machine.lay_out("eater", EATER)
    machine.power_off()
    told = power_on(machine, repository.old, (*LOOK, *GREED), tmp_path)
    check(told, repository.old)
    show("A build that takes all memory", "\n".join(f"# {c}\n{told[c].rpartition('= ')[0]}" for c in GREED[1:]))
    before, score, _, _, story, after, events, exposure = (told[command] for command in GREED)
    assert "ActiveState=active" in before and before == after
    assert score.startswith("-500\n")
    assert "the build ran out of memory" in story, story
    assert "oom_kill 0\n" not in events and "oom_kill " in events, events
    (level,) = re.findall(r"Overall exposure level for kmodd.service: ([0-9.]+)", exposure)
    assert float(level) <= 3.0


def test_after_an_update_and_a_reboot_it_is_loaded_too(
    machine: Machine, repository: Repository, tmp_path: Path
) -> None:
    machine.run("rpm", "-e", *repository.names(repository.new))
    machine.wait(lambda: not machine.target("hello", repository.new), "the removal")
    update = "dnf --assumeyes upgrade"
    shown = [f"# {update}", machine.run("sh", "-c", f"{update} 2>&1")]
    gate = f"kmoddctl gate --kernel {repository.new} --wait 10min"
    shown += [f"# {gate}", machine.run("sh", "-c", f"{gate} 2>&1")]
    make_initramfs(machine, repository.new)
    shown += ["# dracut\n"]
    shown += ["# kmoddctl status", machine.run("kmoddctl", "status"), "# reboot"]
    machine.power_off()
    show("Update and reboot", "\n".join(shown))
    check(power_on(machine, repository.new, LOOK, tmp_path), repository.new)
