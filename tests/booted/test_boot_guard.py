"""The boot guard under a real systemd and its kernel-install: a new kernel is bootable when it is ready, not before.

The boot loader's files are of stand-ins (ground.bootloader); GRUB itself does not run here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ground import bootloader
from nspawn import HELD, Machine, Repository
from patience import wait_until

pytestmark = pytest.mark.booted

RETRY = '[retry]\nfirst = "1s"\nlongest = "2s"\n'


class Server:
    """A machine with a boot loader and one kernel, on which hello is ready. The newer kernel is not installed."""

    def __init__(self, machine: Machine, repository: Repository) -> None:
        self.machine = machine
        self.old, self.new = repository.old, repository.new
        self.core, self.modules, self.devel = repository.kernels[self.new]
        self.repository = repository
        self.scriptlets = {}
        for release in (self.old, self.new):
            made = bootloader.make_scriptlets(release, machine.root / "scriptlets")
            self.scriptlets[release] = f"/scriptlets/{made.name}"
        self.id = (machine.root / "etc/machine-id").read_text().strip()

    def furnish(self, update_default: bool = True) -> None:
        bootloader.furnish(self.machine.root, update_default)
        self.machine.run("rpm", "-e", *self.repository.names(self.new))
        self.machine.wait(lambda: not self.machine.target("hello", self.new), "the removal")
        self.machine.run("rpm", "-i", self.scriptlets[self.old])
        self.editenv("set", f"saved_entry={self.entry(self.old)}")
        self.machine.write("/etc/kmodd/kmodd.toml", RETRY)
        self.machine.run("systemctl", "reload", "kmodd")
        self.wait_for_guard()
        self.stages.unlink(missing_ok=True)

    def wait_for_guard(self) -> None:
        guard = self.machine.root / "var/lib/kmodd/boot/guard"
        self.machine.wait(lambda: guard.exists() and f"fallback {self.old}\n" in guard.read_text(), "the guard")

    def install(self, *more: str) -> None:
        """Install the newer kernel in one transaction, without its kernel-devel unless that is named."""
        self.machine.run("rpm", "-i", self.core, self.modules, self.scriptlets[self.new], *more)

    def entry(self, release: str) -> str:
        return f"{self.id}-{release}"

    def editenv(self, *words: str) -> str:
        return self.machine.run("grub2-editenv", "-", *words)

    @property
    def default(self) -> str:
        found = re.search(r"^saved_entry=(.*)$", self.editenv("list"), re.MULTILINE)
        return found[1] if found else ""

    @property
    def stages(self) -> Path:
        return self.machine.root / "usr/share/stages"

    def has_reached(self, stage: str) -> bool:
        return self.stages.exists() and stage in self.stages.read_text()

    def boot(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.machine.run("kmoddctl", "boot", "--json", check=False))
        return found

    def kernel(self, release: str) -> dict[str, Any]:
        return next((kernel for kernel in self.boot()["kernels"] if kernel["release"] == release), {})

    def is_bootable(self, release: str) -> bool:
        return (self.machine.root / "boot/loader/entries" / f"{self.entry(release)}.conf").exists()

    @property
    def held(self) -> list[str]:
        return sorted(path.name for path in (self.machine.root / "var/lib/kmodd/boot/held").glob("*"))

    def wait_for_release(self) -> None:
        self.machine.wait(lambda: self.is_bootable(self.new) and not self.held, "the release")

    def events(self, *names: str) -> list[str]:
        return [
            str(line["MESSAGE"])
            for line in self.machine.journal("-u", "kmodd")
            if any(n in str(line["MESSAGE"]) for n in names)
        ]

    def hold_at(self, stage: str) -> None:
        self.machine.write("/usr/share/hold-at", stage)

    def go_on(self) -> None:
        (self.machine.root / "usr/share/hold-at").unlink(missing_ok=True)

    def clean(self) -> None:
        self.go_on()
        if not self.machine.leader:
            self.machine.start()
        for release in (self.new, self.old):
            self.machine.run("rpm", "-e", f"kernel-scriptlets-{release}", check=False)
        for name in ("20-grub.install", "50-dracut.install"):
            (self.machine.root / "usr/lib/kernel/install.d" / name).unlink(missing_ok=True)
        (self.machine.root / "usr/local/sbin/dracut").unlink(missing_ok=True)
        self.machine.run("sh", "-c", "rm -rf /boot/* /etc/kernel/install.d/*; rm -f /var/lib/kmodd/boot/held/*")


@pytest.fixture
def server(machine: Machine, repository: Repository, established: None) -> Iterator[Server]:
    made = Server(machine, repository)
    try:
        made.furnish()
        yield made
    finally:
        made.clean()


def test_a_new_kernel_is_bootable_when_its_modules_are_ready_and_not_before(server: Server) -> None:
    boot = server.machine.root / "boot"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in boot.rglob("*") if path.is_file()}
    server.install()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in boot.rglob("*") if path.is_file()} == before
    assert server.held == [server.new]
    server.machine.wait_for("hello", server.new, "waiting")
    kernel = server.kernel(server.new)
    assert (kernel["bootable"], kernel["fit"]) == (False, False) and kernel["held"]
    assert server.kernel(server.old)["fit"]
    assert server.boot()["guard"]["fallback"] == server.old
    assert "held" in server.machine.run("kmoddctl", "status", check=False)
    server.machine.wait(lambda: bool(server.events("kernel held")), "the journal to say so")

    server.machine.run("rpm", "-i", server.devel)
    server.wait_for_release()
    assert server.default == server.entry(server.new)  # UPDATEDEFAULT=yes
    kernel = server.kernel(server.new)
    assert (kernel["bootable"], kernel["held"], kernel["fit"], kernel["default_boot"]) == (True, None, True, True)
    assert (boot / f"initramfs-{server.new}.img").stat().st_size
    assert server.events("kernel released")


def test_the_distribution_decides_whether_the_default_changes(server: Server) -> None:
    server.machine.write("/etc/sysconfig/kernel", "UPDATEDEFAULT=no\n")
    server.install(server.devel)
    server.wait_for_release()
    assert server.default == server.entry(server.old)


def test_a_default_that_nobody_keeps_stays_so(server: Server) -> None:
    """Without saved_entry, GRUB boots the highest version: not while the new kernel's image is half written."""
    server.machine.write("/etc/sysconfig/kernel", "UPDATEDEFAULT=no\n")
    server.editenv("unset", "saved_entry")
    server.hold_at("dracut half in place")
    server.install(server.devel)
    server.machine.wait(lambda: server.has_reached("dracut half in place"), "the image to be written")
    assert server.default == server.entry(server.old)
    server.go_on()
    server.wait_for_release()
    assert server.default == ""
    assert server.boot()["default"]["kernel"] == server.new


@pytest.mark.parametrize(
    "stage", ["dracut half beside", "20-grub image", "20-grub entry", "20-grub default", "dracut half in place"]
)
def test_after_a_power_cut_in_a_release_the_old_kernel_boots_and_it_is_done_again(server: Server, stage: str) -> None:
    server.hold_at(stage)
    server.install(server.devel)
    server.machine.wait(lambda: server.has_reached(stage), stage)
    assert server.default == server.entry(server.old)
    assert server.boot()["default"]["kernel"] == server.old
    server.machine.cut_power()
    server.go_on()
    server.machine.start()
    server.wait_for_release()
    assert server.default == server.entry(server.new)


def test_a_release_that_fails_leaves_the_default_and_is_tried_again(server: Server) -> None:
    server.machine.write("/usr/share/dracut-fails", "")
    server.install(server.devel)
    server.machine.wait(lambda: bool(server.events("kernel not released")), "the failure")
    assert server.default == server.entry(server.old)
    assert server.held == [server.new]
    tried = server.kernel(server.new)["last_release"]
    assert tried["problem"] == "initramfs-failed" and "hello" in tried["message"]
    (server.machine.root / "usr/share/dracut-fails").unlink()
    server.wait_for_release()
    assert server.kernel(server.new)["last_release"] is None


def test_what_an_administrator_asks_for_is_done(server: Server) -> None:
    server.install()
    refused = server.machine.run("sh", "-c", f"kmoddctl boot release {server.new} 2>&1; echo $?")
    assert f"{server.new} is not ready" in refused and "--force" in refused and refused.endswith("1\n")
    assert not server.is_bootable(server.new)
    server.machine.run("kmoddctl", "boot", "release", server.new, "--force")
    assert server.is_bootable(server.new) and server.held == []
    assert server.default == server.entry(server.new)


def test_a_kernel_that_is_removed_while_it_is_held_is_forgotten(server: Server) -> None:
    server.install()
    assert server.held == [server.new]
    names = [name for name in server.repository.names(server.new) if "devel" not in name]
    server.machine.run("rpm", "-e", f"kernel-scriptlets-{server.new}", *names)
    server.machine.wait(lambda: server.held == [], "it to be forgotten")
    assert not server.is_bootable(server.new) and server.default == server.entry(server.old)


def test_the_guard_that_is_off_holds_nothing(server: Server) -> None:
    server.install()
    server.machine.write("/etc/kmodd/kmodd.toml", RETRY + '[boot]\nguard = "off"\n')
    server.machine.run("systemctl", "reload", "kmodd")
    server.wait_for_release()
    assert "hold no" in (server.machine.root / "var/lib/kmodd/boot/guard").read_text()


def test_removing_kmodd_makes_what_is_held_bootable(server: Server) -> None:
    server.install()
    server.machine.run("rpm", "-e", "kmodd")
    server.machine.wait(lambda: server.is_bootable(server.new), "the kernel to be bootable")
    unit = server.machine.root / "etc/systemd/system/kmodd-release-held.service"
    server.machine.wait(lambda: not unit.exists(), "the unit to go")
    assert server.held == []


def test_removing_kmodd_outlives_a_power_cut(server: Server) -> None:
    server.install()
    server.hold_at("20-grub image")
    server.machine.run("rpm", "-e", "kmodd")
    server.machine.wait(lambda: server.has_reached("20-grub image"), "the release")
    server.machine.cut_power()
    server.go_on()
    server.machine.start()
    unit = server.machine.root / "etc/systemd/system/kmodd-release-held.service"
    server.machine.wait(lambda: server.is_bootable(server.new) and not unit.exists(), "the kernel to be bootable")


def test_removing_kmodd_where_systemd_does_not_run_says_what_to_do(server: Server) -> None:
    server.install()
    hidden = "mount -t tmpfs tmpfs /run/systemd; /usr/lib/kmodd/leave-held"
    said = server.machine.run("unshare", "--mount", "sh", "-c", hidden)
    line = f"kernel-install add {server.new} /lib/modules/{server.new}/vmlinuz"
    assert said == f"{server.new} is not bootable yet: {line}\n"


# -- an orderly reboot -------------------------------------------------------------------------------------------------
def begin_build(server: Server) -> None:
    """Have the new kernel held, and a build for it that takes until Machine.release."""
    server.machine.add("slow", HELD, ("--at-boot", "slow"))
    server.machine.wait_for("slow", server.old)
    server.machine.hold()
    server.install(server.devel)
    server.machine.wait(lambda: server.machine.target("slow", server.new).get("verdict") == "building", "the build")
    assert server.held == [server.new]


def test_a_reboot_waits_until_the_kernel_that_is_being_built_is_bootable(server: Server) -> None:
    machine = server.machine
    machine.run("systemctl", "start", "kmodd-shutdown.service")
    begin_build(server)
    machine.run("systemctl", "restart", "kmodd-shutdown.service")  # nothing reboots, so that nothing waits
    machine.run("systemctl", "reboot", "--no-block")
    machine.wait(lambda: machine.active("kmodd-shutdown.service") == "deactivating", "the reboot to wait")
    assert machine.active("kmodd.service") == machine.active("dbus.service") == "active"
    assert not server.is_bootable(server.new)
    machine.release()
    wait_until(lambda: machine.nspawn is not None and machine.nspawn.poll() is not None, "the end")
    assert server.is_bootable(server.new) and server.held == []


def test_a_reboot_that_waits_can_be_hurried(server: Server) -> None:
    machine = server.machine
    machine.run("systemctl", "start", "kmodd-shutdown.service")
    begin_build(server)
    machine.run("systemctl", "reboot", "--no-block")
    machine.wait(lambda: machine.active("kmodd-shutdown.service") == "deactivating", "the reboot to wait")
    machine.run("kmoddctl", "boot", "hurry")
    wait_until(lambda: machine.nspawn is not None and machine.nspawn.poll() is not None, "the end")
    assert not server.is_bootable(server.new) and server.held == [server.new]
