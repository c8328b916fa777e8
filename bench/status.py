"""`kmoddctl status` and `dkms status` on the same 20 modules x 4 kernels: wall time and memory.

DKMS is the distribution's package, unpacked, with trees of its own. They are laid out as dkms(8) describes, with the
objects that kmodd built, so that no depmod runs for the host; `dkms status` itself runs as it is. Its answer is
checked: every target must be told as installed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import world
from ground import debian, kernels
from ground.cache import find_cache

MODULES = 20
ROUNDS = int(os.environ.get("ROUNDS", "15"))
CTL = Path(sys.executable).with_name("kmoddctl")


#: Run in a small process of its own: a child's largest memory counts from the fork, when it is its parent's.
MEASURE = """\
import os, sys, time
began = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - began, usage.ru_maxrss, file=sys.stderr)
"""


def measure(*argv: object) -> tuple[float, int, str]:
    """Run a program; return its wall time in seconds, its largest memory in KiB, and its output."""
    words = [sys.executable, "-I", "-S", "-c", MEASURE, *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True)
    took, memory = done.stderr.splitlines()[-1].split()
    return float(took), int(memory), done.stdout


def tell(name: str, rounds: int, *argv: object) -> float:
    """Measure a program some times and print the median; returns it in seconds."""
    found = [measure(*argv) for _ in range(rounds)]
    times = sorted(one[0] for one in found)
    median = statistics.median(times)
    memory = max(one[1] for one in found) / 1024
    print(f"{name:<44} {median * 1000:7.0f} ms (fastest {times[0] * 1000:.0f}, of {rounds})  {memory:5.1f} MiB")
    return median


def dkms(root: Path, releases: list[str], scratch: Path) -> list[object]:
    """Lay out DKMS's trees for the modules of a root; returns the command line of its status."""
    debian.unpack([debian.fetch("dkms", find_cache(""))], scratch / "package")
    trees = {name: scratch / name for name in ("dkms", "source", "install")}
    for number in range(MODULES):
        name = f"trivial{number}"
        source = trees["source"] / f"{name}-1.0"
        source.mkdir(parents=True)
        (source / "dkms.conf").write_text(
            f'PACKAGE_NAME="{name}"\nPACKAGE_VERSION="1.0"\nBUILT_MODULE_NAME[0]="{name}"\n'
            'DEST_MODULE_LOCATION[0]="/updates/dkms"\nAUTOINSTALL="yes"\n'
        )
        for release in releases:
            built = trees["dkms"] / name / "1.0" / release / "x86_64"
            (built / "module").mkdir(parents=True)
            data = (root / f"var/lib/kmodd/targets/{release}/{name}.objects/{name}.ko").read_bytes()
            (built / "module" / f"{name}.ko").write_bytes(data)
            (trees["dkms"] / name / f"kernel-{release}-x86_64").symlink_to(f"1.0/{release}/x86_64")
            installed = trees["install"] / release / "updates/dkms" / f"{name}.ko"
            installed.parent.mkdir(parents=True, exist_ok=True)
            installed.write_bytes(data)
        (trees["dkms"] / name / "1.0/source").symlink_to(source)
    options = [f"--{name}tree={path}" for name, path in trees.items()]
    return ["bash", scratch / "package/usr/sbin/dkms", "status", *options]


def main() -> None:
    releases = [*kernels.pick("6.1", 3), *kernels.pick("6.12", 1)]
    with world.private_root() as root, tempfile.TemporaryDirectory(prefix="kmodd-dkms.") as name:
        for release in sorted(releases):
            world.install(root, release)
        world.add_modules(root, MODULES)
        world.kmoddctl(root, "sync")
        line = dkms(root, releases, Path(name))
        said = measure(*line)[2]
        assert said.count(": installed\n") == MODULES * len(releases), said
        print(f"{MODULES} modules x {len(releases)} kernels, all ready; medians; load {os.getloadavg()[0]:.1f}")
        theirs = tell("dkms status", max(3, ROUNDS // 5), *line)
        alone = tell("kmoddctl status, no daemon", ROUNDS, CTL, "status", "--root", root)
        with world.daemon(root, root.parent / "log"):
            world.wait_ready(root, MODULES * len(releases))
            ours = tell("kmoddctl status, daemon", ROUNDS, CTL, "status", "--root", root)
            tell("kmoddctl status --json, daemon", ROUNDS, CTL, "status", "--json", "--root", root)
            tell("kmoddctl explain, daemon", ROUNDS, CTL, "explain", "trivial3", "--root", root)
            tell("kmoddctl --complete modules", ROUNDS, CTL, "--complete", "modules", "--root", root)
            tell("python3 -c pass", ROUNDS, sys.executable, "-c", "pass")
        print(f"dkms status takes {theirs / ours:.0f} times as long, {theirs / alone:.0f} times without the daemon")


if __name__ == "__main__":
    main()
