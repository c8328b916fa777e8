"""A machine for tests: a private copy of the system, booted by systemd-nspawn, and hands to work on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ground import kernels, privateroot, system
from patience import LIMIT, wait_until

TOP = Path(__file__).resolve().parents[2]
UP = ("running", "degraded")
#: A line of a Makefile that holds its builds until Machine.release, so that something can be seen meanwhile.
HELD = "$(shell until test -e /usr/share/released; do sleep 0.1; done)\n"
#: The units do not start in containers, where there is no kernel of their own; this one has one to be tested with.
DROPIN = "[Unit]\nConditionVirtualization=\n"
UNITS = ("kmodd.service", "kmodd.socket", "kmodd-boot.service", "kmodd-shutdown.service")


@dataclass(frozen=True)
class Repository:
    """The packages that the machine installs, as /repo on it."""

    old: str  # kernel releases
    new: str
    kernels: dict[str, list[str]]  # release -> paths on the machine: core, modules-core, devel
    kmodd: str
    standing: str
    later: str  # the same kmodd with a higher release

    def names(self, release: str) -> list[str]:
        """Return the names of a kernel's packages, as rpm -e takes them."""
        return [Path(path).name[: -len(".x86_64.rpm")] for path in self.kernels[release]]


def overlay(directory: Path) -> Path:
    """Mount a copy of the system that may be changed as `root` of a directory; returns that."""
    for name in ("root", "upper", "work"):
        (directory / name).mkdir(parents=True)
    layers = f"lowerdir={system.base()},upperdir={directory}/upper,workdir={directory}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, directory / "root"], check=True)
    return directory / "root"


class Controllers:
    """The machine's place in the hierarchies of cgroup v1, where systemd-nspawn gives a container none of its own."""

    def __init__(self, name: str) -> None:
        tops = (Path("/sys/fs/cgroup") / controller for controller in ("memory", "cpu", "pids"))
        self.places = [top / name for top in tops if (top / "cgroup.procs").exists()]
        for place in self.places:
            place.mkdir()
            limit = place / "memory.limit_in_bytes"
            if limit.exists():
                limit.write_text("6G")

    def enter(self) -> None:
        """Put this process there; for its start."""
        for place in self.places:
            (place / "cgroup.procs").write_text(str(os.getpid()))

    def open(self, machine: Machine) -> None:
        """Let the machine's systemd write to what it found read-only."""
        for place in self.places:
            machine.run("mount", "-o", "remount,bind,rw", place.parent)
        if self.places:
            machine.run("systemctl", "daemon-reexec")

    def close(self) -> None:
        """Give the places back: what of a killed machine is still in them dies, which takes a while."""
        for place in self.places:
            wait_until(lambda place=place: self._is_gone(place), place)  # type: ignore[misc]

    def _is_gone(self, place: Path) -> bool:
        for directory in sorted(place.glob("**/"), reverse=True):
            for pid in (directory / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                directory.rmdir()
        return not place.exists()


class Machine:
    """One system, off at first."""

    def __init__(self) -> None:
        self.directory = directory = Path(tempfile.mkdtemp(prefix="kmodd-booted.", dir=privateroot.find_scratch(6000)))
        self.root = directory / "root"
        self.console = directory / "console"
        self.nspawn: Optional[subprocess.Popen[bytes]] = None
        overlay(directory)
        self.controllers = Controllers(directory.name)

    # -- power -----------------------------------------------------------------------------------------------------
    def start(self, whole: bool = True) -> None:
        """Boot, and wait until systemd says that it is done, or only until it can be asked."""
        # With a network of its own it keeps CAP_NET_ADMIN, which bwrap needs for the loopback device, as a server has.
        argv = ["systemd-nspawn", "--register=no", "--keep-unit", "--quiet", "--private-network", "-b"]
        argv.append(f"--machine=kmodd-{os.getpid()}")
        with self.console.open("ab") as console:
            self.nspawn = subprocess.Popen(
                [*argv, "-D", str(self.root), "--console=pipe"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                preexec_fn=self.controllers.enter,
            )  # fmt: skip
        up = (*UP, *(() if whole else ("starting",)))
        self.wait(lambda: self.run("systemctl", "is-system-running", check=False).strip() in up, "boot")
        if whole:
            self.controllers.open(self)

    @property
    def leader(self) -> int:
        """Return the pid of the system's init, 0 where there is none."""
        if self.nspawn is None:
            return 0
        found = subprocess.run(["pgrep", "-P", str(self.nspawn.pid)], capture_output=True, text=True).stdout.split()
        return int(found[0]) if found else 0

    def reboot(self) -> None:
        """Shut down as reboot(8) does, and start again."""
        self.power_off()
        self.start()

    def power_off(self) -> None:
        assert self.nspawn is not None
        self.run("systemctl", "poweroff", "--no-block", check=False)
        self.nspawn.wait(LIMIT)
        self.nspawn = None

    def cut_power(self) -> None:
        """End everything at once, as a power cut does but for what the disk had cached."""
        if self.nspawn is not None:
            if self.leader:
                os.kill(self.leader, signal.SIGKILL)
            self.nspawn.wait(LIMIT)
            self.nspawn = None

    def close(self) -> None:
        """Leave nothing behind, whatever of it fails."""
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory)
            stack.callback(subprocess.run, ["umount", "-l", self.root], check=True)
            stack.callback(self.controllers.close)
            self.cut_power()

    # -- hands -----------------------------------------------------------------------------------------------------
    def run(self, *argv: object, check: bool = True) -> str:
        """Run a program on the machine and return what it printed."""
        words = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [*words, *map(str, argv)], capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL,
            timeout=LIMIT,
        )  # fmt: skip
        if check and done.returncode != 0:
            said = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
            raise AssertionError(f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{said}")
        return done.stdout

    def furnish(self) -> Repository:
        """Put all packages into /repo of the machine, with createrepo_c's index."""
        top = self.root / "repo"
        new, old = kernels.pick("6.1", 2)
        files = {release: kernels.make(release, top) for release in (old, new)}
        done = subprocess.run([TOP / "packaging/make-rpm", top, "1", "2"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (first,) = top.glob("kmodd-[0-9]*-1.x86_64.rpm")
        (second,) = top.glob("kmodd-[0-9]*-2.x86_64.rpm")
        (self.root / "later").mkdir()
        final = second.rename(self.root / "later" / second.name)
        for other in top.glob("kmodd-dkms-*-2.noarch.rpm"):
            other.rename(self.root / "later" / other.name)
        standing = system.make_standing(top)
        subprocess.run(["createrepo_c", "--quiet", top], check=True)
        inside = {release: [f"/repo/{path.name}" for path in paths] for release, paths in files.items()}
        return Repository(old, new, inside, f"/repo/{first.name}", f"/repo/{standing.name}", f"/later/{final.name}")

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def hold(self) -> None:
        """Have builds wait where HELD says so."""
        (self.root / "usr/share/released").unlink(missing_ok=True)

    def release(self) -> None:
        """Let builds go on that HELD holds."""
        self.write("/usr/share/released", "")

    def wait(self, reached: Callable[[], bool], what: str) -> None:
        try:
            wait_until(reached, what)
        except AssertionError as error:
            journal = self.run("journalctl", "-b", "-u", "kmodd", "--no-pager", "-n", "40", check=False)
            raise AssertionError(f"{error}\n{journal}\n{self.console.read_text()[-2000:]}") from error

    # -- kmodd -----------------------------------------------------------------------------------------------------
    def allow(self) -> None:
        """Let the units start in this container."""
        for unit in UNITS:
            self.write(f"/etc/systemd/system/{unit}.d/container.conf", DROPIN)

    def add(self, name: str, makefile: str = "", options: tuple[str, ...] = (), code: str = "") -> None:
        """Register a module of one file."""
        self.lay_out(name, makefile, code)
        self.run("kmoddctl", "add", f"/usr/src/{name}-1.0", *options)

    def lay_out(self, name: str, makefile: str = "", code: str = "") -> None:
        """Write the source of a module."""
        self.write(f"/usr/src/{name}-1.0/{name}.c", SOURCE.format(name=name) + code)
        self.write(f"/usr/src/{name}-1.0/Makefile", f"obj-m := {name}.o\n{makefile}")

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.run("kmoddctl", "status", "--json", check=False) or "{}")
        return answer

    def target(self, module: str, kernel: str) -> dict[str, Any]:
        for target in self.status().get("targets", ()):
            if (target["module"], target["kernel"]) == (module, kernel):
                return dict(target)
        return {}

    def wait_for(self, module: str, kernel: str, verdict: str = "ready") -> dict[str, Any]:
        self.wait(lambda: self.target(module, kernel).get("verdict") == verdict, f"{module} {verdict} for {kernel}")
        return self.target(module, kernel)

    def configure(self, name: str, text: str = "") -> None:
        """Give kmodd.service a drop-in, or empty it, and restart it."""
        self.write(f"/etc/systemd/system/kmodd.service.d/{name}.conf", text)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "restart", "kmodd")

    def active(self, unit: str) -> str:
        """Return the state of a unit, such as active or failed."""
        return self.run("systemctl", "is-active", unit, check=False).strip()

    def pid(self) -> int:
        return int(self.run("systemctl", "show", "-P", "MainPID", "kmodd.service"))

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        lines = self.run("journalctl", "-b", "-o", "json", "--no-pager", *matches, check=False).splitlines()
        return [json.loads(line) for line in lines]


SOURCE = """\
#include <linux/module.h>
static int __init {name}_init(void) {{ return 0; }}
static void __exit {name}_exit(void) {{ }}
module_init({name}_init);
module_exit({name}_exit);
MODULE_LICENSE("GPL");
"""
#: A thousand million tokens: cc1 takes memory until it gets no more.
GREEDY = """\
#define A 0,0,0,0,0,0,0,0,0,0
#define B A,A,A,A,A,A,A,A,A,A
#define C B,B,B,B,B,B,B,B,B,B
#define D C,C,C,C,C,C,C,C,C,C
#define E D,D,D,D,D,D,D,D,D,D
#define F E,E,E,E,E,E,E,E,E,E
#define G F,F,F,F,F,F,F,F,F,F
#define H G,G,G,G,G,G,G,G,G,G
int eater_numbers[] = { H, H, H, H, H, H, H, H, H, H };
"""
