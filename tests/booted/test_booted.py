"""The life of a server under a real systemd: packages by rpm and dnf, kills, reboots, removal, upgrades, the journal.

All on one machine, which each test finds in the same state (baseline.py).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ground import dkmspackage
from nspawn import GREEDY, HELD, Machine, Repository
from patience import pause

pytestmark = pytest.mark.booted

UNITS = ("kmodd.service", "kmodd.socket", "kmodd-boot.service", "kmodd-shutdown.service")


def rpm(machine: Machine, *words: object) -> None:
    machine.run("rpm", *words)


# -- installing --------------------------------------------------------------------------------------------------------
def test_the_package_installs_and_the_preset_enables_it(machine: Machine, repository: Repository) -> None:
    rpm(machine, "-e", "kmodd")
    for directory in ("etc/kmodd", "var/lib/kmodd", "var/cache/kmodd", "var/log/kmodd"):
        shutil.rmtree(machine.root / directory)
    rpm(machine, "-i", repository.kmodd)
    for unit in UNITS:
        assert machine.run("systemctl", "is-enabled", unit).strip() == "enabled"
    assert machine.run("systemd-analyze", "verify", *UNITS, "kmodd-failed.target") == ""
    assert "kmodd-build" in machine.run("getent", "passwd", "kmodd-build")
    assert machine.run("stat", "-c", "%a %U", "/etc/kmodd/keys").strip() == "700 root"
    assert machine.run("rpm", "-V", "kmodd", check=False) == ""
    machine.run("systemctl", "start", "kmodd.service")
    assert machine.run("systemctl", "is-active", "kmodd").strip() == "active"


def test_dnf_installs_a_kernel_and_the_module_is_ready_without_a_hand(machine: Machine, repository: Repository) -> None:
    rpm(machine, "-e", *repository.names(repository.old))
    machine.wait(lambda: not machine.target("hello", repository.old), "the removal")
    core, modules, devel = (Path(path).name.rsplit("-", 2)[0] for path in repository.kernels[repository.old])
    version = Path(repository.kernels[repository.old][0]).name[len(core) + 1 : -len(".x86_64.rpm")]
    machine.run("dnf", "-y", "--quiet", "install", *(f"{name}-{version}" for name in (core, modules, devel)))
    target = machine.wait_for("hello", repository.old)
    (item,) = target["objects"]
    assert (machine.root / item["path"].lstrip("/")).is_file()
    assert machine.run("modinfo", "-k", repository.old, "-F", "signer", "hello").startswith("kmodd ")
    assert "hello" in (machine.root / "etc/modules-load.d/kmodd-hello.conf").read_text()


def test_a_kernel_whose_devel_comes_later_waits_and_then_is_ready(machine: Machine, repository: Repository) -> None:
    core, modules, devel = repository.kernels[repository.new]
    rpm(machine, "-e", *repository.names(repository.new))
    machine.wait(lambda: not machine.target("hello", repository.new), "the removal")
    rpm(machine, "-i", core, modules)
    target = machine.wait_for("hello", repository.new, "waiting")
    assert "dnf install" in target["hint"]
    rpm(machine, "-i", devel)
    machine.wait_for("hello", repository.new)


# -- interrupting ------------------------------------------------------------------------------------------------------
def begin_slow_build(machine: Machine, repository: Repository, name: str) -> int:
    """Register a module whose build is held; returns the daemon's pid once it builds."""
    machine.hold()
    machine.add(name, HELD)
    machine.wait(lambda: machine.target(name, repository.new).get("verdict") == "building", "the build to begin")
    machine.wait(lambda: "make" in machine.run("ps", "-eo", "comm", check=False), "make")
    return machine.pid()


def test_a_daemon_killed_in_mid_build_comes_back_and_ends_the_work(machine: Machine, repository: Repository) -> None:
    pid = begin_slow_build(machine, repository, "killed")
    machine.run("kill", "-9", pid)
    machine.release()
    machine.wait_for("killed", repository.new)
    machine.wait_for("killed", repository.old)
    assert machine.pid() not in (0, pid)


def test_a_stop_in_mid_build_is_quick_and_a_start_goes_on(machine: Machine, repository: Repository) -> None:
    begin_slow_build(machine, repository, "stopped")
    machine.run("systemctl", "stop", "kmodd")
    assert machine.run("systemctl", "show", "-P", "Result", "kmodd").strip() == "success"  # it was not killed for it
    assert "make" not in machine.run("ps", "-eo", "comm").split()
    machine.run("systemctl", "start", "kmodd")
    machine.release()
    machine.wait_for("stopped", repository.new)


def test_a_reboot_in_mid_build_is_healed(machine: Machine, repository: Repository) -> None:
    begin_slow_build(machine, repository, "rebooted")
    machine.reboot()
    assert machine.run("systemctl", "is-active", "kmodd").strip() == "active"
    machine.release()
    machine.wait_for("rebooted", repository.new)


def test_a_power_cut_in_mid_build_is_healed(machine: Machine, repository: Repository) -> None:
    begin_slow_build(machine, repository, "unplugged")
    machine.cut_power()
    machine.start()
    machine.release()
    machine.wait_for("unplugged", repository.new)


def test_a_daemon_that_hangs_is_killed_by_the_watchdog_and_heals(machine: Machine, repository: Repository) -> None:
    machine.configure("watchdog", "[Service]\nWatchdogSec=6s\nRestartSec=1s\n")
    pid = machine.pid()
    machine.run("kill", "-STOP", pid)
    machine.wait(lambda: machine.pid() not in (0, pid), "the watchdog")
    assert "watchdog" in machine.run("journalctl", "-b", "-u", "kmodd", "--no-pager").lower()
    machine.wait(lambda: machine.run("systemctl", "is-active", "kmodd", check=False).strip() == "active", "the restart")
    machine.wait_for("hello", repository.new)
    machine.configure("watchdog")


def test_a_build_that_eats_all_memory_fails_alone(machine: Machine, repository: Repository) -> None:
    machine.configure("memory", "[Service]\nMemoryMax=400M\n")
    pid = machine.pid()
    machine.add("eater", code=GREEDY)
    machine.add("modest")
    target = machine.wait_for("eater", repository.new, "failed")
    assert target["last_attempt"]["problem"] in ("out-of-memory", "build-killed"), target
    machine.wait_for("modest", repository.new)
    assert machine.pid() == pid
    for name in ("eater", "modest"):
        machine.run("kmoddctl", "remove", name)
    machine.configure("memory")


# -- telling -----------------------------------------------------------------------------------------------------------
def test_the_journal_has_fields_and_explains_itself(machine: Machine, repository: Repository) -> None:
    machine.add("broken", "$(error this does not build)\n")
    machine.wait_for("broken", repository.new, "failed")
    fields = ("KMODD_MODULE=broken", f"KMODD_KERNEL={repository.new}", "KMODD_VERDICT=failed")
    entries = machine.journal("-u", "kmodd", *fields)
    assert entries
    entry = entries[-1]
    assert re.fullmatch("[0-9a-f]{32}", entry["MESSAGE_ID"])
    assert entry["PRIORITY"] == "3"
    assert entry["SYSLOG_IDENTIFIER"] == "kmodd"
    explained = machine.run("journalctl", "-b", "-x", "--no-pager", f"MESSAGE_ID={entry['MESSAGE_ID']}")
    assert "░░ Defined-By: kmodd" in explained and "broken" in explained
    machine.run("kmoddctl", "remove", "broken")


ALERT = """\
#!/bin/sh
echo "uid $(id -u)"
cat
python3 -c 'import socket; socket.socket(socket.AF_INET)' 2>/dev/null && echo network || echo no network
"""
NETWORK = "[Service]\nPrivateNetwork=no\nRestrictAddressFamilies=AF_INET AF_INET6\n"  # as kmodd.toml(5) has it


def test_metrics_motd_and_command_work_within_the_unit(machine: Machine, repository: Repository) -> None:
    def said() -> list[str]:
        entries = machine.journal("-u", "kmodd", "--grep", "notification command said")
        return [entry["KMODD_LINE"] for entry in entries]

    settings = (machine.root / "etc/kmodd/kmodd.toml").read_text()
    metrics = "/var/lib/node_exporter/kmodd.prom"
    machine.run("mkdir", "-p", "/var/lib/node_exporter")
    machine.write("/usr/local/bin/alert", ALERT)
    machine.run("chmod", "755", "/usr/local/bin/alert")
    machine.write(
        "/etc/kmodd/kmodd.toml", f'[metrics]\ntextfile = "{metrics}"\n[notify]\ncommand = ["/usr/local/bin/alert"]\n'
    )
    machine.run("systemctl", "restart", "kmodd")
    machine.add("mute", "$(error this does not build)\n")
    machine.wait_for("mute", repository.new, "failed")
    machine.wait(lambda: any('"mute"' in line and '"failed"' in line for line in said()), "the command to be told")
    assert f"uid {machine.run('id', '-u', 'kmodd-build').strip()}" in said() and "no network" in said()
    labels = f'module="mute",kernel="{repository.new}",verdict="failed"'
    machine.wait(lambda: f"kmodd_target_verdict{{{labels}}} 1\n" in machine.run("cat", metrics), "the metrics")
    assert f"mute on {repository.new} (failed" in machine.run("cat", "/run/motd.d/kmodd")
    checked = machine.run("setpriv", "--reuid=nobody", "--clear-groups", "kmoddctl", "check", check=False)
    assert re.match(rf"KMODD CRITICAL - .*{re.escape(repository.new)}.*: mute failed", checked)
    assert "not ready, failed" in machine.run("kmoddctl", "gate", "--kernel", repository.new, check=False)

    machine.configure("notify", NETWORK)
    machine.wait(lambda: "network" in said(), "the command to be told again, at the start, with a network")
    machine.run("kmoddctl", "remove", "mute")
    machine.wait(lambda: not machine.target("mute", repository.new), "the module to go")
    machine.wait(lambda: "verdict" in machine.run("cat", metrics) and labels not in machine.run("cat", metrics), "it")
    assert machine.run("kmoddctl", "gate", "--kernel", repository.new).startswith(f"{repository.new}: ready")
    machine.write("/etc/kmodd/kmodd.toml", settings)
    machine.configure("notify")


def test_a_reload_is_answered_and_disturbs_nothing(machine: Machine, repository: Repository) -> None:
    pid, began = machine.pid(), machine.target("hello", repository.new)["last_attempt"]["began"]
    machine.run("systemctl", "reload", "kmodd")
    assert machine.pid() == pid
    assert machine.wait_for("hello", repository.new)["last_attempt"]["began"] == began


# -- packages for DKMS -------------------------------------------------------------------------------------------------
def test_a_package_for_dkms_is_installed_by_dnf_and_built_after_its_transaction(
    machine: Machine, repository: Repository
) -> None:
    conf = "POST_INSTALL='script.sh $kernelver'\n"
    script = 'echo "$1" >> /usr/lib/own-hook; id -u >> /usr/lib/own-hook\n'
    top = machine.root / "drivers"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    (machine.root / "usr/lib/own-hook").unlink(missing_ok=True)
    for version in ("1.0", "2.0"):
        dkmspackage.make(top, version, conf=conf, script=script)
    subprocess.run(["createrepo_c", "--quiet", top], check=True)
    where = "baseurl=file:///drivers\ngpgcheck=0\nenabled=1\n"
    machine.write("/etc/yum.repos.d/drivers.repo", f"[drivers]\nname=drivers\n{where}")
    settings = machine.root / "etc/kmodd/kmodd.toml"
    before = settings.read_text()
    settings.write_text(f'{before}\n[dkms]\nallow_hooks = ["own"]\n')
    machine.run("systemctl", "reload", "kmodd")

    def lines(version: str) -> list[str]:
        return [f"own/{version}, {release}, x86_64: installed" for release in sorted((repository.old, repository.new))]

    machine.run("dnf", "-y", "--quiet", "install", "own-dkms-1.0")
    assert machine.run("rpm", "-q", "--whatprovides", "dkms").startswith("kmodd-dkms-")
    machine.wait(lambda: machine.run("dkms", "status").splitlines() == lines("1.0"), "own 1.0")
    machine.run("dnf", "-y", "--quiet", "upgrade", "own-dkms")
    machine.wait(lambda: machine.run("dkms", "status").splitlines() == lines("2.0"), "own 2.0")
    assert machine.run("modinfo", "-k", repository.new, "-F", "version", "own").strip() == "2.0-1"
    hooked = (machine.root / "usr/lib/own-hook").read_text().split()
    assert sorted(hooked) == sorted([repository.old, "0", repository.new, "0"] * 2)
    machine.run("dnf", "-y", "--quiet", "remove", "own-dkms")
    # dnf takes kmodd-dkms away with the last package that needs it, after that one's scriptlet
    assert "no package provides dkms" in machine.run("rpm", "-q", "--whatprovides", "dkms", check=False)
    machine.wait(lambda: "own" not in [module["name"] for module in machine.status()["modules"]], "removal")
    assert not (machine.root / "var/lib/dkms/own").exists()
    settings.write_text(before)
    machine.run("systemctl", "reload", "kmodd")


# -- packages that come and go -----------------------------------------------------------------------------------------
def test_the_triggers_never_fail_a_transaction(machine: Machine, repository: Repository) -> None:
    """Stopped, disabled, masked: the kernel goes and comes all the same, and is ready once kmodd runs."""
    names = repository.names(repository.old)

    def rung() -> int:
        return len(machine.journal("-u", "kmodd", "--grep", "looked again.*a package's trigger asked for it"))

    machine.write("/etc/kmodd/kmodd.toml", '[daemon]\nlog_level = "debug"\n')
    machine.run("systemctl", "restart", "kmodd")
    before = rung()
    rpm(machine, "-e", names[-1])
    machine.wait(lambda: rung() > before, "the trigger of a removal")
    before = rung()
    rpm(machine, "-i", "--oldpackage", repository.kernels[repository.old][-1])
    machine.wait(lambda: rung() > before, "the trigger of an installation")
    machine.wait_for("hello", repository.old)
    for state in (("stop", "kmodd"), ("disable", "kmodd"), ("mask", "--now", "kmodd")):
        machine.run("systemctl", *state)
        rpm(machine, "-e", *names)
        rpm(machine, "-i", "--oldpackage", *repository.kernels[repository.old])
        machine.run("/usr/lib/kmodd/ring")
        machine.run("/usr/lib/kernel/install.d/95-kmodd.install", "add", repository.old, "/dev/null")
    machine.run("systemctl", "unmask", "kmodd")
    machine.run("systemctl", "enable", "--now", "kmodd")
    machine.wait_for("hello", repository.old)


def test_an_upgrade_and_a_downgrade_of_kmodd_leave_modules_alone(machine: Machine, repository: Repository) -> None:
    began = machine.target("hello", repository.new)["last_attempt"]["began"]
    machine.write("/etc/kmodd/kmodd.toml", "[build]\nkeep_logs = 5\n")
    for words in (("-U", repository.later), ("-U", "--oldpackage", repository.kmodd)):
        pid = machine.pid()
        rpm(machine, *words)
        machine.wait(lambda pid=pid: machine.pid() not in (0, pid), "the restart")  # type: ignore[misc]
        machine.wait(
            lambda: machine.run("systemctl", "is-active", "kmodd", check=False).strip() == "active", "kmodd active"
        )
        assert machine.wait_for("hello", repository.new)["last_attempt"]["began"] == began
        assert "keep_logs = 5" in (machine.root / "etc/kmodd/kmodd.toml").read_text()


def test_removing_a_kernel_leaves_nothing_of_it(machine: Machine, repository: Repository) -> None:
    names = repository.names(repository.old)
    machine.run("dnf", "-y", "--quiet", "remove", *names)
    machine.wait(lambda: not (machine.root / "usr/lib/modules" / repository.old).exists(), "the directory to go")
    machine.wait_for("hello", repository.new)
    assert not machine.target("hello", repository.old)


def test_removing_kmodd_leaves_its_modules(machine: Machine, repository: Repository) -> None:
    path = machine.root / machine.target("hello", repository.new)["objects"][0]["path"].lstrip("/")
    rpm(machine, "-e", "kmodd")
    assert path.is_file()
    machine.wait(lambda: machine.active("kmodd") == "inactive", "the unit to be gone")
    assert not (machine.root / "usr/lib/kmodd").exists()
    assert (machine.root / "etc/kmodd/keys/signing.key").is_file()
    rpm(machine, "-i", repository.kmodd)
    machine.run("systemctl", "start", "kmodd")
    machine.wait_for("hello", repository.new)


def test_idle_it_sleeps(machine: Machine, repository: Repository) -> None:
    pid = machine.pid()
    before = _switches(machine, pid)
    pause(5)
    assert _switches(machine, pid) - before <= 2


def _switches(machine: Machine, pid: int) -> int:
    text = machine.run("cat", f"/proc/{pid}/status")
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
