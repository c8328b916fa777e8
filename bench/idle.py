"""The idle daemon on 10 modules x 3 kernels: resident memory, wake-ups, processor time; and what status costs."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import world

SECONDS = 60


def read_status(pid: int) -> dict[str, int]:
    """Return memory in KiB and voluntary context switches, summed over the threads."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssAnon", "RssFile", "Threads"):
            found[name] = int(value.split()[0])
    found["switches"] = sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    found["ticks"] = int(fields[11]) + int(fields[12])
    return found


def main() -> None:
    with world.private_root() as root:
        for release in world.releases():
            world.install(root, release)
        world.add_modules(root, 10)
        began = time.monotonic()
        with world.daemon(root, root.parent / "log") as child:
            world.wait_ready(root, 30)
            print(f"10 modules x 3 kernels from nothing to ready: {time.monotonic() - began:.1f} s")
            time.sleep(5)
            before = read_status(child.pid)
            time.sleep(SECONDS)
            after = read_status(child.pid)
            print(
                f"idle for {SECONDS} s: VmRSS {after['VmRSS'] / 1024:.1f} MiB "
                f"(anonymous {after['RssAnon'] / 1024:.1f}, files {after['RssFile'] / 1024:.1f}; peak "
                f"{after['VmHWM'] / 1024:.1f}), {after['Threads']} threads, "
                f"{after['switches'] - before['switches']} wake-ups, {after['ticks'] - before['ticks']} ticks of CPU"
            )
            for command in ("status", "check", "gate"):
                times = []
                for _ in range(7):
                    began = time.monotonic()
                    world.kmoddctl(root, command)
                    times.append(time.monotonic() - began)
                print(f"kmoddctl {command}: median {statistics.median(times) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
