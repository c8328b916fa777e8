"""DKMS, make in a loop, the best schedule by hand, and kmodd on the same modules, alternating: wall, CPU, processes.

Each gets the same kernels (full packages), sources, key and, in its own mount and pid namespace, a fresh root that
nobody wrote to. All leave modules that are stripped, signed, compressed as the kernel's are, and listed in modules.dep;
which ones is compared. DKMS builds as root and checks nothing; so do the loops. kmodd also evaluates each dkms.conf in
a sandbox, builds unprivileged, syncs what it writes to disk, and verifies what it installed. All builds are as nice as
kmodd's. bench/dkms.py [CASE...]; ROUNDS: how many, default 3; SCRATCH: a directory for the roots, to try a real disk
(else a tmpfs, where fsync costs nothing).
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent))

import world
from ground import debian, privateroot
from ground.cache import find_cache
from ground.dkmssource import fetch_source

ROUNDS = int(os.environ.get("ROUNDS", "3"))
PACKAGES = ("acpi-call", "bbswitch", "digimend", "dm-writeboost", "jool", "v4l2loopback", "xtables-addons")
#: As most drivers are: 18 objects, each package a few seconds of compiling. The seven have 34, and two big packages.
SMALL = (
    "acpi-call", "bbswitch", "ddcci", "digimend", "dm-writeboost", "dpdk-kmods", "langford", "nat-rtsp", "rapiddisk",
    "v4l2loopback", "vpoll", "xtrx",
)  # fmt: skip
SIDES = {
    "dkms": "dkms autoinstall",
    "loop": "make -jN, one after the other",
    "shared": "by hand: make's jobserver",
    "pairs": "by hand: N at a time",
    "kmodd": "kmoddctl sync",
}
#: case -> what it is, the modules' directory, how many kernels
CASES = {
    "trivial": ("10 trivial modules, a kernel", "trivial", 1),
    "small": (f"{len(SMALL)} small packages, a kernel", "small", 1),
    "packages": (f"{len(PACKAGES)} packages, a kernel", "packages", 1),
    "kernels": (f"{len(PACKAGES)} packages, 3 kernels", "packages", 3),
}
CONF = """\
PACKAGE_NAME="trivial{0}"
PACKAGE_VERSION="1.0"
BUILT_MODULE_NAME="trivial{0}"
DEST_MODULE_LOCATION="/extra"
AUTOINSTALL="yes"
"""


def lay_sources(top: Path) -> None:
    """Put the modules of the cases below top, each as a layer of a root."""
    for number in range(10):
        source = top / f"trivial/usr/src/trivial{number}-1.0"
        source.mkdir(parents=True)
        (source / f"trivial{number}.c").write_text(world.SOURCE)
        (source / "Makefile").write_text(f"obj-m := trivial{number}.o\n")
        (source / "dkms.conf").write_text(CONF.format(number))
    for directory, names in (("packages", PACKAGES), ("small", SMALL)):
        for name in names:
            fetch_source(name, top / directory)


def lay_kernels(top: Path, releases: list[str]) -> None:
    """Install kernels and make the key that all sign with."""
    for count in sorted({1, len(releases)}):
        root = privateroot.make_root(top / f"kernels{count}")
        for release in sorted(releases[:count]):
            world.install(root, release, slim=False)
        done = world.kmoddctl(root, "key", "generate")
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        assert not world.status(root)["targets"]


def contest(side: str, case: str, top: Path, releases: list[str]) -> dict[str, Any]:
    """Have one side do a case in namespaces of its own; returns what contest.py prints."""
    _, sources, count = CASES[case]
    with tempfile.TemporaryDirectory(prefix=f"{side}.", dir=top) as work:
        words = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", sys.executable]
        words += [str(Path(__file__).with_name("contest.py")), side, work, str(top / "dkms/usr/sbin/dkms")]
        words += [f"{top}/{sources}:{top}/kernels{count}", *releases[:count]]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{side}, {case}: ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def tell(case: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the medians of a case."""

    def median(side: str, step: str, key: str) -> Optional[float]:
        values = [one["steps"][step][key] for one in found[side] if step in one["steps"]]
        return statistics.median(values) if values else None

    best = min(("shared", "pairs"), key=lambda side: median(side, "build", "wall") or 0.0)
    bases = [median(side, "build", "wall") or 1.0 for side in ("dkms", "loop", best)]
    print(f"\n{CASES[case][0]:<32} wall s   CPU s  processes   of DKMS  of the loop  of the best by hand")
    for side, title in SIDES.items():
        wall, cpu, started = (median(side, "build", key) or 0.0 for key in ("wall", "cpu", "processes"))
        ratios = "".join(f"{wall / base:{width}.2f}" for base, width in zip(bases, (10, 13, 21)))
        print(f"{title:<32}{wall:7.1f} {cpu:7.1f} {started:10.0f}{ratios}")
    for side, step, title in (
        ("dkms", "again", "nothing to do: dkms autoinstall"),
        ("kmodd", "again", "nothing to do: kmoddctl sync"),
        ("kmodd", "daemon", "the same, the daemon runs"),
    ):
        wall, cpu, started = (median(side, step, key) or 0.0 for key in ("wall", "cpu", "processes"))
        print(f"{title:<32}{wall:7.2f} {cpu:7.2f} {started:10.0f}")
    rounds = {side: [round(one["steps"]["build"]["wall"], 1) for one in results] for side, results in found.items()}
    print("wall s of each round:", ", ".join(f"{side} {times}" for side, times in rounds.items()))


def processor() -> str:
    """Return what /proc/cpuinfo calls the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    wanted = sys.argv[1:] or list(CASES)
    first, *others = world.kernels.pick("6.1", 2)
    releases = [first, *others, *world.kernels.pick("6.12", 1)]
    scratch = os.environ.get("SCRATCH") or privateroot.find_scratch(8192)
    with tempfile.TemporaryDirectory(prefix="kmodd-bench.", dir=scratch) as name:
        top = Path(name)
        top.chmod(0o755)
        lay_sources(top)
        lay_kernels(top, releases)
        debian.unpack([debian.fetch("dkms", find_cache(""))], top / "dkms")
        print(f"{datetime.date.today()}, {os.cpu_count()} x {processor()}, Linux {platform.release()}, "
              f"load {os.getloadavg()[0]:.1f}, roots in {scratch}; medians of {ROUNDS} rounds")  # fmt: skip
        for case in wanted:
            found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
            for number in range(ROUNDS):
                sides = list(SIDES)
                for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
                    found[side].append(contest(side, case, top, releases))
            objects = {side: results[0]["objects"] for side, results in found.items()}
            if any(one["objects"] != objects["dkms"] for results in found.values() for one in results):
                raise SystemExit(f"{case}: not all built the same: {json.dumps(objects, indent=1)}")
            tell(case, found)
            counts = ", ".join(f"{len(names)} on {release}" for release, names in objects["dkms"].items())
            print(f"objects, the same on all sides: {counts}", flush=True)


if __name__ == "__main__":
    main()
