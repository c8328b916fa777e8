"""One side of bench/dkms.py, in mount and pid namespaces of its own: contest.py SIDE WORK DKMS LAYERS RELEASE...

WORK: an empty directory. LAYERS: of the root, as overlayfs takes them. Prints JSON: what each step took, and which
objects are installed, by release.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY, CERTIFICATE = "/etc/kmodd/keys/signing.key", "/etc/kmodd/keys/signing.x509"
JOBS = os.cpu_count() or 1
CGROUPS = next(p for p in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (p / "cgroup.procs").exists())
#: Modules that take longest, first: what a patient person would find out.
LONGEST = (
    "jool-dkms", "xtables-addons", "nat-rtsp", "digimend", "dm-writeboost", "tp_smapi", "rapiddisk-dkms", "ddcci",
    "v4l2loopback", "bbswitch", "dpdk-kmods",
)  # fmt: skip
#: What a dkms.conf says for a kernel, for BY_HAND: RELEASE BUILD CONF
SAID = r"""
kernelver=$1 kernel_source_dir=/lib/modules/$1/build dkms_tree=$2 source_tree=/usr/src arch=x86_64
. "$3"
declare -p MAKE BUILT_MODULE_NAME BUILT_MODULE_LOCATION 2>/dev/null
echo "kernelver=$1 kernel_source_dir=$kernel_source_dir source=${3%/*}"
echo "work=$2/$PACKAGE_NAME/$PACKAGE_VERSION/build name=$PACKAGE_NAME"
"""
#: One module for one kernel by hand: PLAN KEY CERTIFICATE DIRECTORY [-jN]
BY_HAND = r"""
set -e
. "$1"
mkdir -p "${work%/*}"
cp -a "$source" "$work"
cd "$work"
jobs=$5
make() { command make $jobs "$@"; }
eval "${MAKE[0]:-make -C $kernel_source_dir M=$work}" >log 2>&1
objects=()
for i in "${!BUILT_MODULE_NAME[@]}"; do objects+=("${BUILT_MODULE_LOCATION[i]:-.}/${BUILT_MODULE_NAME[i]}.ko"); done
strip -g "${objects[@]}"
for object in "${objects[@]}"; do "$kernel_source_dir/scripts/sign-file" sha256 "$2" "$3" "$object"; done
if [ -n "$(find "/lib/modules/$kernelver/kernel/lib" -name '*.ko.xz' -print -quit)" ]; then
    xz -q -f --check=crc32 --lzma2=dict=1MiB "${objects[@]}"
    objects=("${objects[@]/%/.xz}")
fi
mkdir -p "$4/$name"
cp "${objects[@]}" "$4/$name"
"""


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program that must succeed."""
    return subprocess.run([str(word) for word in words], check=True, text=True, **options)


def mount(work: Path, layers: str) -> Path:
    """Lay the root over the host's /usr/src and /lib/modules; /etc/dkms and /var/lib/dkms are empty."""

    def overlay(lower: str, place: Path) -> None:
        parts = [work / "layers" / str(place).replace("/", "_") / name for name in ("upper", "work")]
        for part in parts:
            part.mkdir(parents=True)
        place.mkdir(exist_ok=True)
        options = f"lowerdir={lower},upperdir={parts[0]},workdir={parts[1]}"
        run("mount", "-t", "overlay", "-o", options, "overlay", place)

    root = work / "root"
    overlay(layers, root)
    for place in ("/etc", "/usr/lib", "/var/lib"):
        overlay(place, Path(place))
    for place in ("/usr/src", "/usr/lib/modules"):
        Path(place).mkdir(exist_ok=True)
        run("mount", "--bind", f"{root}{place}", place)
    for place in ("/etc/dkms", "/var/lib/dkms"):
        Path(place).mkdir()
    return root


def count_started() -> int:
    """Return how many processes and threads were started here; before Linux 6.14, on the whole machine."""
    if int(Path("/proc/sys/kernel/pid_max").read_text()) >= 1 << 20:  # a namespace has numbers of its own
        return int(Path("/proc/sys/kernel/ns_last_pid").read_text())
    return int(Path("/proc/stat").read_text().partition("\nprocesses ")[2].split()[0])


def measure(command: str, failing: bool = False, nice: int = 10) -> dict[str, float]:
    """Run a command; returns seconds of wall and processor, and the processes that it started.

    A cgroup counts the processor's time: bwrap does not wait for its child, whose time its parent is not told then.
    """
    group = Path(tempfile.mkdtemp(prefix="kmodd-bench.", dir=CGROUPS))
    before, began = count_started(), time.perf_counter()
    words = ["bash", "-c", f"echo $$ >{group}/cgroup.procs; exec nice -n {nice} bash -c {shlex.quote(command)}"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wall = time.perf_counter() - began
    cpu = int((group / "cpu.stat").read_text().split()[1]) / 1e6
    group.rmdir()
    if done.returncode and not failing:
        sys.exit(f"{command}: ended with {done.returncode}\n{done.stdout.decode(errors='replace')[-3000:]}")
    return {"wall": wall, "cpu": cpu, "processes": count_started() - before}


def by_dkms(root: Path, work: Path, dkms: str, releases: list[str]) -> dict[str, dict[str, float]]:
    key, certificate = f"{root}{KEY}", f"{root}{CERTIFICATE}"
    Path("/etc/dkms/framework.conf").write_text(f'mok_signing_key="{key}"\nmok_certificate="{certificate}"\n')
    for conf in sorted(Path("/usr/src").glob("*/dkms.conf")):
        run(dkms, "add", conf.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command = "; ".join(f"{dkms} autoinstall -k {release}" for release in releases)
    failing = len(releases) > 1
    return {"build": measure(command, failing), "again": measure(command, failing)}


def by_hand(root: Path, work: Path, releases: list[str], how: str) -> dict[str, dict[str, float]]:
    script, plans = work / "by-hand", []
    script.write_text(BY_HAND)
    for release in releases:
        confs = {conf.parent.name.rpartition("-")[0]: conf for conf in sorted(Path("/usr/src").glob("*/dkms.conf"))}
        for name in sorted(confs, key=lambda n: (LONGEST.index(n) if n in LONGEST else len(LONGEST), n)):
            plan = work / f"{release}.{name}"
            words = ["bash", "-c", SAID, "bash", release, work / "build" / release, confs[name]]
            plan.write_text(run(*words, stdout=subprocess.PIPE).stdout)
            words = ["bash", script, plan, f"{root}{KEY}", f"{root}{CERTIFICATE}", f"/lib/modules/{release}/updates"]
            plans.append((release, " ".join(map(str, words))))
    depmods = [f"depmod {release}" for release in releases]
    if how == "loop":
        command = "; ".join([*(f"{line} -j{JOBS}" for _, line in plans), *depmods])
    elif how == "pairs":
        lines = "\n".join(line for _, line in plans)
        command = f"xargs -P{JOBS} -d '\\n' -n1 bash -c <<'EOF'\n{lines}\nEOF\n" + "; ".join(depmods)
    else:
        rules = [f"{n}:\n\t-+@{line}\n" for n, (_, line) in enumerate(plans)]
        for release in releases:
            needed = " ".join(str(n) for n, (r, _) in enumerate(plans) if r == release)
            rules.append(f"depmod-{release}: {needed}\n\t@depmod {release}\n")
        top = " ".join(f"depmod-{release}" for release in releases)
        names = " ".join(map(str, range(len(plans))))
        (work / "top.mk").write_text(f"all: {names} {top}\n" + "".join(rules))
        command = f"make -j{JOBS} -f {work}/top.mk"
    return {"build": measure(command)}


def by_kmodd(root: Path, work: Path, releases: list[str]) -> dict[str, dict[str, float]]:
    kmoddctl = f"{shlex.quote(str(Path(sys.executable).with_name('kmoddctl')))}"
    run("bash", "-c", f"{kmoddctl} import dkms --all --root {root}", stdout=subprocess.DEVNULL)
    for path in (root / "var/cache/kmodd").glob("*.json"):
        path.unlink()  # what the import found out already
    command, failing = f"{kmoddctl} sync --root {root}", len(releases) > 1
    found = {"build": measure(command, failing, 0), "again": measure(command, failing, 0)}
    daemon = subprocess.Popen(
        [sys.executable, "-m", "kmodd.daemon", "--root", str(root), "--log-level", "error"], cwd="/"
    )
    try:
        while not (root / "run/kmodd/io.kmodd.Manager").exists():
            time.sleep(0.1)
        measure(command, failing, 0)  # waits for its first look
        found["daemon"] = measure(command, failing, 0)
    finally:
        daemon.terminate()
        daemon.wait()
    return found


def find_objects(release: str) -> list[str]:
    """Return the names of the installed objects; all must be signed and known to modprobe."""
    directory = Path("/lib/modules") / release
    known = {line.partition(":")[0] for line in (directory / "modules.dep").read_text().splitlines()}
    found = []
    for path in [*directory.glob("extra/**/*.ko*"), *directory.glob("updates/**/*.ko*")]:
        signer = run("modinfo", "-F", "signer", path, stdout=subprocess.PIPE).stdout.strip()
        if not signer or str(path.relative_to(directory)) not in known:
            sys.exit(f"{path} is not signed, or not in modules.dep")
        found.append(path.name)
    return sorted(found)


def main() -> None:
    side, where, dkms, layers, *releases = sys.argv[1:]
    work = Path(where)
    work.chmod(0o755)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a package brings the byte code of its Python
    root = mount(work, layers)
    sides: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
        "dkms": lambda: by_dkms(root, work, dkms, releases),
        "kmodd": lambda: by_kmodd(root, work, releases),
    }
    steps = sides.get(side, lambda: by_hand(root, work, releases, side))()
    print(json.dumps({"steps": steps, "objects": {release: find_objects(release) for release in releases}}))


if __name__ == "__main__":
    main()
