"""A private root on a disk of its own, with a daemon, three modules and files of others: where faults strike.

good is built; two has two objects; bad does not compile. What must hold at any time, and once a fault is over, is
checked here: see check and Guard.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import proctree
from ground import privateroot
from patience import LIMIT, pause
from powercut import Disk

from kmodd.control.client import Client
from kmodd.core.errors import Problem

STOP = 10.0  # seconds within which the daemon stops, on a machine that is not busy
PATIENT_STOP = 6 * STOP
SETTINGS = """\
[daemon]
quiet = "200ms"
[retry]
first = "1s"
longest = "3s"
[sign]
algorithm = "ecdsa"
"""
SOURCE = """\
#include <linux/module.h>
static int __init {name}_init(void) {{ return {value}; }}
static void __exit {name}_exit(void) {{ }}
module_init({name}_init);
module_exit({name}_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(serial, "{serial}");
"""
MODULES = {"good": ("good",), "two": ("two_a", "two_b"), "bad": ("bad",)}
EXPECTED = {"good": "ready", "two": "ready", "bad": "failed"}
TOOLS = ("depmod", "modprobe", "openssl", "xz", "zstd", "rpm", "bwrap")
OURS = re.compile(
    r"var/(lib|log|cache)/kmodd(/|$)|run/|etc/kmodd/|etc/(modules-load|modprobe|depmod)\.d/kmodd-"
    r"|usr/lib/modules/[^/]+/(extra/(good|two|bad)|modules\.)|usr/src/(good|two|bad)-1\.0|filling$|.*/sign-file\.(arm|hit)$|lost\+found|var/lib/rpm"
)
TEMPORARY = re.compile(r"\.kmodd-new|\.objects\.new$|/modules\.[a-z.]+\.\d+\.")


class Violation(Exception):
    """Something that must always hold did not."""


class Arena:
    """One root. top: a directory on a quick disk; template: the root to be copied; kind: of powercut.KINDS."""

    def __init__(self, top: Path, template: Path, kernel: str, kind: str) -> None:
        self.top = top
        self.kernel = kernel
        self.disk = Disk(top / "disk", kind, 600)
        self.root = self.disk.top / "root"
        self.log = top / "kmodd.log"
        self.path = top / "bin"
        self.child: Optional[subprocess.Popen[bytes]] = None
        self.foreign: dict[str, tuple[int, ...]] = {}
        self.serial = 0
        self.slowest_stop = 0.0
        subprocess.run(["cp", "-a", template, self.root], check=True)
        self._furnish()
        self.foreign = self._look()
        subprocess.run(["sync", "-f", self.disk.top], check=True)

    def _furnish(self) -> None:
        self.path.mkdir()
        text = Path(__file__).with_name("wrapper").read_text()
        for name in TOOLS:
            binary = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
            if binary:
                (self.path / name).write_text(text.replace("@BINARY@", binary))
                (self.path / name).chmod(0o755)
        signer = self.root / "usr/src/kernels" / self.kernel / "scripts/sign-file"
        real = signer.rename(signer.with_name("sign-file.real"))
        signer.write_text(text.replace("@BINARY@", str(real)))
        signer.chmod(0o755)
        (self.root / "etc/kmodd/modules.d").mkdir(parents=True)
        (self.root / "etc/kmodd/kmodd.toml").write_text(SETTINGS)
        for name, objects in MODULES.items():
            source = self.root / "usr/src" / f"{name}-1.0"
            source.mkdir(parents=True)
            (source / "Makefile").write_text(f"obj-m := {' '.join(f'{item}.o' for item in objects)}\n")
            self.write_sources(name)
            (self.root / f"etc/kmodd/modules.d/{name}.toml").write_text(
                f'[source]\npath = "/usr/src/{name}-1.0"\n[load]\nat_boot = ["{objects[0]}"]\n'
            )
        foreign = self.root / "usr/lib/modules" / self.kernel / "extra/others"
        foreign.mkdir(parents=True)
        shutil.copy(next((self.root / "usr/lib/modules" / self.kernel).rglob("dummy.ko*")), foreign)
        for name in ("modules-load.d/local.conf", "modprobe.d/local.conf", "depmod.d/local.conf", "kmodd.conf"):
            (self.root / "etc" / name).parent.mkdir(exist_ok=True)
            (self.root / "etc" / name).write_text("# the administrator's own\n")

    def has(self, tool: str) -> bool:
        """Tell whether a tool is ever run here: one of compression may not be."""
        suffix = {"xz": ".xz", "zstd": ".zst"}.get(tool, ".ko")
        extra = self.root / "usr/lib/modules" / self.kernel / "extra/others"
        return any(suffix in path.name for path in extra.iterdir())

    def write_sources(self, name: str) -> None:
        """Change a module's source, so that it is to be built anew."""
        self.serial += 1
        for item in MODULES[name]:
            text = SOURCE.format(name=item, value="missing" if name == "bad" else 0, serial=self.serial)
            path = self.root / f"usr/src/{name}-1.0/{item}.c"
            with path.with_suffix(".new").open("w") as stream:  # a power cut must not take what the driver wrote
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            path.with_suffix(".new").rename(path)
        directory = os.open(self.root / f"usr/src/{name}-1.0", os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def close(self) -> None:
        self.end()
        self.disk.close()
        shutil.rmtree(self.top, ignore_errors=True)

    # -- the daemon ------------------------------------------------------------------------------------------------
    def start(self, env: Optional[dict[str, str]] = None) -> None:
        words = [sys.executable, "-m", "kmodd.daemon", "--root", str(self.root), "--log-level", "debug"]
        own = {"KMODD_PROGRAM_PATH": f"{self.path}:/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})}
        with self.log.open("ab") as stream:
            self.child = subprocess.Popen(words, stderr=stream, env={**os.environ, **own}, start_new_session=True)

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def is_alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def end(self) -> None:
        """Kill the daemon and all that it started."""
        if self.child is None:
            return
        for process in [*proctree.descendants(self.pid)]:
            proctree.kill(process.pid)
        self.child.kill()
        self.child.wait()
        self.wait(lambda: not self._left_processes(), "the processes of a killed daemon to end")
        self.child = None

    def stop(self, strict: bool = True) -> None:
        """Stop the daemon as systemd does. strict: its exit status counts, too. Raises Violation."""
        if self.child is None:
            return
        began = time.monotonic()
        self.child.terminate()
        try:
            status = self.child.wait(PATIENT_STOP)
        except subprocess.TimeoutExpired:
            raise Violation(f"did not stop within {PATIENT_STOP:g} s") from None
        self.slowest_stop = max(self.slowest_stop, time.monotonic() - began)
        self.child = None
        if strict and status != 0:
            raise Violation(f"stopped with status {status}")
        self.wait(lambda: not self._left_processes(), "its processes to end")

    def _left_processes(self) -> list[str]:
        return proctree.using(str(self.root))

    def ring(self) -> None:
        """Have the daemon look, if it is ready to be told; else it is about to look anyway."""
        if self.is_alive():
            caught = Path(f"/proc/{self.pid}/status").read_text().partition("SigCgt:\t")[2][:16]
            if int(caught or "0", 16) & 1 << signal.SIGHUP - 1:
                proctree.kill(self.pid, signal.SIGHUP)

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the targets by module, {} where the daemon does not answer."""
        try:
            with Client(str(self.root / "run/kmodd/io.kmodd.Manager"), timeout=30) as client:
                return {target["module"]: target for target in client.call("Status")["targets"]}
        except Problem:
            return {}

    def _has_looked(self) -> bool:
        """Have the daemon look, and go on until nothing is due; tells whether it did. What it knew may be old."""
        try:
            with Client(str(self.root / "run/kmodd/io.kmodd.Manager"), timeout=LIMIT) as client:
                client.call("Sync")
        except Problem:
            return False
        return True

    def wait(self, reached: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
        """Wait for something. Raises Violation."""
        end = time.monotonic() + limit
        while not reached():
            if time.monotonic() > end:
                found = {name: (t["verdict"], t["reason"]) for name, t in self.status().items()}
                raise Violation(f"waited in vain for {what}: {found or self._left_processes()}")
            pause(0.05)

    def settle(self) -> None:
        """Wait until healthy targets are ready and the other is failed for what is wrong with it. Raises Violation."""

        def reached() -> bool:
            if not self.is_alive():
                raise Violation(f"the daemon ended by itself with status {self.child and self.child.poll()}")
            if not self._has_looked():
                return False
            found = self.status()
            verdicts = {name: target["verdict"] for name, target in found.items()}
            return verdicts == EXPECTED and found["bad"]["problem"] == "build-failed"

        self.wait(reached, "all to be as it should")

    # -- what must hold --------------------------------------------------------------------------------------------
    def objects(self) -> list[Path]:
        """Return where the objects of ready modules are, whatever their compression."""
        extra = self.root / "usr/lib/modules" / self.kernel / "extra"
        return [extra / name / f"{item}.ko" for name in ("good", "two") for item in MODULES[name]]

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        for directory, names, files in os.walk(self.root):
            inside = os.path.relpath(directory, self.root)
            for name in (*names, *files):
                path = os.path.normpath(f"{inside}/{name}")
                yield path, os.lstat(f"{directory}/{name}")

    def _look(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for path, facts in self._walk():
            if not OURS.match(path):
                of_file = () if stat.S_ISDIR(facts.st_mode) else (facts.st_size, facts.st_mtime_ns, facts.st_ino)
                found[path] = (facts.st_mode, facts.st_uid, facts.st_gid, *of_file)
        return found

    def check_foreign(self) -> None:
        """Raise Violation unless everything of others is as it was."""
        now = self._look()
        changed = sorted(path for path in {*now, *self.foreign} if now.get(path) != self.foreign.get(path))
        changed = [path for path in changed if path not in ("etc/modules-load.d", "etc/modprobe.d", "etc/depmod.d")]
        if changed:
            raise Violation(f"foreign files changed: {changed[:5]}")

    def leftovers(self) -> list[str]:
        """Return temporary files and scratch directories that are there."""
        found = []
        with contextlib.suppress(FileNotFoundError):  # what vanishes while it is looked at is not left
            for part in ("etc", "run", "var", f"usr/lib/modules/{self.kernel}"):
                for directory, names, files in os.walk(self.root / part):
                    for name in (*names, *files):
                        path = f"{directory}/{name}"
                        parent = os.path.relpath(directory, self.root)
                        if TEMPORARY.search(path) or parent in ("var/cache/kmodd/build", "var/cache/kmodd/sign"):
                            found.append(os.path.relpath(path, self.root))
        return found

    def check(self) -> None:
        """Raise Violation unless all is as it should be; the daemon is stopped at the end."""
        self.settle()
        self.wait(lambda: not self.leftovers(), f"nothing to be left over ({self.leftovers()[:3]})")
        for path in self.objects():
            if not find_file(path).exists():
                raise Violation(f"{path.name} is ready and not there")
        listed = (self.root / "usr/lib/modules" / self.kernel / "modules.dep").read_text()
        if not all(f"/{path.name}" in listed for path in self.objects()):
            raise Violation("modules.dep does not list what is ready")
        self.stop()
        if self.leftovers():
            raise Violation(f"left over after the end: {self.leftovers()[:3]}")
        self.check_foreign()
        self.check_log()

    def check_log(self) -> None:
        """Raise Violation where the daemon told of an error that nobody foresaw."""
        text = self.log.read_text(errors="replace")
        for sign in ("Traceback", "unforeseen"):
            if sign in text:
                at = text.index(sign)
                raise Violation(f"the log says {text[max(0, at - 100) : at + 1500]}")
        self.log.write_text("")


class Guard:
    """Watches, while it is entered, that objects that were ready never vanish. Raises Violation at its end."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.vanished = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Guard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def check(self) -> None:
        if self.vanished:
            raise Violation(f"{self.vanished} was ready and vanished")

    def _watch(self) -> None:
        paths = [find_file(path) for path in self.arena.objects()]
        while not self._ending.is_set():
            pause(0.02)
            for path in paths:
                try:
                    os.stat(path)
                except OSError as error:
                    # a disk that is being mounted again looks so for a moment
                    if error.errno == errno.ENOENT and os.path.isdir(self.arena.root) and not os.path.lexists(path):
                        self.vanished = str(path)


def find_file(path: Path) -> Path:
    """Return the file of an object, whose name may end with what it is compressed by."""
    return next((p for s in ("", ".xz", ".zst", ".gz") if (p := path.with_name(path.name + s)).exists()), path)


def make_template(top: Path, files: list[Path]) -> Path:
    """Make the root that arenas are copies of."""
    root = privateroot.make_root(top)
    privateroot.rpm(root, "-i", *files)
    return root
