"""Completion in real shells: bash, zsh and fish are given what a person has typed, and asked what comes next."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from patience import LIMIT

TOP = Path(__file__).resolve().parents[2]
SCRIPTS = TOP / "packaging/completion"
KERNELS = ["5.14.0-427.13.1.el9_4.x86_64+rt", "6.1.0-56-amd64", "6.12.117+deb12-amd64"]
MODULES = ["bbswitch", "nvme_x", "v4l2loopback"]
ATTEMPT = "20261121T103752-0"

#: What is typed behind kmoddctl, with ROOT for --root and the root -> what is offered.
CASES: list[tuple[str, set[str]]] = [
    ("stat", {"status"}),
    ("e", {"explain", "enable"}),
    ("explain ROOT ", set(MODULES)),
    ("explain ROOT v", {"v4l2loopback"}),
    ("explain ROOT v4l2loopback --kernel 6.1", {"6.1.0-56-amd64", "6.12.117+deb12-amd64"}),
    ("ROOT status --kernel 5", {"5.14.0-427.13.1.el9_4.x86_64+rt"}),
    ("logs ROOT nvme_x --attempt ", {ATTEMPT}),
    ("key ro", {"rotate"}),
    ("key generate --algorithm ", {"rsa", "ecdsa"}),
    ("logs --fo", {"--follow"}),
    ("disable ROOT n", {"nvme_x"}),
    ("import ", {"dkms"}),
    ("import dkms --rem", {"--remove-copies"}),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("completion")
    for release in KERNELS:
        (top / "lib/modules" / release).mkdir(parents=True)
    registry = top / "etc/kmodd/modules.d"
    registry.mkdir(parents=True)
    (registry / "bbswitch.toml").write_text('[source]\npath = "/x"\n')
    (registry / "v4l2loopback.toml").write_text('[module]\nversion = "1"\n[source]\npath = "/x"\n')
    (registry / "nvme.toml").write_text('[module]\n# its own\nname = "nvme_x"\n[source]\npath = "/x"\n')
    log = top / f"var/log/kmodd/nvme_x/6.1.0-56-amd64/{ATTEMPT}.log"
    log.parent.mkdir(parents=True)
    log.touch()
    return top


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": "/nonexistent", "TERM": "dumb", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(TOP)}


def line(typed: str, root: Path) -> str:
    return f"kmoddctl {typed}".replace("ROOT", f"--root {root}")


def ask_bash(text: str) -> set[str]:
    words = text.split(" ")
    script = (
        f"source {SCRIPTS}/kmoddctl.bash\n"
        f"COMP_WORDS=({' '.join(word or chr(39) * 2 for word in words)}); COMP_CWORD={len(words) - 1}\n"
        '_kmoddctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, env=environment())
    assert done.stderr == ""
    return set(done.stdout.split())


def ask_fish(text: str) -> set[str]:
    script = f"source {SCRIPTS}/kmoddctl.fish; complete -C '{text}'"
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, env=environment())
    assert done.stderr == ""
    return {found.split("\t")[0] for found in done.stdout.splitlines() if found}


def ask_zsh(text: str) -> set[str]:
    """Type into an interactive zsh and have it list its choices; each line is names, or a name -- and its help."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**environment(), "PS1": "READY>", "TERM": "xterm", "COLUMNS": "300"})
    heard = ""

    def listen(until: str) -> str:
        nonlocal heard
        while until not in heard:
            assert select.select([terminal], [], [], LIMIT)[0], f"waited in vain for {until}: {heard[-2000:]}"
            heard += os.read(terminal, 65536).decode()
        before, _, heard = heard.partition(until)
        return before

    try:
        listen("READY>")
        begin = f"stty columns 300; fpath=({SCRIPTS} $fpath); autoload -Uz compinit; compinit -D -u; "
        begin += "setopt no_beep no_auto_menu; LISTMAX=1000; bindkey ^T list-choices; print LOA''DED"
        os.write(terminal, f"{begin}\n".encode())
        listen("LOADED")
        listen("READY>")
        os.write(terminal, f"{text}\x14".encode())
        listen(text)
        os.write(terminal, b"\x01print EN''DED #\n")  # the line is changed once the list is shown
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\n", listen("ENDED")).replace("\r", "\n")
        lines = [line for line in shown.split("\n") if "READY>" not in line and "kmoddctl" not in line]
        return {name for line in lines for name in line.partition(" -- ")[0].split() if name != "print"}
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)


SHELLS = {"bash": ask_bash, "zsh": ask_zsh, "fish": ask_fish}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("typed", "offered"), CASES, ids=[typed for typed, _ in CASES])
def test_shell_offers(root: Path, shell: str, typed: str, offered: set[str]) -> None:
    assert SHELLS[shell](line(typed, root)) == offered
