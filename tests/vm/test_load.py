"""kmoddctl load in a guest: real modules that find no device, told by the real systemd-modules-load."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from ground import privateroot
from guest import run_inside
from server import Server, write_source

pytestmark = pytest.mark.vm

LOADER = "/usr/lib/systemd/systemd-modules-load"
CODE = """\
#include <linux/module.h>
static int __init start(void) {{ return {result}; }}
static void __exit leave(void) {{ }}
module_init(start);
module_exit(leave);
MODULE_LICENSE("GPL");
"""
RESULTS = {"card": "-ENODEV", "fine": "0", "broken": "-EINVAL"}


def test_module_without_its_device_is_told_and_stays_ready() -> None:
    with tempfile.TemporaryDirectory(prefix="load.", dir=privateroot.find_scratch(2048)) as top:
        server = Server(Path(top), 1)
        registry = server.root / "etc/kmodd/modules.d"
        registry.mkdir(parents=True)
        for name, result in RESULTS.items():
            write_source(server.root / "usr/src" / name, name, CODE.format(result=result))
            text = f'[source]\npath = "/usr/src/{name}"\n[load]\nat_boot = ["{name}"]\n'
            (registry / f"{name}.toml").write_text(text)
        server.sync()
        session = [
            "/usr/bin/depmod",
            "kmoddctl load",
            "kmoddctl status --json",
            "kmoddctl status",
            "kmoddctl explain card",
        ]
        programs = {LOADER: LOADER}
        _, load, status, text, story = run_inside(
            server.root, server.releases[0], session, server.top / "boot", programs=programs
        )
    assert "Failed to insert module 'card': No such device" in load.stderr, load
    targets = {target["module"]: target for target in json.loads(status.stdout)["targets"]}
    said = "init refused: no such device (not a fault of the module): card"
    assert {name: t["verdict"] for name, t in targets.items()} == dict.fromkeys(RESULTS, "ready")
    assert targets["card"]["init_refused"]["reason"] == said
    assert [targets[name]["init_refused"] for name in ("fine", "broken")] == [None, None]
    for shown in (text, story):
        assert said in " ".join(shown.stdout.split())
