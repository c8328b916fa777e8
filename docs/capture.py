#!/usr/bin/env python3
"""Makes docs/gallery.md again: real kernels and drivers on a private root, kmoddctl on a terminal of 80 columns (tmux).

Run it as root from the checkout: .venv/bin/python docs/capture.py. It takes some minutes. The root is a tmpfs on /mnt
in a mount namespace of its own, so that nothing of the machine is touched and paths in the output stay short.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import world
from ground import kernels, privateroot

TOP = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("gallery.md")
ROOT = Path("/mnt")
DRIVERS = ("bbswitch", "dm-writeboost", "v4l2loopback")
INTRODUCTION = """\
# What kmoddctl shows

Captured on a terminal of 80 columns by `docs/capture.py`: real kernels (Debian's, wrapped into RPMs), unchanged
drivers of Debian's *-dkms packages, on a root of its own (`--root /mnt`, left out below). Colours are not shown; they
only repeat what the words say.
"""


class Terminal:
    """A tmux server for each command, with one window of 80 columns."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.runs = 0

    def tmux(self, *words: str) -> str:
        argv = ["tmux", "-S", str(self.scratch / f"tmux.{self.runs}"), "-f", os.devnull, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def run(self, command: str, seconds: float = 0) -> str:
        """Return what is on the screen when a command has ended, or after some seconds."""
        self.runs += 1  # a server that was killed may still be ending
        ended = self.scratch / f"ended.{self.runs}"
        line = f"PATH={TOP}/.venv/bin:$PATH TERM=xterm-256color PAGER=cat {command} --root {ROOT}; "
        self.tmux("new-session", "-d", "-x", "80", "-y", "70", f"{line} touch {ended}; sleep 1000")
        end = time.monotonic() + (seconds or 120)
        while not ended.exists() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.3)
        shown = self.tmux("capture-pane", "-p")
        self.tmux("kill-server")
        return "\n".join(line.rstrip() for line in shown.rstrip().splitlines())


class Gallery:
    """The page as it grows."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.parts = [INTRODUCTION]

    def say(self, title: str, text: str) -> None:
        self.parts.append(f"## {title}\n\n{text}\n")

    def show(self, command: str, seconds: float = 0) -> None:
        shown = self.terminal.run(command, seconds)
        print(f"$ {command}\n{shown}\n", flush=True)
        self.parts.append(f"```console\n# {command}\n{shown}\n```\n")


def boot_next(release: str, options: str = "") -> None:
    """Write what kernel-install and grub2-set-default write on the EL family."""
    entries, machine = ROOT / "boot/loader/entries", "8e4d7a3c9d0b4f6e9a3a1c5f2b7d6e80"
    entries.mkdir(parents=True, exist_ok=True)
    (ROOT / "boot/grub2").mkdir(exist_ok=True)
    text = f"title Linux ({release})\nversion {release}\nlinux /vmlinuz-{release}\noptions root=/dev/sda1 {options}\n"
    (entries / f"{machine}-{release}.conf").write_text(text)
    (ROOT / "boot/grub2/grubenv").write_text(f"# GRUB Environment Block\nsaved_entry={machine}-{release}\n")


def wait(verdicts: dict[tuple[str, str], str]) -> None:
    end = time.monotonic() + 300
    while True:
        found = {(t["module"], t["kernel"]): t["verdict"] for t in world.status(ROOT)["targets"]}
        if all(found.get(target) == verdict for target, verdict in verdicts.items()):
            return
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {verdicts}: {found}")
        time.sleep(1)


def play(gallery: Gallery, scratch: Path) -> None:
    """Tell a server's story."""
    old, new = reversed(kernels.pick("6.1", 2))
    (series,) = kernels.pick("6.12", 1)
    rpms = {release: kernels.make(release, scratch / "rpms") for release in (old, new, series)}
    for name in DRIVERS:
        subprocess.run([sys.executable, TOP / "tests/ground/fetch_source", name, ROOT], check=True, capture_output=True)
        (source,) = (ROOT / "usr/src").glob(f"{name}-*")
        assert world.kmoddctl(ROOT, "add", f"/{source.relative_to(ROOT)}").returncode == 0
    with world.daemon(ROOT, scratch / "log"):
        privateroot.rpm(ROOT, "-i", *rpms[old])
        boot_next(old)
        gallery.say("While it builds", "`watch` right after a kernel was installed.")
        gallery.show("kmoddctl watch", seconds=4)
        wait({(name, old): "ready" for name in DRIVERS})
        core, modules_core, devel = rpms[new]
        gallery.say("Good", "One kernel, three drivers, a running daemon.")
        gallery.show("kmoddctl status")
        privateroot.rpm(ROOT, "-i", core, modules_core)
        boot_next(new)
        wait({(name, new): "waiting" for name in DRIVERS})
        gallery.say("Waiting", "An update brought a kernel without its kernel-devel, and it boots next.")
        gallery.show("kmoddctl status")
        gallery.show("kmoddctl gate")
        gallery.show(f"kmoddctl explain v4l2loopback --kernel {new}")
        privateroot.rpm(ROOT, "-i", devel, *rpms[series])
        wait({(name, new): "ready" for name in DRIVERS} | {("v4l2loopback", series): "failed"})
        wait({("bbswitch", series): "ready"})
        gallery.say("Failed", f"The headers came, and with them {series}, whose changes break a driver.")
        gallery.show("kmoddctl status")
        gallery.show(f"kmoddctl explain v4l2loopback --kernel {series}")
        gallery.show("kmoddctl logs v4l2loopback --list")
    boot_next(series, "module.sig_enforce=1")
    gallery.say("Blocked", f"The boot entry of {series} now demands signatures, and nobody has enrolled the key.")
    gallery.show("kmoddctl status")
    gallery.show(f"kmoddctl explain bbswitch --kernel {series}")
    gallery.say("The host", "`doctor` tells what is missing, and the command that helps.")
    gallery.show("kmoddctl doctor")


def main() -> None:
    if "KMODD_GALLERY" not in os.environ:  # once more, in a mount namespace of its own
        argv = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe("unshare", argv, {**os.environ, "KMODD_GALLERY": "1"})
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g", "tmpfs", ROOT], check=True)
    privateroot.make_root(ROOT)
    with tempfile.TemporaryDirectory(prefix="kmodd-gallery.") as name:
        gallery = Gallery(Terminal(Path(name)))
        play(gallery, Path(name))
    PAGE.write_text("\n".join(gallery.parts))


if __name__ == "__main__":
    main()
