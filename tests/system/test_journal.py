"""A real journald gets what the daemon has to tell: by MESSAGE_ID, in fields, and explained by the catalog."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from journald import Journald
from world import World

from kmodd.core.messages import MESSAGE_IDS

pytestmark = pytest.mark.system

CATALOG = Path(__file__).resolve().parents[2] / "systemd/kmodd.catalog"
BAD = {"bad.c": '#include <linux/module.h>\nint x = "text";\nMODULE_LICENSE("GPL");\n'}


@pytest.fixture
def journald() -> Iterator[Journald]:
    made = Journald(CATALOG)
    yield made
    made.stop()


def find(journald: Journald, event: str, **facts: str) -> list[dict[str, Any]]:
    """Return the entries of an event that have these facts."""
    matches = [f"KMODD_{name.upper()}={value}" for name, value in facts.items()]
    return journald.entries(f"MESSAGE_ID={MESSAGE_IDS[event]}", *matches)


def test_catalog_explains_every_message(journald: Journald) -> None:
    listed = journald.run("journalctl", "--list-catalog").stdout
    assert set(re.findall(r"^([0-9a-f]{32}) kmodd:", listed, re.MULTILINE)) == set(MESSAGE_IDS.values())
    for event, identity in MESSAGE_IDS.items():
        text = journald.run("journalctl", "--dump-catalog", identity).stdout
        header, _, body = text.partition("\n\n")
        assert "Subject: " in header and "Defined-By: kmodd\n" in header and "Documentation: man:kmodd" in header
        assert "Support: " in header and len(body.strip()) > 40, event


def test_everything_that_happens_has_its_message(world: World, journald: Journald) -> None:
    core, modules_core, devel = world.releases.files[world.releases.old]
    old = world.releases.old

    def wait(event: str, **facts: str) -> dict[str, Any]:
        world.wait(lambda: bool(find(journald, event, **facts)), f"{event} {facts}")
        (entry, *_) = find(journald, event, **facts)
        assert (entry["SYSLOG_IDENTIFIER"], entry["_TRANSPORT"]) == ("kmodd", "journal")
        assert str(entry["MESSAGE"]).startswith(event)
        return entry

    world.add("alpha")
    world.add("bad", BAD)
    world.start(before=journald.stderr)
    assert wait("kmodd started")["KMODD_ROOT"] == str(world.root)
    wait("kernel appeared", kernel=world.kernel)
    wait("signing key generated")
    assert wait("target ready", module="alpha", kernel=world.kernel)["PRIORITY"] == "6"
    failed = wait("target failed", module="bad", kernel=world.kernel, verdict="failed", problem="build-failed")
    assert failed["PRIORITY"] == "3" and "bad.c:2:9: error:" in failed["KMODD_REASON"]
    assert "error" in (world.root / failed["KMODD_LOG"].lstrip("/")).read_text()
    assert "KMODD_MODULE" not in wait("kernel not ready", kernel=world.kernel, problem="build-failed")

    explained = journald.read("-x", f"MESSAGE_ID={MESSAGE_IDS['target failed']}")
    assert f"Subject: Module bad failed for kernel {world.kernel}: build-failed" in explained
    assert f"kmoddctl logs bad --kernel {world.kernel}" in explained and "@" not in explained

    assert world.ctl("remove", "bad").returncode == 0
    wait("kernel ready", kernel=world.kernel)
    world.rpm("-i", core, modules_core)
    wait("kernel appeared", kernel=old)
    hint = wait("target waiting for kernel-devel", kernel=old, module="alpha")["KMODD_HINT"]
    assert f"kernel-devel-uname-r = {old}" in hint
    wait("kernel not ready", kernel=old, verdict="waiting")
    world.rpm("-i", devel)
    wait("kernel ready", kernel=old)

    (world.root / f"lib/modules/{old}/extra/alpha/alpha.ko").unlink()
    assert wait("installed object changed", kernel=old, module="alpha")["KMODD_REASON"].endswith("alpha.ko is gone")
    world.wait(lambda: world.extra(old) == ["alpha/alpha.ko"], "the object to come back")

    world.settings("[daemon]\nquiet = 'nonsense'\n")
    assert world.child is not None
    world.child.send_signal(signal.SIGHUP)
    assert "daemon.quiet" in wait("settings refused", problem="settings-invalid")["KMODD_REASON"]
    world.settings("")

    (world.root / "etc/kernel").mkdir()
    (world.root / "etc/kernel/cmdline").write_text("root=/dev/sda module.sig_enforce=1\n")
    world.child.send_signal(signal.SIGHUP)
    blocked = wait("key not enrolled", module="alpha", kernel=world.kernel, verdict="blocked")
    assert blocked["KMODD_PROBLEM"] == "signature-untrusted"
    wait("key not enrolled", module="alpha", kernel=old, verdict="blocked")
    told = find(journald, "key not enrolled", module="alpha")
    assert sorted(entry["PRIORITY"] for entry in told) == ["3", "4"], "one cause is one error"


def test_daemon_goes_on_while_the_journal_hangs(world: World, journald: Journald) -> None:
    """journald is stopped, its socket is filled, and the daemon still does its job; then all is told."""
    world.start(before=journald.stderr)
    world.wait(lambda: bool(find(journald, "kmodd started")), "the first entry")
    journald.child.send_signal(signal.SIGSTOP)
    try:
        fill = "import socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.setblocking(False)\n"
        fill += "while True: s.sendto(b'MESSAGE=filler\\n', '/run/systemd/journal/socket')"
        assert "BlockingIOError" in journald.run("python3", "-c", fill, check=False).stderr
        world.add("alpha")
        world.wait_for("alpha", "ready")
    finally:
        journald.child.send_signal(signal.SIGCONT)
    world.wait(lambda: bool(find(journald, "target ready", module="alpha")), "what was told meanwhile")


def test_start_with_refused_settings_is_told(world: World, journald: Journald) -> None:
    world.settings("[daemon]\nquiet = 'nonsense'\n")
    done = journald.run(*journald.stderr[len(journald.inside) :], *world.command(), check=False)
    assert done.returncode == 1
    (entry,) = find(journald, "settings refused")
    assert entry["PRIORITY"] == "2" and "/etc/kmodd/kmodd.toml" in entry["KMODD_REASON"]
