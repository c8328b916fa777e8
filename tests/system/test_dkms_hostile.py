"""A dkms.conf is a program of others: whatever it does, it does no harm, and is told of."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from journald import Journald
from test_dkms import put
from world import World

from kmodd.core.messages import MESSAGE_IDS

TOP = Path(__file__).resolve().parents[2]

SECRET = "no-conf-may-see-this"
EVIL = """\
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) { write(2, "preloaded\\n", 10); }
"""
#: name -> lines of its conf, and the problem that it is refused with.
CONFS = {
    "bomb": (":(){{ :|:& }};:\nwait\nwhile :; do :; done\n", "dkms-conf-timeout"),
    "deleter": ("rm -rf /usr/src/* {root}\nrm -rf --no-preserve-root / 2>&1 | head >&2\n", "dkms-conf-denied"),
    "endless": ("while :; do :; done\n", "dkms-conf-timeout"),
    "hijacker": (
        'printf() {{ echo -n; }}; eval() {{ :; }}; trap "echo debug >&2" DEBUG; alias for=echo\n',
        "dkms-conf-hostile",
    ),
    "hog": ("x=$(head -c 500M /dev/zero | tr '\\0' a); PACKAGE_VERSION=1.${{#x}}\n", "dkms-conf-invalid"),
    "loud": ("head -c 50M /dev/zero >&2\n", "dkms-conf-invalid"),
    "preloader": ("export LD_PRELOAD=/usr/src/preloader-1.0/evil.so BASH_ENV=/x PATH=/usr/src\n", "dkms-conf-hostile"),
    "reader": ("PACKAGE_VERSION=$(cat /etc/kmodd/keys/* {root}/etc/kmodd/keys/* /etc/shadow)_1\n", "dkms-conf-denied"),
    "talker": ("exec 3<>/dev/tcp/127.0.0.1/{port}; PACKAGE_VERSION=1.$?\n", "dkms-conf-denied"),
    "writer": (
        "for f in /usr/src/own-1.0 /usr/src/writer-1.0 {root} {root}/etc/kmodd/modules.d /tmp /dev /dev/shm /; do\n"
        "    echo x > $f/written && PACKAGE_VERSION=written\ndone\n",
        "dkms-conf-denied",
    ),
}


@pytest.mark.alone
def test_hostile_confs_do_no_harm_and_are_told_of(world: World, tmp_path: Path) -> None:
    keys = world.root / "etc/kmodd/keys"
    keys.mkdir()
    (keys / "other.key").write_text(SECRET)
    (keys / "other.key").chmod(0o644)  # even then
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    marks = {"root": world.root, "port": listener.getsockname()[1]}
    put(world)
    for name, (more, _) in CONFS.items():
        put(world, more.format(**marks), name)
    (tmp_path / "evil.c").write_text(EVIL)
    evil = world.source("preloader") / "evil.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", evil, tmp_path / "evil.c"], check=True)
    for name in ("own", *CONFS):
        world.registry(name).write_text(f'[source]\ndkms = "/usr/src/{name}-1.0/dkms.conf"\n')
    files = sorted(path for path in (world.root / "usr/src").glob("*-1.0/*"))
    journal = Journald(TOP / "systemd/kmodd.catalog")
    try:
        world.start(before=journal.stderr)
        world.wait_for("own", "ready")
        status = world.status()
        world.stop()
        entries = journal.entries()
    finally:
        journal.stop()

    targets = {target["module"]: target for target in status["targets"]}
    wanted = {name: ("failed", problem) for name, (_, problem) in CONFS.items()} | {"own": ("ready", "")}
    assert {name: (target["verdict"], target["problem"]) for name, target in targets.items()} == wanted
    for name, (_, problem) in CONFS.items():
        where = f"/usr/src/{name}-1.0/dkms.conf"
        assert targets[name]["reason"].startswith(where) and targets[name]["hint"], name
        assert where in world.ctl("explain", name).stdout
        told = [e for e in entries if e.get("KMODD_MODULE") == name and e.get("KMODD_PROBLEM") == problem]
        assert {"dkms.conf refused", "target failed"} <= {e["MESSAGE"].partition(" module=")[0] for e in told}, name
        assert any(e.get("MESSAGE_ID") == MESSAGE_IDS["target failed"] for e in told), name

    assert sorted(path for path in (world.root / "usr/src").glob("*-1.0/*")) == files
    assert not list(world.root.rglob("written"))
    assert not any(os.path.exists(f"{top}/written") for top in ("/", "/tmp", "/dev", "/dev/shm", "/usr/src"))
    everything = json.dumps([status, entries]) + "".join(world.build_log(name) for name in CONFS)
    assert SECRET not in everything
    assert "preloaded" not in everything
    try:
        listener.accept()
        raise AssertionError("a conf reached the network")
    except BlockingIOError:
        listener.close()
