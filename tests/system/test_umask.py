"""Who may read what kmodd makes does not depend on the umask that it is started with."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from world import QUICK, World

pytestmark = pytest.mark.system

MASKS = (0o022, 0o077, 0o000)
LOAD = '[load]\nat_boot = ["alpha"]\noptions = { alpha = "value=2" }\n'
METRICS = "var/lib/node_exporter/kmodd.prom"
PATCH = "--- a/alpha.c\n+++ b/alpha.c\n@@ -1 +1,2 @@\n+/* patched */\n #include <linux/module.h>\n"
TREE = "lib/modules/{kernel}"
#: What others than root read: the kernel's tools, the boot, a login, who asks for the status.
PUBLIC = (
    "etc/modules-load.d/kmodd-alpha.conf", "etc/modprobe.d/kmodd-alpha.conf", f"{TREE}/extra/alpha/alpha.ko",
    f"{TREE}/modules.dep", f"{TREE}/modules.dep.bin", f"{TREE}/modules.alias.bin",
    METRICS, "run/motd.d/kmodd",
)  # fmt: skip


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(world: World) -> dict[str, str]:
    """Return the modes of all files and directories of a root, but for what packages brought."""
    found = {}
    for top in ("etc", "run", "var", f"lib/modules/{world.kernel}"):
        for path in (world.root / top, *(world.root / top).rglob("*")):
            if not path.is_symlink():
                name = str(path.relative_to(world.root)).replace(world.kernel, "{kernel}")
                found[name if path.suffix != ".log" else f"{os.path.dirname(name)}/log"] = stat.filemode(
                    path.stat().st_mode
                )
    return found


def work(world: World, mask: int) -> dict[str, str]:
    """Have kmodd make what it makes: a key, a patched build, an installation, drop-ins, metrics, the socket."""
    for path in (world.root / METRICS).parent, world.root / "run/motd.d":
        path.mkdir(parents=True)
    world.settings(f'{QUICK}[metrics]\ntextfile = "/{METRICS}"\n')
    world.add("alpha", more=f'patches = ["1.patch"]\n{LOAD}')
    world.add("broken", {"Makefile": "$(error no)\n", "broken.c": ""})  # for motd.d
    (world.root / "etc/kmodd/modules.d/alpha.patches").mkdir()
    (world.root / "etc/kmodd/modules.d/alpha.patches/1.patch").write_text(PATCH)
    with umask(mask):
        assert world.sync().returncode == 1  # broken
        assert world.verdict("alpha") == "ready", world.build_log("alpha")
        world.start()
        world.wait(lambda: (world.root / METRICS).exists(), "the metrics")
    found = modes(world)
    world.stop()
    return found


#: What is other than to be read by all and written by root: keys, scratch, logs, and what is for everybody.
UNUSUAL = {
    "etc/kmodd/keys": "drwx------",
    "etc/kmodd/keys/signing.key": "-rw-------",
    "run/kmodd/io.kmodd.Manager": "srw-rw-rw-",
    "var/lib/kmodd/lock": "-rw-------",
    "var/cache/kmodd/build": "drwx------",
    "var/cache/kmodd/sign": "drwx------",
    "var/log/kmodd": "drwxr-x---",
    **{f"var/log/kmodd/{name}{below}": "drwxr-x---" for name in ("alpha", "broken") for below in ("", "/{kernel}")},
    **{f"var/log/kmodd/{name}/{{kernel}}/log": "-rw-r-----" for name in ("alpha", "broken")},
    "var/tmp": "drwxrwxrwt",
}


@pytest.mark.parametrize("mask", MASKS, ids=[f"{mask:03o}" for mask in MASKS])
def test_modes_are_the_same_under_every_umask(world: World, mask: int) -> None:
    found = work(world, mask)
    assert {path: found[path] for path in PUBLIC} == dict.fromkeys(PUBLIC, "-rw-r--r--")
    assert found[f"{TREE}/extra"] == found[f"{TREE}/extra/alpha"] == "drwxr-xr-x"
    usual = ("-rw-r--r--", "drwxr-xr-x")
    assert {path: mode for path, mode in found.items() if mode not in usual} == UNUSUAL
