"""From the end of the rpm transaction to ready, for one trivial module; beside it the bare make of the same module."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import world

ROUNDS = 5


def ready_at(log: Path, release: str) -> float:
    """Wait for the daemon's word that a kernel is ready; returns when it was written."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if re.search(rf"kernel ready .*kernel={re.escape(release)}", log.read_text()):
            return time.time()
        time.sleep(0.01)
    raise SystemExit(f"not ready: {log.read_text()}")


def main() -> None:
    release = world.releases()[1]
    rows = []
    for _ in range(ROUNDS):
        with world.private_root() as root:
            world.add_modules(root, 1)
            (root / "usr/src/kernels").mkdir(parents=True, exist_ok=True)
            log = root.parent / "log"
            with world.daemon(root, log):
                while "kmodd started" not in log.read_text():
                    time.sleep(0.05)
                time.sleep(2)
                world.install(root, release)
                ended = time.time()
                took = ready_at(log, release) - ended
            build = float(re.findall(r"module built .*seconds=([\d.]+)", log.read_text())[0])
            tree = root / "usr/src/kernels" / release
            began = time.monotonic()
            subprocess.run(
                ["make", "-C", str(tree), f"M={root}/usr/src/trivial0-1.0", "modules"], check=True, capture_output=True
            )
            rows.append((took, build, time.monotonic() - began))
            bare = rows[-1][2]
        print(f"{datetime.now():%H:%M:%S} ready {took:.2f} s after rpm; its build {build:.1f} s; bare make {bare:.2f} s")
    over = sorted(took - build for took, build, _ in rows)[len(rows) // 2]
    print(f"median beyond the build: {over:.2f} s (key generation, signing, depmod, checks and settling included)")


if __name__ == "__main__":
    main()
