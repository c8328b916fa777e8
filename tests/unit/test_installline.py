"""What commands of install lines do, as sh(1) runs them with a modprobe that writes down what it is asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Optional

import pytest

from kmodd.verify.installline import Effect, read

LOADS = (
    "modprobe -i one", "/usr/bin/modprobe -i one", "/sbin/modprobe --ignore-install one $CMDLINE_OPTS",
    "modprobe -i one && true", "/bin/true; /usr/bin/modprobe --ignore-install one", "modprobe -i one || false",
    "true && modprobe -q -i one || :", "false || modprobe -i one", "modprobe two; modprobe -i one;",
    ": ; modprobe -i one; exit 0", "/usr/local/sbin/unheard-of; modprobe -i one", "modprobe -i one debug=1",
)  # fmt: skip
LOADS_NOT = (
    "/bin/true", "/bin/false", ":", "exit 0", "exit 1", "true && false && modprobe -i one", "true || modprobe -i one",
    "exit 0; modprobe -i one", "modprobe two", "modprobe -i two", "false && modprobe -i one; true",
)  # fmt: skip
UNTOLD = (
    "/usr/local/sbin/unheard-of", "modprobe one", "modprobe -r one", "modprobe -i -b one",
    "modprobe two && modprobe -i one",
    "modprobe -i $NAME", "{ modprobe -i one; }", "modprobe -i one & true", "modprobe -i one | cat", "modprobe -i 'one'",
    "modprobe -i one >/dev/null", "if true; then modprobe -i one; fi", "modprobe -i one && false",
    "X=1 modprobe -i one",
    "", ";", "&& true", "modprobe -i", "# modprobe -i one", "unheard-of && exit 0; modprobe -i one", "insmod one.ko",
)  # fmt: skip


@pytest.mark.parametrize("command", LOADS)
def test_command_that_loads(command: str) -> None:
    assert read(command, "one", "").loads is True


@pytest.mark.parametrize("command", LOADS_NOT)
def test_command_that_loads_nothing(command: str) -> None:
    assert read(command, "one", "") == Effect(False)


@pytest.mark.parametrize("command", UNTOLD)
def test_command_that_cannot_be_told(command: str) -> None:
    assert read(command, "one", "").loads is None


@pytest.mark.parametrize(
    ("command", "options", "effect"),
    [
        ("modprobe -i one $CMDLINE_OPTS", "number=7 word=a", Effect(True, "number=7 word=a")),
        ("modprobe -i one debug=1 $CMDLINE_OPTS", "number=7", Effect(True, "debug=1 number=7")),
        ("modprobe -i $CMDLINE_OPTS one", "number=7", Effect(False)),  # of a module number=7
        ("modprobe -i one $CMDLINE_OPTS", 'word="a b"', Effect(None)),
        ("modprobe -i one $CMDLINE_OPTS", "word=$HOME", Effect(None)),
        ("modprobe -i one", 'word="a b"', Effect(True)),
    ],
)
def test_options_are_put_into_the_command(command: str, options: str, effect: Effect) -> None:
    assert read(command, "one", options) == effect


@pytest.mark.parametrize("command", [*LOADS, *LOADS_NOT])
def test_shell_does_what_was_told(tmp_path: Path, command: str) -> None:
    """Its modprobe succeeds, and writes down whether it is asked for the module past the install line."""
    program, asked = tmp_path / "modprobe", tmp_path / "asked"
    program.write_text(f'#!/bin/sh\necho "$*" >>{asked}\n')
    program.chmod(0o755)
    for path in ("/usr/bin/modprobe", "/sbin/modprobe", "modprobe"):
        command = command.replace(path, "@")
    command = command.replace("@", str(program)).replace("$CMDLINE_OPTS", "")
    subprocess.run(["sh", "-c", command], capture_output=True)
    lines = asked.read_text().splitlines() if asked.exists() else []
    did: Optional[bool] = any(" one" in line and "-i" in line.replace("--ignore-install", "-i") for line in lines)
    assert did == read(command, "one", "").loads
