"""The state of the machine that every test begins with, whatever the one before it left or failed at.

kmodd as installed, active; both kernels with their kernel-devel; one module, hello, ready on both. What is as it should
be costs a question; the rest is repaired.
"""

from __future__ import annotations

import shutil

from nspawn import TOP, UP, Machine, Repository

SYSTEM = "etc/systemd/system"
OTHERS = ("storage", "letin", "tell", "story")  # units that tests write
DROPINS = ("kmodd.service", "kmodd.socket", "kmodd-boot.service", "kmodd-shutdown.service")
LOCAL = "[local]\nname=local\nbaseurl=file:///repo\ngpgcheck=0\nenabled=1\n"


def establish(machine: Machine, repository: Repository) -> None:
    """Bring the machine to the state that tests begin with."""
    if not machine.leader or machine.run("systemctl", "is-system-running", check=False).strip() not in UP:
        machine.cut_power()
        machine.start()
    machine.release()
    _forget_units(machine)
    machine.write("/etc/yum.repos.d/local.repo", LOCAL)
    (machine.root / "etc/yum.repos.d/drivers.repo").unlink(missing_ok=True)
    _install(machine, repository)
    machine.write("/etc/kmodd/kmodd.toml", (TOP / "etc/kmodd.toml").read_text())
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed")
    for words in (("stop", "kmodd.socket", "kmodd.service"), ("start", "kmodd.socket"), ("start", "kmodd.service")):
        machine.run("systemctl", *words)  # a socket does not start beside a service that runs
    for path in sorted((machine.root / "etc/kmodd/modules.d").glob("*.toml")):
        if path.stem != "hello":
            machine.run("kmoddctl", "remove", path.stem)
    if not (machine.root / "etc/kmodd/modules.d/hello.toml").exists():
        machine.add("hello", options=("--at-boot", "hello"))
    for release in (repository.old, repository.new):
        machine.wait_for("hello", release)


def _forget_units(machine: Machine) -> None:
    """Take back what tests told systemd."""
    machine.allow()
    machine.run("systemctl", "unmask", "kmodd.service", check=False)
    for name in OTHERS:
        if (machine.root / SYSTEM / f"{name}.service").exists():
            machine.run("systemctl", "disable", "--now", name, check=False)
            (machine.root / SYSTEM / f"{name}.service").unlink()
        shutil.rmtree(machine.root / SYSTEM / f"{name}.service.d", ignore_errors=True)
    for unit in DROPINS:
        for path in (machine.root / SYSTEM / f"{unit}.d").glob("*.conf"):
            if path.name != "container.conf":
                path.unlink()


def _install(machine: Machine, repository: Repository) -> None:
    """Have exactly the packages that tests begin with."""
    wanted = {**repository.kernels, "kmodd": [repository.standing, repository.kmodd]}
    installed = set(machine.run("rpm", "-qa", "--queryformat", "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}\\n").split())
    for name in ("own-dkms", "kmodd-dkms", "small"):
        if any(one.startswith(f"{name}-") for one in installed):
            machine.run("rpm", "-e", "--nodeps", name)
    for paths in wanted.values():
        absent = [path for path in paths if path.rpartition("/")[2][: -len(".rpm")] not in installed]
        if absent:
            machine.run("rpm", "-U" if repository.kmodd in absent else "-i", "--oldpackage", *absent)
    machine.run("systemctl", "enable", *DROPINS)
