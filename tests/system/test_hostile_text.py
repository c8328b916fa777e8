"""Nothing that others wrote steers a terminal or hides on it, whichever command shows it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from patience import LIMIT
from world import GOOD, World

from kmodd.core.visible import UNSEEN

pytestmark = pytest.mark.system

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2066\u200b\x08"
BYTES = b"/evil\xff\x1b[31m\n6.1"

#: Commands by what they show; each is run on a terminal, once with and once without colours.
COMMANDS = [
    ["status"], ["status", "alpha"], ["status", "evil"], ["plan"], ["logs", "evil"], ["logs", "evil", "--list"],
    ["explain", "evil"], ["explain", "alpha"], ["verify"], ["verify", "alpha"], ["check"], ["check", "--all"], ["gate"],
    ["doctor"], ["key", "show"], ["key", "status"], ["sync", "--dry-run"], ["sync", "--verbose"],
    ["rebuild", "evil", "--verbose"], ["import", "dkms", "--all", "--dry-run"], ["watch"], ["reload"],
    ["status", EVIL], ["status", "--kernel", EVIL], ["add", f"/usr/src/{EVIL}"], ["add", "/usr/src/x", "--name", EVIL],
    ["remove", EVIL], ["logs", "alpha", "--attempt", EVIL], [EVIL], ["status", f"--{EVIL}"], ["gate", "--wait", EVIL],
]  # fmt: skip

#: What kmoddctl itself does to a terminal: colours, and a line that is drawn anew.
OWN = re.compile(r"\x1b\[(?:[\d;]*m|\d+F|J|K)|\r")
#: Of the command dkms. What is registered by one is there for those behind it.
DKMS = [
    ["status"], ["add", "/usr/src/conf-1.0"], ["add", "/usr/src/talks-1.0"], ["status"], ["build", "talks/1.0"],
    ["install", "talks/1.0"], ["build", "conf/1.0"], ["status", "talks"], ["autoinstall"],
    ["remove", "talks/1.0", "--all"],
    ["match", "--templatekernel", EVIL], ["add", f"/usr/src/{EVIL}"], ["add", EVIL], ["add", "-m", EVIL, "-v", EVIL],
    ["build", EVIL], ["install", f"{EVIL}/1"], ["remove", f"{EVIL}/1", "--all"], ["status", EVIL],
    ["status", "-k", EVIL],
    ["uninstall", "talks/1.0", "-k", EVIL], ["mktarball", EVIL], [EVIL], [f"--{EVIL}"], ["status", f"--{EVIL}"],
    ["--directive", EVIL, "status"], ["add", "--rpm_safe_upgrade", EVIL],
]  # fmt: skip


@pytest.fixture
def hostile(built: World) -> World:
    """A root in which everything that others can write is hostile."""
    root = built.root
    built.add("evil", {"evil.c": f"#error {EVIL}\n{GOOD.format(name='evil')}", f"{EVIL[:9]}.h".replace("/", "_"): ""})
    source = root / "usr/src/conf-1.0"
    source.mkdir()
    words = 'PACKAGE_NAME="conf"\nPACKAGE_VERSION="1.0"\nDEST_MODULE_LOCATION="/extra"\n'
    (source / "dkms.conf").write_text(f"{words}echo $'{EVIL}' >&2\nif\n")
    talks = root / "usr/src/talks-1.0"
    talks.mkdir()
    (talks / "talks.c").write_text(f"#error {EVIL}\n")
    (talks / "Makefile").write_text(f"obj-m := talks.o\n$(warning {EVIL})\n")
    text = words.replace("conf", "talks") + f"BUILT_MODULE_NAME=talks\necho $'{EVIL}' >&2\n"
    (talks / "dkms.conf").write_text(text)
    os.mkdir(os.fsencode(root / "usr/lib/modules") + BYTES.replace(b"/evil", b"/6.1"))
    os.mkdir(os.fsencode(root / "usr/src") + BYTES)
    shutil.copy(source / "dkms.conf", os.fsencode(root / "usr/src") + BYTES + b"/dkms.conf")
    for directory in ("etc/kmodd/modules.d", "etc/modprobe.d"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    Path(os.fsdecode(os.fsencode(root / "etc/kmodd/modules.d") + BYTES + b".toml")).write_text(
        "[source]\npath = '/x'\n"
    )
    (root / "etc/kmodd/modules.d/broken.toml").write_text('[source]\npath = "/x"\n"\\u202e\\u001b[2J" = 1\n')
    (root / f"etc/modprobe.d/{EVIL}.conf".replace("\0", "")).write_text(f"blacklist alpha\ninstall alpha /bin/{EVIL}\n")
    built.settings("[dkms]\nadopt = true\n")
    built.sync()
    return built


def on_terminal(world: World, words: list[str], program: str = "kmodd.ctl", until: str = "", **environment: str) -> str:
    """Return what a command puts on a terminal, its errors included.

    until: what it has put there when it is interrupted, since it does not end by itself.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment, PAGER="cat", COLUMNS="100")
        os.execv(sys.executable, [sys.executable, "-m", program, *words, "--root", str(world.root)])
    out = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        out += data
        if until and until.encode() in out:
            os.kill(child, signal.SIGINT)
            until = ""
    os.waitpid(child, 0)
    os.close(terminal)
    return out.decode(errors="surrogateescape").replace("\r\n", "\n")


def test_no_command_lets_through_what_steers_a_terminal(hostile: World) -> None:
    seen = ""
    for words in COMMANDS:
        text = on_terminal(hostile, words, NO_COLOR="1", TERM="xterm")
        assert not UNSEEN.search(text), (words, text)
        assert text.strip() and "Traceback" not in text, (words, text)
        seen += text
    for shown in (r"\x1b[2J", r"\u202e", r"\xff", r"\x9b"):
        assert shown in seen, f"{shown} is nowhere, so that nothing was tried"
    painted = on_terminal(hostile, ["status"], TERM="xterm")
    assert re.search(r"\x1b\[3\d(;1)?m", painted)
    assert not UNSEEN.search(OWN.sub("", painted)), "colours are all that steers"


def test_the_command_dkms_lets_through_nothing_either(hostile: World) -> None:
    hostile.settings("")  # what it adds is not adopted already
    seen = ""
    for words in DKMS:
        text = on_terminal(hostile, words, "kmodd.ctl.dkms", NO_COLOR="1", TERM="xterm")
        assert not UNSEEN.search(text), (words, text)
        assert "Traceback" not in text, (words, text)
        seen += text
    for shown in (r"\x1b[2J", r"\u202e", r"\x9b"):
        assert shown in seen, f"{shown} is nowhere, so that nothing was tried"


def test_commands_beside_a_daemon_let_through_nothing(hostile: World) -> None:
    """What the daemon tells comes from the same others: what it builds, prints and finds."""
    hostile.start()
    hostile.wait_for("evil", "failed")
    watched: list[str] = []
    watch = threading.Thread(
        target=lambda: watched.append(on_terminal(hostile, ["watch"], until="error", TERM="xterm"))
    )

    def rebuild() -> None:
        while watch.is_alive():  # it may have come too late for the first one
            hostile.ctl("rebuild", "evil")

    rebuilding = threading.Thread(target=rebuild)
    for thread in (watch, rebuilding):
        thread.start()
    for thread in (watch, rebuilding):
        thread.join(LIMIT)
    assert not UNSEEN.search(OWN.sub("", watched[0])) and r"\x1b[2J" in watched[0], watched[0]
    for words in COMMANDS:
        if words == ["watch"]:
            continue
        text = OWN.sub("", on_terminal(hostile, words, NO_COLOR="1", TERM="xterm"))
        assert not UNSEEN.search(text), (words, text)
        assert text.strip() and "Traceback" not in text, (words, text)
    hostile.settings('["\\u202e\\u001b[2J"]\n')
    text = on_terminal(hostile, ["reload"], NO_COLOR="1", TERM="xterm")
    assert not UNSEEN.search(text) and "kmodd.toml" in text and r"\x1b[2J" in text, text


def test_elsewhere_text_is_as_clean_json_is_valid_and_logs_are_as_stored(hostile: World) -> None:
    for words in COMMANDS:
        if words[0] in ("watch", "logs", "reload"):
            continue
        done = hostile.ctl(*words)
        assert not UNSEEN.search(done.stdout + done.stderr), words
        for line in (hostile.ctl(*words, "--json").stdout,) if not words[0].startswith(EVIL[0]) else ():
            if line:
                json.loads(line)
    log = hostile.ctl("logs", "evil").stdout
    stored = next((hostile.root / "var/log/kmodd/evil").rglob("*.log")).read_text()
    assert log == stored and "\x1b[2J" in log
    names = subprocess.run(
        [sys.executable, "-m", "kmodd.ctl", "--complete", "kernels", "--root", hostile.root],
        capture_output=True,
        text=True,
    ).stdout
    assert names.split() == [hostile.kernel]


def test_what_is_not_named_as_a_kernel_is_passed_over_with_a_finding(hostile: World) -> None:
    status = hostile.status()
    assert [kernel["release"] for kernel in status["kernels"]] == [hostile.kernel]
    found = {problem["problem"]: problem for problem in status["problems"]}
    assert found["release-invalid"]["file"] == r"/usr/lib/modules/6.1\xff\x1b[31m\n6.1"
    assert found["source-name-invalid"]["file"] == r"/usr/src/evil\xff\x1b[31m\n6.1"
    doctor = json.loads(hostile.ctl("doctor", "--json").stdout)["checks"]
    assert [check["level"] for check in doctor if check["check"] == "names"] == ["warning", "warning"]
    assert "is passed over" in hostile.ctl("status").stdout
