"""systemd takes the units as they are written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

UNITS = Path(__file__).resolve().parents[2] / "systemd"


def test_units_are_free_of_errors(tmp_path: Path) -> None:
    programs = tmp_path / "usr/bin"
    programs.mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    for name in ("kmodd", "kill", "sh"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        shutil.copy(unit, tmp_path / "usr/lib/systemd/system")
    argv = ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "kmodd.service", "kmodd.socket"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
