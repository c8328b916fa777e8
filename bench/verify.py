"""`kmoddctl verify` on 10 modules x 3 kernels, which always checks anew, and `kmoddctl status` with and without what
was remembered of unchanged files. The page cache is as it is."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import world

ROUNDS = 5


def measure(root: Path, command: str, forget: bool) -> list[float]:
    """Return the seconds that a command took, some times over."""
    times = []
    for _ in range(ROUNDS):
        if forget:
            (root / "var/cache/kmodd/verified.json").unlink(missing_ok=True)
        began = time.monotonic()
        done = world.kmoddctl(root, command)
        times.append(time.monotonic() - began)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
    return times


def main() -> None:
    with world.private_root() as root:
        for release in world.releases():
            world.install(root, release)
        world.add_modules(root, 10)
        done = world.kmoddctl(root, "sync")
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        for command, forget in (("verify", True), ("verify", False), ("status", True), ("status", False)):
            times = measure(root, command, forget)
            what = "nothing remembered" if forget else "warm"
            print(f"kmoddctl {command}, {what}: median {statistics.median(times):.2f} s, worst {max(times):.2f} s")


if __name__ == "__main__":
    main()
