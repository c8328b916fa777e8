"""Running a program with a private root as its /, as on the machine that the root would be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]


def enter(root: Path, *argv: object, env: dict[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run argv with root as /, its /usr completed by this machine's programs and libraries, read-only."""
    command: list[object] = ["bwrap", "--bind", root, "/", "--dev", "/dev", "--proc", "/proc", "--die-with-parent"]
    for name in ("bin", "sbin", "lib", "lib64", "share", "local"):
        top = Path("/usr") / name
        if name != "lib" and top.is_dir():
            command += ["--ro-bind", top, top]
    for path in sorted(Path("/usr/lib").iterdir()):
        if path.name not in ("modules", "kmodd", "systemd", "modules-load.d", "modprobe.d", "depmod.d"):
            command += ["--ro-bind", path, path]
    for name in ("bin", "sbin", "lib64"):
        if not (root / name).exists():
            command += ["--symlink", f"usr/{name}", f"/{name}"]
    for path in {Path(sys.prefix), Path(sys.base_prefix), TOP}:
        command += ["--ro-bind", path, path]
    etc = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "ssl", "passwd", "group")
    for path in (Path("/etc", name) for name in etc):
        command += ["--ro-bind", path, path] if path.exists() else []
    command += ["--chdir", "/", "--setenv", "PYTHONPATH", TOP]
    for name, value in env.items():
        command += ["--setenv", name, value]
    return subprocess.run(
        [*map(str, command), *map(str, argv)], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, **more
    )
