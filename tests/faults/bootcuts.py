#!/usr/bin/env python3
"""Power cuts in the update of a kernel: bootcuts.py --seed 1 --cases 200, and what would boot after each.

On a disk whose power can be cut (powercut), a kernel is installed as rpm does, with systemd's own kernel-install,
kmodd's plugin and stand-ins for those of grub2 and dracut (ground.bootloader); then its module is installed, and the
kernel is released by kmodd's own code. The power is cut at a random instant, or at each boundary of a plugin. What then
boots, by the reader of the boot loader's files, must be a kernel whose image, initramfs and module are whole.
--unguarded does the same without the guard, for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "tests"), str(TOP / "tests/faults")]

from ground import bootloader, system  # noqa: E402
from patience import pause, wait_until  # noqa: E402
from powercut import Disk  # noqa: E402

from kmodd.core.booting import BootEntry  # noqa: E402
from kmodd.core.errors import Problem  # noqa: E402
from kmodd.core.guardfile import guard_text  # noqa: E402
from kmodd.core.sysroot import Sysroot  # noqa: E402
from kmodd.host.bootloader import BootReader  # noqa: E402
from kmodd.host.bootstate import BootStateReader  # noqa: E402
from kmodd.host.initramfs import InitramfsReader  # noqa: E402
from kmodd.reconcile.release import check_image  # noqa: E402
from kmodd.system.files import replace_file  # noqa: E402

OLD, NEW = "5.14.0-70.el9.x86_64", "5.14.0-427.el9.x86_64"
ID = "8e4d7a3c9d0b4f6e9a3a1c5f2b7d6e80"
KERNEL, MODULE = os.urandom(3 << 20), os.urandom(200 << 10)
STAGES = (
    "dracut half beside", "20-grub image", "20-grub entry", "20-grub default", "dracut half in place", "released",
)  # fmt: skip
PROGRAM = (
    "import asyncio, sys; from pathlib import Path; from kmodd.core.sysroot import Sysroot; "
    "from kmodd.reconcile.release import Release; "
    "asyncio.run(Release(Sysroot(Path(sys.argv[1])), sys.argv[2], tuple(sys.argv[2:])).run())"
)
#: kernel-install in the root, whose first process it is, as far as it can see.
INSIDE = (
    "exec unshare --mount --pid --fork --kill-child chroot {root} "
    'sh -c \'mount -t proc proc /proc; exec /usr/bin/kernel-install "$@"\' sh "$@"'
)


class Server:
    """A root on a disk, with one kernel that boots and has its module."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.disk = Disk(directory / "disk", kind)
        self.root = self.disk.top / "root"
        self.programs = directory / "programs"
        self.mounts: list[Path] = []
        self._fill(directory)

    def _fill(self, directory: Path) -> None:
        for name in ("boot", "etc", "var/lib/kmodd/boot/held", "run/systemd/system", "tmp", "proc", "usr", "dev"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        (self.disk.top / "modules").mkdir()
        stand_ins, plugins = directory / "local", directory / "install.d"
        for place in (stand_ins, plugins, self.programs):
            place.mkdir()
        for name in bootloader.PLACES:
            shutil.copy(bootloader.HERE / name, plugins if name.endswith(".install") else stand_ins)
        shutil.copy(TOP / "packaging/05-kmodd.install", plugins)
        (directory / "share").mkdir()
        # A real dracut takes longer than a file system takes to write its journal, these stand-ins do not.
        text = (stand_ins / "stage").read_text().replace("\nwhile", "\nsync -f /boot\nwhile", 1)
        (directory / "share/stage").write_text(text)
        (directory / "share/stage").chmod(0o755)
        self.share = directory / "share"
        self._mount(system.base() / "usr", "usr")
        for source, place in ((self.disk.top / "modules", "usr/lib/modules"), (stand_ins, "usr/local/sbin"),
                              (plugins, "usr/lib/kernel/install.d"), (self.share, "usr/share")):  # fmt: skip
            self._mount(source, place)
        self._program("kernel-install", INSIDE.format(root=self.root))
        self._program("dracut", f'exec chroot {self.root} /usr/local/sbin/dracut --force "${{3#{self.root}}}" "$4"')
        self._configure()

    def _mount(self, source: Path, place: str) -> None:
        subprocess.run(["mount", "--bind", source, self.root / place], check=True)
        self.mounts.append(self.root / place)

    def _program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.programs / name).chmod(0o755)

    def _configure(self) -> None:
        """Write what the server has before the update, all of it on the disk."""
        etc = self.root / "etc"
        (etc / "machine-id").write_text(f"{ID}\n")
        (etc / "os-release").write_text("ID=rocky\nVERSION_ID=9.4\n")
        (etc / "kernel").mkdir()
        (etc / "kernel/install.conf").write_text("layout=other\n")
        (etc / "sysconfig").mkdir()
        (etc / "sysconfig/kernel").write_text("UPDATEDEFAULT=yes\n")
        wants = etc / "systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True)
        (wants / "kmodd.service").symlink_to("/usr/lib/systemd/system/kmodd.service")
        (self.root / "boot/grub2").mkdir()
        self.unpack(OLD)
        self.put_module(OLD)
        subprocess.run([self.programs / "kernel-install", "add", OLD, f"/lib/modules/{OLD}/vmlinuz"], check=True,
                       env={"PATH": os.environ["PATH"], "KMODD_HOLD": "0"})  # fmt: skip
        entry = BootEntry(
            f"{ID}-{OLD}", f"/boot/loader/entries/{ID}-{OLD}.conf", "", OLD, f"/boot/vmlinuz-{OLD}",
            (f"/boot/initramfs-{OLD}.img",),
        )  # fmt: skip
        guard = guard_text(entry, "rocky 9", ["/boot/loader/entries"], [OLD])
        replace_file(self.root / "var/lib/kmodd/boot/guard", guard.encode())
        (self.share / "stages").unlink()
        os.sync()

    def unpack(self, release: str) -> None:
        """Do what rpm does, which syncs nothing."""
        (self.disk.top / "modules" / release).mkdir()
        (self.disk.top / "modules" / release / "vmlinuz").write_bytes(KERNEL)

    def put_module(self, release: str) -> None:
        replace_file(self.disk.top / "modules" / release / "extra/hello.ko", MODULE)

    # -- the update ------------------------------------------------------------------------------------------------
    def update(self, guarded: bool) -> subprocess.Popen[bytes]:
        """Start the update in a process group of its own."""
        hold = "" if guarded else "KMODD_HOLD=0 "
        add = f"{hold}{self.programs}/kernel-install add {NEW} /lib/modules/{NEW}/vmlinuz"
        modules = self.disk.top / "modules"
        lines = [
            "set -e", f"mkdir {modules}/{NEW}", f"cp {self.disk.top}/kernel {modules}/{NEW}/vmlinuz", add,
            f"mkdir {modules}/{NEW}/extra", f"cp {self.disk.top}/module {modules}/{NEW}/extra/hello.ko",
            f"sync {modules}/{NEW}/extra/hello.ko {modules}/{NEW}/extra",
        ]  # fmt: skip
        if guarded:
            lines.append(f"{sys.executable} -c '{PROGRAM}' {self.root} {NEW} {OLD}")
        lines.append(f"echo released >>{self.share}/stages")
        env = {**os.environ, "KMODD_PROGRAM_PATH": f"{self.programs}:{os.environ['PATH']}", "PYTHONPATH": str(TOP)}
        return subprocess.Popen(["sh", "-c", "\n".join(lines)], env=env, start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip

    def cut(self, child: subprocess.Popen[bytes]) -> None:
        self.disk.cut()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        self._unmount()
        self.disk.restore()

    def _unmount(self) -> None:
        for place in reversed(self.mounts):
            subprocess.run(["umount", "-l", place], capture_output=True)
        self.mounts = []

    def close(self) -> None:
        self._unmount()
        with contextlib.suppress(subprocess.CalledProcessError):  # a namespace that ends holds it for a moment longer
            self.disk.close()

    # -- what boots ------------------------------------------------------------------------------------------------
    def judge(self) -> tuple[str, str]:
        """Return the kernel that boots, and what is wrong with it, "" where nothing is."""
        (self.root / "usr/lib").mkdir(parents=True, exist_ok=True)
        sysroot = Sysroot(self.root)
        found = BootStateReader(sysroot, BootReader(sysroot)).read((OLD, NEW))
        release = found.boots_next
        entry = next((entry for entry in found.entries or () if entry.name == found.default), None)
        if entry is None or not release:
            return release, "nothing that is known boots"
        if entry.fault is not None:
            return release, entry.fault.message
        if sysroot.resolve(entry.image).read_bytes() != KERNEL:
            return release, "its kernel is not whole"
        for path in entry.initrds:
            try:
                asyncio.run(check_image(InitramfsReader(sysroot), release, path))
            except Problem as problem:
                return release, problem.message
        if not entry.initrds:
            return release, "its entry names no initramfs"
        module = self.disk.top / "modules" / release / "extra/hello.ko"
        if not module.exists() or module.read_bytes() != MODULE:
            return release, "its module is not there"
        return release, ""


def run_case(number: int, seed: int, guarded: bool, stage: str, whole: float) -> tuple[str, str, str, float]:
    """Cut one update; returns when, what boots, what is wrong with that, and how long the update had taken."""
    chance = random.Random(f"{seed}/{number}")
    directory = Path(tempfile.mkdtemp(prefix="kmodd-cuts.", dir=os.environ.get("KMODD_SCRATCH")))
    server = Server(directory, chance.choice(("ext4", "ext4-writeback", "xfs")))
    try:
        (server.disk.top / "kernel").write_bytes(KERNEL)
        (server.disk.top / "module").write_bytes(MODULE)
        os.sync()
        if stage and stage != "released":
            (server.share / "hold-at").write_text(stage)
        began = time.monotonic()
        child = server.update(guarded)
        if stage:
            stages = server.share / "stages"
            wait_until(
                lambda: stages.exists() and stage in stages.read_text(),
                stage,
                lambda: child.poll() is not None and bool(child.returncode or stage != "released"),
            )
        else:
            pause(chance.uniform(0, whole))
        took = time.monotonic() - began
        server.cut(child)
        return stage or f"after {took:.2f} s", *server.judge(), took
    finally:
        server.close()
        if str(directory) not in Path("/proc/self/mounts").read_text():  # what is mounted there is not ours to delete
            shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=200, help="random instants, besides each boundary of a plugin")
    parser.add_argument("--unguarded", action="store_true", help="without kmodd's guard")
    options = parser.parse_args()
    guarded = not options.unguarded
    stages = [stage for stage in STAGES if guarded or stage != "dracut half beside"]
    whole, wrong, counts = 1.0, 0, {OLD: 0, NEW: 0, "": 0}
    plan = [*reversed(stages), *[""] * options.cases]  # the first one runs to its end, and tells how long that takes
    for number, stage in enumerate(plan):
        when, release, fault, took = run_case(number, options.seed, guarded, stage, whole)
        whole = took * 1.05 if stage == "released" else whole
        counts[release] += 1
        wrong += bool(fault)
        print(f"{number}: {when}: {release or 'nothing'} boots{f', WRONG: {fault}' if fault else ''}", flush=True)
    print(
        f"{len(plan)} cuts: {counts[OLD]} boot the old kernel, {counts[NEW]} the new one; {wrong} end without modules"
    )
    return 1 if wrong and guarded else 0


if __name__ == "__main__":
    sys.exit(main())
