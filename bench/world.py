"""A private root with some kernels and trivial modules, and a daemon on it: what the benchmarks share."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from ground import kernels, privateroot

SOURCE = """\
#include <linux/module.h>
static int __init m_init(void) { return 0; }
static void __exit m_exit(void) { }
module_init(m_init);
module_exit(m_exit);
MODULE_LICENSE("GPL");
"""


def releases() -> list[str]:
    """Return two 6.1 kernels, the older first, and a 6.12 one."""
    return [*reversed(kernels.pick("6.1", 2)), *kernels.pick("6.12", 1)]


@contextlib.contextmanager
def private_root() -> Iterator[Path]:
    """Give an empty private root that goes away again."""
    with tempfile.TemporaryDirectory(prefix="kmodd-bench.", dir=privateroot.find_scratch(4096)) as name:
        yield privateroot.make_root(Path(name) / "root")


def install(root: Path, release: str, slim: bool = True) -> None:
    """Install a kernel with real rpm."""
    files = kernels.make(release, root.parent / "rpms", slim=slim)
    privateroot.rpm(root, "-i", *files)


def add_modules(root: Path, count: int) -> None:
    """Register trivial modules."""
    registry = root / "etc/kmodd/modules.d"
    registry.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        source = root / f"usr/src/trivial{number}-1.0"
        source.mkdir(parents=True)
        (source / f"trivial{number}.c").write_text(SOURCE)
        (source / "Makefile").write_text(f"obj-m := trivial{number}.o\n")
        (registry / f"trivial{number}.toml").write_text(f'[source]\npath = "/usr/src/trivial{number}-1.0"\n')


def kmoddctl(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run kmoddctl on a root."""
    argv = [sys.executable, "-m", "kmodd.ctl", *words, "--root", str(root)]
    return subprocess.run(argv, capture_output=True, text=True)


def status(root: Path) -> dict[str, Any]:
    """Return `kmoddctl status --json`."""
    answer: dict[str, Any] = json.loads(kmoddctl(root, "status", "--json").stdout)
    return answer


@contextlib.contextmanager
def daemon(root: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run kmodd on a root."""
    with log.open("wb") as stream:
        child = subprocess.Popen([sys.executable, "-m", "kmodd.daemon", "--root", str(root)], stderr=stream)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def wait_ready(root: Path, count: int, limit: float = 600) -> None:
    """Wait until so many targets are ready."""
    end = time.monotonic() + limit
    while sum(t["verdict"] == "ready" for t in status(root)["targets"]) < count:
        if time.monotonic() > end:
            raise SystemExit(f"not ready in {limit} s: {kmoddctl(root, 'status').stdout}")
        time.sleep(0.5)
