"""make demo: the main job on real kernels in a private root, as an administrator would see it.

A daemon runs; kernels come and go by real rpm; nobody else lifts a finger. Ends with exit status 0 only if every
verdict is what it should be, and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ground import kernels, privateroot
from patience import LIMIT, wait_until

HELLO = """\
#include <linux/module.h>
static char *whom = "world";
module_param(whom, charp, 0444);
static int __init hello_init(void) { pr_info("hello, %s\\n", whom); return 0; }
static void __exit hello_exit(void) { }
module_init(hello_init);
module_exit(hello_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("says hello");
"""
HELLO_FILE = """\
[module]
version = "1.0"

[source]
path = "/usr/src/hello-1.0"

[load]
at_boot = ["hello"]
options = { hello = "whom=server" }
"""
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def say(text: str) -> None:
    """Print a heading of the demo."""
    bold, plain = ("\x1b[1m", "\x1b[0m") if COLOUR else ("", "")
    print(f"\n{bold}== {text}{plain}", flush=True)


class Demo:
    """One private root with a daemon on it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = privateroot.make_root(top / "root")
        self.daemon: Optional[subprocess.Popen[str]] = None
        self.kernels = [*reversed(kernels.pick("6.1", 2)), *kernels.pick("6.12", 1)]

    def start(self) -> None:
        """Start kmodd and print its log as it comes."""
        argv = [sys.executable, "-m", "kmodd.daemon", "--root", str(self.root)]
        print(f"$ kmodd --root {self.root} &")
        self.daemon = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._follow, args=(self.daemon,), daemon=True).start()

    def _follow(self, daemon: subprocess.Popen[str]) -> None:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            print(f"   kmodd | {line}", end="", flush=True)

    def stop(self) -> None:
        """Stop kmodd as systemd would."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            status = self.daemon.wait(LIMIT)
            if status != 0:
                raise SystemExit(f"kmodd ended with status {status}")

    def rpm(self, *words: str | Path) -> None:
        """Run rpm on the private root and show how it is called."""
        shown = " ".join(Path(w).name if isinstance(w, Path) else w for w in words)
        print(f"$ rpm --root … {shown}", flush=True)
        privateroot.rpm(self.root, *words)

    def kmoddctl(self, *words: str) -> str:
        """Run kmoddctl on the private root and show what it prints."""
        print(f"$ kmoddctl {' '.join(words)} --root …", flush=True)
        argv = [sys.executable, "-m", "kmodd.ctl", *words, "--root", str(self.root)]
        done = subprocess.run(argv, capture_output=True, text=True)
        print(done.stdout + done.stderr + f"[exit status {done.returncode}]", flush=True)
        return done.stdout

    def status(self) -> dict[str, Any]:
        """Return `kmoddctl status --json`."""
        argv = [sys.executable, "-m", "kmodd.ctl", "status", "--json", "--root", str(self.root)]
        answer: dict[str, Any] = json.loads(subprocess.run(argv, capture_output=True, text=True).stdout)
        return answer

    def wait(self, wanted: dict[tuple[str, str], str]) -> None:
        """Wait until targets have the verdicts that they should."""

        def reached() -> bool:
            found = {(t["module"], t["kernel"]): t["verdict"] for t in self.status()["targets"]}
            return all(found.get(key) == verdict for key, verdict in wanted.items())

        wait_for(reached, f"verdicts {wanted}; they are {self.status()['targets']}")


def wait_for(reached: Callable[[], bool], what: str) -> None:
    """Wait for something to come true; ends the demo where it does not."""
    try:
        wait_until(reached, what)
    except AssertionError as error:
        raise SystemExit(f"demo failed: {error}") from error


def play(demo: Demo) -> None:
    """The story."""
    old, new, next_series = demo.kernels
    rpms = {release: kernels.make(release, demo.top / "rpms") for release in demo.kernels}
    registry = demo.root / "etc/kmodd/modules.d"
    say("A server with two out-of-tree modules: hello (ours), v4l2loopback (Debian's unchanged source package)")
    source = demo.root / "usr/src/hello-1.0"
    source.mkdir(parents=True)
    (source / "hello.c").write_text(HELLO)
    (source / "Makefile").write_text("obj-m := hello.o\n")
    registry.mkdir(parents=True)
    (registry / "hello.toml").write_text(HELLO_FILE)
    fetch = Path(__file__).resolve().parent / "ground/fetch_source"
    subprocess.run([sys.executable, fetch, "v4l2loopback", demo.root], check=True, capture_output=True)
    third = next((demo.root / "usr/src").glob("v4l2loopback-*"))
    demo.kmoddctl("add", f"/usr/src/{third.name}")
    demo.start()

    say(f"yum update kernel: {old} and its kernel-devel in one transaction")
    demo.rpm("-i", *rpms[old])
    demo.wait({("hello", old): "ready", ("v4l2loopback", old): "ready"})
    demo.kmoddctl("status")

    core, modules_core, devel = rpms[new]
    say(f"{new} comes without its headers: kmodd waits, and says for what")
    demo.rpm("-i", core, modules_core)
    demo.wait({("hello", new): "waiting", ("v4l2loopback", new): "waiting"})
    demo.kmoddctl("status", "--kernel", new)
    say("the headers arrive later")
    demo.rpm("-i", devel)
    demo.wait({("hello", new): "ready", ("v4l2loopback", new): "ready"})
    modprobe = ["modprobe", "-d", str(demo.root), "-S", new, "-C", str(demo.root / "etc/modprobe.d"), "--show-depends"]
    print(f"$ modprobe -S {new} --show-depends hello")
    shown = subprocess.run([*modprobe, "hello"], capture_output=True, text=True, check=True).stdout
    print(shown.replace(str(demo.root), ""), end="", flush=True)

    say(f"{next_series}: this update breaks v4l2loopback, and nobody has to find out by rebooting into it")
    demo.rpm("-i", *rpms[next_series])
    demo.wait({("hello", next_series): "ready", ("v4l2loopback", next_series): "failed"})
    demo.kmoddctl("status")
    demo.kmoddctl("explain", "v4l2loopback", "--kernel", next_series)

    say("the old kernel is removed: what kmodd put there goes with it")
    print(f"$ rpm --root … -e {' '.join(privateroot.erase(demo.root, old))}", flush=True)
    left = demo.root / "lib/modules" / old
    wait_for(lambda: not left.exists(), f"{left} to go")
    demo.kmoddctl("status")
    demo.stop()


def main() -> int:
    """Entry point."""
    began = time.monotonic()
    print("Getting three real kernels as RPMs (kept for the next time) …", flush=True)
    with tempfile.TemporaryDirectory(prefix="kmodd-demo.", dir=privateroot.find_scratch(4096)) as name:
        demo = Demo(Path(name))
        for release in demo.kernels:
            kernels.make(release, demo.top / "rpms")
        print(f"Ready after {time.monotonic() - began:.0f} s of set-up.")
        began = time.monotonic()
        try:
            play(demo)
        finally:
            if demo.daemon is not None and demo.daemon.poll() is None:
                demo.daemon.kill()
    assert not Path(name).exists()
    say(f"done in {time.monotonic() - began:.0f} s; the private root is gone again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
