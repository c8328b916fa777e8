"""Boots a root's kernel in QEMU with that root's modules and configuration, and says what the kernel took.

Nothing of kmodd takes part: the kernel, kmod's modprobe and busybox are the real ones.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from archive import Archive
from patience import LIMIT

SUCCESS = 85  # what isa-debug-exit makes of init's 42; a panic, a hang or an early end cannot look like it
CONFIGURATION = ("modprobe.d", "modules-load.d", "depmod.d")
PLACES = ("etc", "run", "usr/local/lib", "usr/lib")  # where they are


@dataclass(frozen=True)
class Outcome:
    """What became of one module."""

    exit: int  # modprobe's
    stderr: str  # modprobe's
    messages: str  # the kernel's, while modprobe ran
    live: bool
    srcversion: str
    taint: str
    parameters: Mapping[str, str]
    version: str = ""
    debug: int = 0  # how many of its debug messages are on

    @property
    def said(self) -> str:
        """Return the last thing that the kernel said, or else modprobe, to print: without time stamps."""
        lines = (self.messages or self.stderr).strip().splitlines() or ["modprobe passed over it"]
        return re.sub(r"^\[[ .\d]+\] ", "", lines[-1])


@dataclass
class Report:
    """What the guest told of one boot."""

    release: str = ""
    command_line: str = ""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    inserted: dict[str, tuple[str, str]] = field(default_factory=dict)  # module -> path and sha256 of its file


class BootError(Exception):
    """The guest did not come to its end: why, and the end of its console."""


def boot(root: Path, release: str, options: str, modules: Sequence[str], work: Path) -> Report:
    """Boot a root's kernel and let it load modules. options: more words of the kernel's command line.

    modules: canonical names. work: a directory for the archive and the guest's output. Raises BootError.
    """
    told = emulate(_guest(root, release, modules), root / "lib/modules" / release / "vmlinuz", work, options)
    report = read_report(told)
    if report.release != release:
        raise BootError(f"the guest runs {report.release}, not {release}")
    return report


def emulate(
    guest: Archive, kernel: Path, work: Path, options: str = "", memory: int = 512, limit: float = LIMIT
) -> str:
    """Boot a kernel with an archive as all that there is, and return what its init wrote to the second serial port.

    work: a directory for the archive and the console. memory: MiB. limit: seconds. Raises BootError unless init said
    success.
    """
    status, told = launch(guest, kernel, work, options, memory, limit)
    # A kernel in lockdown lets nobody write to ports: init restarts it instead, and what it told must be whole.
    if status != (0 if "lockdown=" in options else SUCCESS):
        raise BootError(f"{kernel}: qemu ended with {status}:\n{_tail(work / 'console')}")
    return told


def launch(
    guest: Archive, kernel: Path, work: Path, options: str = "", memory: int = 512, limit: float = LIMIT
) -> tuple[int, str]:
    """Boot as emulate() does, however it ends; return qemu's exit status and what the guest wrote until then.

    Raises BootError where it did not end.
    """
    work.mkdir(parents=True, exist_ok=True)
    archive, console, told = work / "initramfs.gz", work / "console", work / "report"
    guest.write(archive)
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(memory), "-no-reboot", "-nodefaults"]
    argv += ["-display", "none", "-monitor", "none", "-serial", f"file:{console}", "-serial", f"file:{told}"]
    argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-kernel", str(kernel), "-initrd", str(archive)]
    # no_timer_check: on a busy machine the guest takes its late timer for a broken one, and panics
    argv += ["-append", f"console=ttyS0 panic=-1 nokaslr mitigations=off no_timer_check {options}".strip()]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise BootError(f"{kernel} did not end within {limit:.0f} s:\n{_tail(console)}") from error
    return done.returncode, told.read_text(errors="replace") if told.exists() else done.stderr


def read_report(text: str) -> Report:
    """Return what init's lines say. Raises BootError where the last one is missing."""
    lines = [line.split("\t", 2) for line in text.replace("\r", "").splitlines()]
    if not lines or lines[-1][0] != "end":
        raise BootError("the guest's report is not complete")
    facts: dict[str, dict[str, list[str]]] = {}
    report = Report()
    for kind, module, value in lines:
        facts.setdefault(module, {}).setdefault(kind, []).append(value)
        if kind == "file":
            digest, path = value.split(None, 1)
            report.inserted[path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")] = (path, digest)
    machine = facts.pop("-")
    report.release, report.command_line = machine["release"][0], machine["cmdline"][0]
    for module, found in facts.items():
        if "exit" not in found:
            raise BootError(f"the guest did not try {module}")
        report.outcomes[module] = Outcome(
            exit=int(found["exit"][-1]),
            stderr="\n".join(found.get("stderr", [])),
            messages="\n".join(found.get("dmesg", [])),
            live=found.get("initstate") == ["live"],
            srcversion=found.get("srcversion", [""])[0],
            taint=found.get("taint", [""])[0],
            parameters=dict(item.split("=", 1) for item in found.get("parameter", [])),
            version=found.get("version", [""])[0],
            debug=int(found.get("debug", ["0"])[0]),
        )
    return report


def _tail(console: Path) -> str:
    return "\n".join(console.read_text(errors="replace").splitlines()[-25:]) if console.exists() else ""


def _guest(root: Path, release: str, modules: Sequence[str]) -> Archive:
    archive = Archive()
    archive.file("/init", Path(__file__).with_name("init").read_bytes(), 0o755)
    archive.file("/asked", "".join(f"{name}\n" for name in modules).encode())
    add_kmod(archive, root)
    add_modules(archive, root / "lib/modules" / release, f"/lib/modules/{release}", modules)
    return archive


def add_kmod(archive: Archive, root: Path) -> None:
    """Add busybox, this machine's kmod and the shell that it runs commands by, and a root's configuration of it.

    busybox's own shell would take its own modprobe, whatever the path.
    """
    add_programs(archive, {"/bin/busybox": "busybox", "/usr/bin/kmod": "kmod", "/bin/sh": "sh"})
    for name in ("modprobe", "insmod"):
        archive.link(f"/usr/bin/{name}", "kmod")
    for name in CONFIGURATION:
        for directory in PLACES:
            archive.copy_tree(root / directory / name, f"/{directory}/{name}")
        archive.copy_tree(root / "usr/lib" / name, f"/lib/{name}")  # where a kmod of a split /usr looks


def add_programs(archive: Archive, programs: Mapping[str, str]) -> None:
    """Add programs of this machine with their libraries. programs: path in the guest -> name here."""
    for name, program in programs.items():
        archive.copy(_find(program), name)
        add_libraries(archive, _find(program))


def add_libraries(archive: Archive, program: Path) -> None:
    """Add the shared libraries that a program or library of this machine is linked with."""
    for library in _libraries(program):
        archive.copy(Path(library), library)


def add_modules(
    archive: Archive, directory: Path, name: str, modules: Sequence[str], others: Optional[Collection[str]] = None
) -> None:
    """Add a kernel's directory; of its own modules only those that depmod says could be asked for, and namesakes.

    others: which of the modules that are not the kernel's own; all where it is None.
    """
    kept: set[str] = set()
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        wanted = others is None or _stem(path) in others
        if (wanted and not path.startswith("kernel/")) or _stem(path) in modules:
            kept.update((path, *needed.split()))
    for path in sorted(directory.rglob("*")):
        inside = str(path.relative_to(directory))
        own = inside.startswith("kernel/")
        if own and (path.is_dir() or (inside not in kept and _stem(inside) not in modules)):
            continue
        if others is not None and not own and ".ko" in path.name and _stem(inside) not in others:
            continue
        if inside in ("vmlinuz", "System.map", "config", "build", "source", "symvers.gz"):
            continue
        if path.is_symlink():
            archive.link(f"{name}/{inside}", str(path.readlink()))
        elif path.is_dir():
            archive.directory(f"{name}/{inside}")
        else:
            archive.copy(path, f"{name}/{inside}")


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def _find(program: str) -> Path:
    done = subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()).resolve()


def _libraries(program: Path) -> list[str]:
    done = subprocess.run(["ldd", program], capture_output=True, text=True)  # of a static program it says so, and fails
    return re.findall(r"(/\S+) \(0x", done.stdout)
