"""kmodd on a booted system (systemd-nspawn, as make systemd-test has it): what it costs the server that it runs on.

server.py [trigger] [load] [security] [idle [SECONDS]]: all of them without words, idle for 600 s.
trigger: what kmodd's file triggers add to an rpm transaction. load: what a service loses while kmodd builds.
security: the score of systemd-analyze. idle: memory and processor time of the unit's control group.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/booted"))

from ground.smallrpm import make_small
from nspawn import Machine, Repository

BLOCKS, PAIRS = 6, 5  # with and without kmodd in turns, so many transactions of both kinds in each
COUNT = """\
import os, sys, time
end = time.monotonic() + float(sys.argv[1])
children = []
for _ in range(os.cpu_count()):
    read, write = os.pipe()
    if os.fork() == 0:
        done = 0
        while time.monotonic() < end:
            for _ in range(10000): pass
            done += 1
        os.write(write, str(done).encode())
        os._exit(0)
    children.append(read)
print(sum(int(os.read(child, 99)) for child in children))
"""


def transactions(machine: Machine) -> list[float]:
    """Return the seconds that some installations and removals took."""
    script = (
        "import subprocess, time\n"
        f"for _ in range({PAIRS}):\n"
        "    for words in ('-i', '/small-1-1.noarch.rpm'), ('-e', 'small'):\n"
        "        began = time.perf_counter()\n"
        "        subprocess.run(['rpm', *words], check=True)\n"
        "        print(time.perf_counter() - began, flush=True)\n"
    )
    return [float(line) for line in machine.run("python3", "-c", script).split()]


def trigger(machine: Machine, repository: Repository) -> None:
    make_small(machine.root)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(BLOCKS):
        for has in (False, True):
            machine.run("rpm", *(("-i", repository.kmodd) if has else ("-e", "kmodd")))
            if has:
                machine.run("systemctl", "start", "kmodd")
                time.sleep(3)
            taken[has] += transactions(machine)
    with_, without = (statistics.median(taken[has]) * 1000 for has in (True, False))
    print(
        f"rpm -i and rpm -e of a package with files below /usr/lib/modules, {len(taken[True])} each, in turns: median "
        f"{with_:.1f} ms with kmodd's triggers, {without:.1f} ms without: {with_ - without:+.1f} ms "
        f"(fastest {min(taken[True]) * 1000:.1f} and {min(taken[False]) * 1000:.1f})",
        flush=True,
    )


def load(machine: Machine, repository: Repository) -> None:
    """Count in a service of the default weight, alone and while kmodd builds with as many jobs as there are cores."""
    machine.write("/root/count", COUNT)
    words = [
        "systemd-run",
        "--quiet",
        "--pipe",
        "--wait",
        "-p",
        "Description=production",
        "python3",
        "/root/count",
        "10",
    ]
    busy = "".join(f"obj-m += busy{n}.o\n" for n in range(60))
    shares = []
    for turn in range(3):
        alone = int(machine.run(*words))
        name = f"load{turn}"
        machine.write(f"/usr/src/{name}-1.0/Makefile", busy)
        for n in range(60):
            machine.write(f"/usr/src/{name}-1.0/busy{n}.c", BUSY.format(n=n))
        machine.run("kmoddctl", "add", f"/usr/src/{name}-1.0")
        machine.wait_for(name, repository.new, "building")
        time.sleep(1)
        shares.append(int(machine.run(*words)) / alone)
        still = machine.target(name, repository.new)["verdict"]
        assert still == "building", f"the build ended too early: {still}"
        machine.run("kmoddctl", "remove", name)
        machine.wait(lambda name=name: not machine.target(name, repository.new), "the removal")  # type: ignore[misc]
    print(
        f"a service on all cores gets {statistics.median(shares):.0%} of what it gets alone, while kmodd builds "
        f"({', '.join(f'{share:.0%}' for share in shares)})",
        flush=True,
    )


BUSY = """\
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/fs.h>
MODULE_LICENSE("GPL");
int busy_number_{n};
"""


def security(machine: Machine) -> None:
    for unit in ("kmodd.service", "kmodd-boot.service"):
        print(machine.run("systemd-analyze", "security", unit).splitlines()[-1].strip(), flush=True)


def processor_time(machine: Machine) -> tuple[float, str]:
    """Return the milliseconds that the unit's control group used, where the kernel counts that; else the daemon."""
    shown = machine.run("systemctl", "show", "--value", "--property", "CPUUsageNSec", "kmodd").strip()
    if shown.isdigit():
        return int(shown) / 1e6, "the control group"
    script = f"cat /proc/{machine.pid()}/task/*/schedstat"  # the first number: nanoseconds on a processor
    return sum(int(line.split()[0]) for line in machine.run("sh", "-c", script).splitlines()) / 1e6, "the daemon"


def idle(machine: Machine, seconds: int) -> None:
    machine.run("systemctl", "restart", "kmodd")  # what builds left in the page cache is not its own
    time.sleep(20)
    pid = machine.pid()
    before, _ = processor_time(machine)
    time.sleep(seconds)
    after, whose = processor_time(machine)
    assert machine.pid() == pid
    group = int(machine.run("systemctl", "show", "--value", "--property", "MemoryCurrent", "kmodd"))
    status = machine.run("cat", f"/proc/{pid}/status")
    anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    print(
        f"idle for {seconds} s: memory of the control group {group / 2**20:.1f} MiB, of that anonymous memory of the "
        f"daemon {anonymous / 1024:.1f} MiB; processor time of {whose} {after - before:.1f} ms",
        flush=True,
    )


def main() -> None:
    words = sys.argv[1:] or ["trigger", "load", "security", "idle"]
    seconds = next((int(word) for word in words if word.isdigit()), 600)
    machine = Machine()
    try:
        repository = machine.furnish()
        machine.start()
        machine.allow()
        machine.run("rpm", "-i", repository.standing, repository.kmodd)
        machine.run("systemctl", "start", "kmodd")
        machine.add("hello", options=("--at-boot", "hello"))
        machine.run("rpm", "-i", *repository.kernels[repository.new])
        machine.wait_for("hello", repository.new)
        if "trigger" in words:
            trigger(machine, repository)
        if "load" in words:
            load(machine, repository)
        if "security" in words:
            security(machine)
        if "idle" in words:
            idle(machine, seconds)
    finally:
        machine.close()


if __name__ == "__main__":
    main()
