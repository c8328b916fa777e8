"""05-kmodd.install under the shells that are here: it holds a kernel only where all says so, and never fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import LIMIT

from kmodd.core.booting import BootEntry
from kmodd.core.guardfile import guard_text

PLUGIN = Path(__file__).parents[2] / "packaging/05-kmodd.install"
OLD, NEW = "5.14.0-70.el9.x86_64", "5.14.0-427.13.1.el9_4.x86_64"
ID = "8e4d7a3c9d0b4f6e9a3a1c5f2b7d6e80"
ENTRIES = "/boot/loader/entries"
FALLBACK = BootEntry(f"{ID}-{OLD}", f"{ENTRIES}/{ID}-{OLD}.conf", "", OLD, f"/boot/vmlinuz-{OLD}", (f"/boot/i-{OLD}",))
GUARD = guard_text(FALLBACK, "rocky 9", [ENTRIES], [])
HOLDS, PASSES = 77, 0
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("bwrap"), reason="a root of its own needs root")


@dataclass
class Server:
    """A root in which the plugin runs: bwrap's, over directories that a test fills. shell: runs the plugin."""

    top: Path
    shell: str = "dash"

    def write(self, path: str, text: str = "x") -> Path:
        file = self.top / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        return file

    def __call__(self, *words: str, own_init: bool = True, **env: str) -> int:
        argv = ["bwrap", "--dev", "/dev", "--ro-bind", "/usr", "/usr", "--ro-bind", PLUGIN, "/plugin"]
        for name in ("bin", "lib", "lib64", "sbin"):
            argv += ["--symlink", f"usr/{name}", f"/{name}"]
        for name in ("etc", "var", "boot", "run"):
            argv += ["--bind", self.top / name, f"/{name}"]
        argv += ["--unshare-pid", "--proc", "/proc"] if own_init else ["--ro-bind", "/proc", "/proc"]
        shell = (
            ["busybox", "sh"]
            if self.shell == "busybox"
            else [self.shell, *(["--posix"] if self.shell == "bash" else [])]
        )
        done = subprocess.run(
            [*map(str, argv), *shell, "/plugin", *words], capture_output=True, text=True, timeout=LIMIT,
            env={"PATH": "/usr/bin:/bin", **env},
        )  # fmt: skip
        assert (done.stdout, done.stderr) == ("", "")
        return done.returncode

    @property
    def held(self) -> list[str]:
        return sorted(path.name for path in (self.top / "var/lib/kmodd/boot/held").glob("*"))


def furnish(top: Path, shell: str = "dash") -> Server:
    server = Server(top, shell)
    server.write("/var/lib/kmodd/boot/guard", GUARD)
    (top / "var/lib/kmodd/boot/held").mkdir()
    for path in (FALLBACK.file, FALLBACK.image, *FALLBACK.initrds):
        server.write(path)
    server.write("/etc/os-release", 'NAME="Rocky Linux"\nID="rocky"\nVERSION_ID="9.4"\n')
    wants = top / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "kmodd.service").symlink_to("/usr/lib/systemd/system/kmodd.service")
    (top / "run/systemd/system").mkdir(parents=True)
    return server


@pytest.fixture(params=SHELLS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    yield furnish(tmp_path, request.param)


def add(server: Server, release: str = NEW, **env: str) -> int:
    return server("add", release, f"/boot/{ID}/{release}", f"/lib/modules/{release}/vmlinuz", **env)


def test_a_new_kernel_is_held_and_noted(server: Server) -> None:
    assert add(server) == HOLDS
    assert server.held == [NEW]


Change = Callable[[Server], object]


def guard(text: str) -> Change:
    return lambda server: server.write("/var/lib/kmodd/boot/guard", text)


def remove(path: str) -> Change:
    return lambda server: (server.top / path).unlink()


def link_guard(server: Server) -> None:
    path = server.top / "var/lib/kmodd/boot/guard"
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def make_directory(server: Server) -> None:
    path = server.top / FALLBACK.initrds[0].lstrip("/")
    path.unlink()
    path.mkdir()


DOUBTS: dict[str, Change] = {
    "no guard file": remove("var/lib/kmodd/boot/guard"),
    "a guard file that is a link": link_guard,
    "an empty one": guard(""),
    "one that says no": guard(guard_text(None, "")),
    "one that was cut short": guard(GUARD[: GUARD.index("end")]),
    "one with more behind its end": guard(GUARD + "hold yes\n"),
    "one of a later schema": guard(GUARD.replace("schema 1", "schema 2")),
    "one with a key that is not known": guard(GUARD.replace("hold yes", "hold yes\nmode strict")),
    "one that names no files": guard("".join(line for line in GUARD.splitlines(True) if not line.startswith("file"))),
    "one with a command in it": guard(GUARD.replace("hold yes", "hold $(touch /boot/x)yes")),
    "one without an end of lines": guard(GUARD.replace("\n", " ")),
    "one of another system": guard(GUARD.replace("rocky 9", "rocky 8")),
    "one whose fallback is the kernel itself": guard(GUARD.replace(f"fallback {OLD}", f"fallback {NEW}")),
    "the kernel is ready": guard(GUARD.replace("\nend", f"\nready {NEW}\nend")),
    "the fallback's entry is gone": remove(FALLBACK.file.lstrip("/")),
    "its image is gone": remove(FALLBACK.image.lstrip("/")),
    "its initramfs is empty": lambda server: server.write(FALLBACK.initrds[0], ""),
    "its initramfs is a directory": make_directory,
    "the kernel has an entry": lambda server: server.write(f"{ENTRIES}/{ID}-{NEW}.conf"),
    "the kernel has an entry with boot counts": lambda server: server.write(f"{ENTRIES}/{ID}-{NEW}+3-1.conf"),
    "a release upgrade": lambda server: server.write("/etc/os-release", "ID=rocky\nVERSION_ID=10.0\n"),
    "another distribution": lambda server: server.write("/etc/os-release", "ID=rhel\nVERSION_ID=9.4\n"),
    "no os-release": remove("etc/os-release"),
    "systemd does not run": lambda server: shutil.rmtree(server.top / "run/systemd"),
    "kmodd is disabled": remove("etc/systemd/system/multi-user.target.wants/kmodd.service"),
    "what is held cannot be noted": lambda server: (server.top / "var/lib/kmodd/boot/held").rmdir(),
    "/var is empty": lambda server: shutil.rmtree(server.top / "var/lib"),
    "/boot is not mounted": lambda server: [shutil.rmtree(server.top / "boot"), (server.top / "boot").mkdir()],
}  # fmt: skip


@pytest.mark.parametrize("change", DOUBTS.values(), ids=DOUBTS)
def test_in_doubt_a_kernel_becomes_bootable_as_ever(server: Server, change: Change) -> None:
    change(server)
    assert add(server) == PASSES
    assert server.held == []
    assert not (server.top / "boot/x").exists()


def test_what_is_no_installation_of_a_kernel_is_let_pass(server: Server) -> None:
    for words in (
        (),
        ("remove", NEW),
        ("add",),
        ("add", ""),
        ("add", "../x"),
        ("add", ".x"),
        ("add", "a b"),
        ("add", "a\nb"),
        ("add", "*"),
    ):
        assert server(*words) == PASSES, words
    assert add(server, KMODD_HOLD="0") == PASSES
    assert server.held == []
    assert add(server, KMODD_HOLD="1") == HOLDS


def test_a_chroot_is_let_pass(server: Server) -> None:
    assert server("add", NEW, own_init=False) == PASSES
    assert server.held == []


def test_an_entry_of_another_flavour_does_not_count(server: Server) -> None:
    server.write(f"{ENTRIES}/{ID}-{NEW}+debug.conf")
    assert add(server) == HOLDS


def test_a_minor_update_of_the_system_is_held_all_the_same(server: Server) -> None:
    server.write("/etc/os-release", "ID=rocky\nVERSION_ID='9.5'\n")
    assert add(server) == HOLDS


@pytest.mark.parametrize("leftover", [None, "file"])
def test_the_directory_that_systemd_239_makes_is_taken_back_where_it_is_empty(
    server: Server, leftover: Optional[str]
) -> None:
    directory = server.top / "boot" / ID / NEW
    directory.mkdir(parents=True)
    if leftover:
        (directory / leftover).touch()
    assert add(server) == HOLDS
    assert directory.exists() == directory.parent.exists() == bool(leftover)


def test_a_full_disk_holds_nothing(server: Server) -> None:
    held = server.top / "var/lib/kmodd/boot/held"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", held], check=True)
    try:
        assert add(server) == PASSES
    finally:
        subprocess.run(["umount", held], check=True)


LINES = st.sampled_from(
    [*GUARD.splitlines(), "hold no", "end", "file /", f"ready {NEW}", "schema", "\0", "file /dev/zero"]
)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=40)
@given(
    text=st.one_of(
        st.lists(LINES).map("\n".join),
        st.text(max_size=2000),
        st.binary(max_size=2000).map(lambda b: b.decode("latin-1")),
    )
)
def test_whatever_the_guard_file_holds_it_ends_with_0_or_77(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    server = furnish(tmp_path_factory.mktemp("guard"))
    server.write("/var/lib/kmodd/boot/guard", text)
    code = add(server)
    assert code in (PASSES, HOLDS)
    assert (code == HOLDS) == (server.held == [NEW])


def test_it_takes_a_moment_only(tmp_path: Path) -> None:
    """What a process of bwrap's takes is taken off; the least of some runs, since others use this machine, too."""
    server = furnish(tmp_path)
    ready = "".join(f"ready 5.14.0-{number}.el9.x86_64\n" for number in range(200))
    server.write("/var/lib/kmodd/boot/guard", GUARD.replace("end\n", f"{ready}end\n"))

    def least(*words: str) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            server(*words)
            times.append(time.perf_counter() - began)
        return min(times)

    assert least("add", NEW) - least("remove", NEW) < 0.05
