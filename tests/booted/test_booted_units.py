"""The units beside the daemon: who waits for modules at boot, and who is told of failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from nspawn import HELD, Machine, Repository

pytestmark = pytest.mark.booted

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
WAITER = """\
[Unit]
Description=Needs a module
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""
#: The kernel that runs is not one of the container's.
BOOT = """\
[Service]
ExecStart=
ExecStart=/usr/bin/kmoddctl gate --kernel {kernel} --wait {wait}
TimeoutStartSec={wait}
"""
HOOK = """\
[Unit]
Description=Tells
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo told >>/root/told'
[Install]
WantedBy=kmodd-failed.target
"""
LOGIN = """\
[Unit]
Description=Lets people in
Wants=network.target
After=network.target
[Service]
ExecStart=/bin/sleep 1d
[Install]
WantedBy=multi-user.target
"""


def told(machine: Machine) -> int:
    return len((machine.root / "root/told").read_text().split())


def have_hook(machine: Machine) -> None:
    """Be told of failures."""
    machine.write("/root/told", "")
    machine.write("/etc/systemd/system/tell.service", HOOK)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "tell")


def test_at_boot_who_needs_modules_waits_and_nobody_else(machine: Machine, repository: Repository) -> None:
    """As long as the running kernel lacks a module, services that ask for it wait; a login does not."""
    machine.write("/etc/systemd/system/storage.service", WAITER)
    example = (EXAMPLES / "wait-for-module.conf").read_text()
    machine.write("/etc/systemd/system/storage.service.d/modules.conf", example)
    machine.write("/etc/systemd/system/letin.service", LOGIN)
    boot = BOOT.format(kernel=repository.new, wait="10min")
    machine.write("/etc/systemd/system/kmodd-boot.service.d/kernel.conf", boot)
    machine.run("systemctl", "enable", "storage", "letin")
    machine.hold()
    machine.add("tardy", HELD)
    machine.power_off()
    machine.start(whole=False)
    machine.wait(lambda: machine.active("kmodd-boot") == "activating", "the unit")
    machine.wait(lambda: machine.active("letin") == "active", "a login")
    assert machine.active("network.target") == "active"
    assert (machine.active("kmodd-boot"), machine.active("storage")) == ("activating", "inactive")
    machine.release()
    machine.wait(lambda: machine.active("storage") == "active", "the service that needs a module")
    assert machine.active("kmodd-boot") == "active"
    assert machine.target("tardy", repository.new)["verdict"] == "ready"


def test_who_wants_to_be_told_of_failures_is_each_time(machine: Machine, repository: Repository) -> None:
    have_hook(machine)
    machine.write("/etc/systemd/system/storage.service", WAITER)
    machine.write("/etc/systemd/system/storage.service.d/modules.conf", (EXAMPLES / "wait-for-module.conf").read_text())
    boot = BOOT.format(kernel=repository.new, wait="10min")
    machine.write("/etc/systemd/system/kmodd-boot.service.d/kernel.conf", boot)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "storage")
    machine.add("broken", "$(error this does not build)\n")
    machine.wait_for("broken", repository.new, "failed")
    for times in (1, 2):
        machine.run("systemctl", "restart", "kmodd-boot", check=False)
        machine.wait(lambda times=times: told(machine) == times, "the hook")  # type: ignore[misc]
        assert machine.active("kmodd-boot") == "failed"
        assert machine.active("storage") == "inactive"  # it requires what failed


def test_a_daemon_that_gave_up_is_told_and_tried_again_when_a_kernel_comes(
    machine: Machine, repository: Repository
) -> None:
    have_hook(machine)
    settings = (machine.root / "etc/kmodd/kmodd.toml").read_text()
    machine.write("/etc/kmodd/kmodd.toml", "[daemon]\nquite = 1\n")
    limit = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n[Service]\nRestartSec=100ms\n"
    machine.write("/etc/systemd/system/kmodd.service.d/limit.conf", limit)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "kmodd", check=False)
    machine.wait(lambda: machine.active("kmodd") == "failed", "it to give up")
    machine.wait(lambda: told(machine) == 1, "the hook")
    assert machine.journal("-u", "kmodd", "MESSAGE_ID=b1207db397ee44969083df22a793d63f")
    machine.write("/etc/kmodd/kmodd.toml", settings)
    machine.write("/etc/systemd/system/kmodd.service.d/limit.conf", "")  # as if the interval of the limit had passed
    machine.run("systemctl", "daemon-reload")
    machine.run("/usr/lib/kmodd/ring")
    machine.wait(lambda: machine.active("kmodd") == "active", "it to be tried again")
