"""Only what root alone can change becomes signed code; what was installed before stays."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from world import World

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OWNER = 51234  # nobody's uid
PATCH = """\
--- a/beta.c
+++ b/beta.c
@@ -1,3 +1,4 @@
+/* patched */
 #include <linux/module.h>
 static int beta_value = 1;
 module_param_named(value, beta_value, int, 0444);
"""


def own_source(world: World) -> Path:
    return world.source("beta") / "beta.c"


def own_directory(world: World) -> Path:
    return world.source("beta")


def own_patch(world: World) -> Path:
    path = world.registry("beta").with_suffix(".patches") / "fix.patch"
    path.parent.mkdir()
    path.write_text(PATCH)
    world.registry("beta").write_text('[source]\npath = "/usr/src/beta-1.0"\npatches = ["fix.patch"]\n')
    return path


def own_archive(world: World) -> Path:
    path = world.root / "srv/beta.tar"
    path.parent.mkdir(exist_ok=True)
    subprocess.run(["tar", "-cf", path, "-C", world.source("beta").parent, "beta-1.0"], check=True)
    world.registry("beta").write_text('[source]\narchive = "/srv/beta.tar"\n')
    return path


def own_symvers(world: World) -> Path:
    path = world.root / "srv/Module.symvers"
    path.parent.mkdir(exist_ok=True)
    path.write_text("0x00000001\tbeta_other\t/srv/other\tEXPORT_SYMBOL\t\n")
    text = '[source]\npath = "/usr/src/beta-1.0"\n[build]\nsymvers = ["/srv/Module.symvers"]\n'
    world.registry("beta").write_text(text)
    return path


def own_build_tree(world: World) -> Path:
    path = world.root / "usr/src/kernels" / world.kernel / "Makefile"
    text = path.read_bytes()
    path.unlink()  # a hard link to the template's
    path.write_bytes(text)
    return path


def own_module_file(world: World) -> Path:
    return world.registry("beta")


KINDS = [own_source, own_directory, own_patch, own_archive, own_symvers, own_build_tree, own_module_file]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__[len("own_") :])
def test_what_another_can_change_is_not_built_until_it_is_roots(world: World, kind: Callable[[World], Path]) -> None:
    world.add("beta")
    path = kind(world)
    os.chown(path, OWNER, OWNER)
    assert world.sync().returncode == 1
    target = world.target("beta")
    assert (target["verdict"], target["problem"]) == ("failed", "source-unsafe")
    inside = "/" + str(path.relative_to(world.root))
    assert f"{inside} belongs to uid {OWNER}" in target["reason"]
    assert world.extra() == []
    fix = target["hint"].partition(": ")[2]
    assert inside in fix
    subprocess.run(["bash", "-c", fix.replace(inside, str(path))], check=True)
    assert world.sync().returncode == 0
    assert world.verdict("beta") == "ready"


@pytest.mark.parametrize("kind", [own_source, own_build_tree], ids=["source", "build tree"])
def test_developer_may_have_his_own_source_built_which_is_seen(world: World, kind: Callable[[World], Path]) -> None:
    world.add("beta", more="trust_owner = true\n")
    path = kind(world)
    for below in (world.source("beta"), *world.source("beta").iterdir()):
        os.chown(below, OWNER, OWNER)
        below.chmod(0o700 if below.is_dir() else 0o600)
    os.chown(path, OWNER, OWNER)
    assert world.sync().returncode == 0
    target = world.target("beta")
    assert target["verdict"] == "ready"
    assert any("source.trust_owner" in warning for warning in target["warnings"])
    findings = json.loads(world.ctl("doctor", "--json").stdout)["checks"]
    assert [f["level"] for f in findings if f["check"] == "owners"] == ["warning"]


@pytest.mark.parametrize("what", ["source", "module file"])
def test_what_is_installed_stays_ready_and_check_tells_of_the_next_build(built: World, what: str) -> None:
    path = built.source("alpha") / "alpha.c" if what == "source" else built.registry("alpha")
    text = path.read_text() + ("\n/* changed */\n" if what == "source" else "\n# changed\n")
    path.unlink()  # a hard link to the template's
    path.write_text(text)
    os.chown(path, OWNER, OWNER)
    installed = built.extra()
    assert built.sync().returncode == 0
    target = built.target("alpha")
    assert (target["verdict"], built.extra()) == ("ready", installed)
    assert f"belongs to uid {OWNER}" in target["reason"]
    assert built.plan() == "nothing to do"
    checked = built.ctl("check")
    assert checked.returncode == 1
    assert "ready, but not built again" in checked.stdout and f"belongs to uid {OWNER}" in checked.stdout
    findings = json.loads(built.ctl("doctor", "--json").stdout)["checks"]
    assert [f["level"] for f in findings if f["check"] == "owners"] == ["fail"]
