"""Sources with a dkms.conf: Debian's packages, unpacked and unchanged, are taken over and built as they are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest
from ground.dkmssource import fetch_source
from inside import enter
from patience import LIMIT
from world import GOOD, World

from kmodd.core.sysroot import PROGRAM_PATH

XTABLES = """
compat_xtables xt_ACCOUNT xt_CHAOS xt_DELUDE xt_DHCPMAC xt_DNETMAP xt_ECHO xt_IPMARK xt_LOGMARK xt_PROTO xt_SYSRQ
xt_TARPIT xt_condition xt_fuzzy xt_geoip xt_iface xt_ipp2p xt_ipv4options xt_length2 xt_lscan xt_pknock xt_psd xt_quota2
"""
#: package -> PACKAGE_NAME, objects, and why it does not build on 6.12, "" where it does.
PACKAGES = {
    "acpi-call": ("acpi-call", "acpi_call", ""),
    "bbswitch": ("bbswitch", "bbswitch", ""),
    "digimend": ("digimend", "hid-kye hid-polostar hid-uclogic hid-viewsonic", "hid-kye.c"),
    "dm-writeboost": ("dm-writeboost", "dm-writeboost", "bd_inode"),
    "jool": ("jool-dkms", "jool jool_common jool_siit", "src/mod/common/nl/nl_handler.c"),
    "v4l2loopback": ("v4l2loopback", "v4l2loopback", "strlcpy"),
    "xtables-addons": ("xtables-addons", XTABLES, "error:"),
}
CONF = """\
PACKAGE_NAME="own"
PACKAGE_VERSION="1.0"
BUILT_MODULE_NAME="own"
DEST_MODULE_LOCATION="/extra"
AUTOINSTALL="yes"
"""


def put(world: World, more: str = "", name: str = "own", files: Optional[dict[str, str]] = None) -> Path:
    """Put a good source with a dkms.conf into the root's /usr/src; more: further lines of it."""
    source = world.source(name)
    source.mkdir(parents=True)
    (source / f"{name}.c").write_text(GOOD.format(name=name))
    (source / "Makefile").write_text(f"obj-m := {name}.o\n")
    (source / "dkms.conf").write_text(CONF.replace("own", name) + more)
    for file, text in (files or {}).items():
        path = source / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return source


def take(world: World, *words: str) -> dict[str, dict[str, Any]]:
    """Run kmoddctl import dkms; returns what it says of each module."""
    done = world.ctl("import", "dkms", *(words or ("--all",)), "--json")
    assert done.stdout, done.stderr
    return {one["module"]: one for one in json.loads(done.stdout)["confs"]}


def names(target: dict[str, Any]) -> set[str]:
    return {item["name"] for item in target["objects"]}


@pytest.mark.dkms
def test_packages_are_taken_over_and_built_for_two_kernels_as_far_as_they_compile(world: World) -> None:
    for name in PACKAGES:
        fetch_source(name, world.root)
    world.install(world.releases.other)
    taken = take(world)
    assert {one["error"] for one in taken.values()} == {None}
    world.sync(timeout=3 * LIMIT)
    targets = {(t["module"], t["kernel"]): t for t in world.status()["targets"]}
    assert {module for module, _ in targets} == {name for name, _, _ in PACKAGES.values()}
    for name, objects, wrong in PACKAGES.values():
        old, new = targets[name, world.kernel], targets[name, world.releases.other]
        assert (old["verdict"], names(old)) == ("ready", set(objects.split())), old
        assert new["verdict"] == ("failed" if wrong else "ready"), new
        assert wrong in new["reason"]
        assert names(new) == (set() if wrong else set(objects.split()))


def test_hooks_around_the_build_run_in_its_sandbox_and_a_patch_is_applied(world: World) -> None:
    patch = '--- a/own.c\n+++ b/own.c\n@@ -1,2 +1,3 @@\n #include <linux/module.h>\n+#include "made.h"\n static int'
    line = GOOD.format(name="own").splitlines()[1]
    patch = patch.replace(" static int", f" {line}\n")
    before = '#!/bin/sh\nid -u > uid\necho "MODULE_INFO(made, \\"$1 $(pwd)\\");" > made.h\n'
    more = (
        'PRE_BUILD="before.sh $kernelver"\nPOST_BUILD="after.sh"\nPATCH[0]="made.patch"\nDEST_MODULE_NAME="renamed"\n'
    )
    after = '#!/bin/sh\n[ "$(cat uid)" != 0 ] && echo after the build && echo changed > own.ko\n'
    put(world, more, files={"before.sh": before, "after.sh": after, "patches/made.patch": patch})
    assert take(world)["own"]["error"] is None
    world.sync()
    assert world.extra() == ["own/renamed.ko"]
    path = world.root / "lib/modules" / world.kernel / "extra/own/renamed.ko"
    made = subprocess.run(["modinfo", "-F", "made", path], capture_output=True, text=True).stdout.strip()
    assert made == f"{world.kernel} /var/lib/dkms/own/1.0/build"
    assert "after the build" in world.build_log("own")


@pytest.mark.parametrize(
    ("more", "verdict", "reason"),
    [
        ('BUILD_EXCLUSIVE_KERNEL="^5\\\\."', "excluded", "does not match BUILD_EXCLUSIVE_KERNEL"),
        ('BUILD_EXCLUSIVE_CONFIG="!CONFIG_MODULES"', "excluded", "the kernel has CONFIG_MODULES"),
        ('BUILD_EXCLUSIVE_KERNEL_MIN="6.12"', "excluded", "is older than BUILD_EXCLUSIVE_KERNEL_MIN (6.12)"),
        ('BUILD_DEPENDS="absent"', "failed", "depends on absent, which is not registered"),
        ('BUILT_MODULE_NAME[2]="third"', "failed", "dkms.conf: BUILT_MODULE_NAME[1]: is not set"),
        ('POST_INSTALL="x.sh"', "failed", "dkms.conf:6: POST_INSTALL='x.sh'"),
        ("if true; then", "failed", "dkms.conf:7: syntax error: unexpected end of file"),
    ],
)
def test_what_a_conf_rules_out_is_a_verdict_with_its_reason(world: World, more: str, verdict: str, reason: str) -> None:
    put(world, more + "\n")
    world.registry("own").write_text('[source]\ndkms = "/usr/src/own-1.0/dkms.conf"\n')
    target = world.target("own")
    assert target["verdict"] == verdict, target
    assert reason in target["reason"]


def test_an_override_of_the_administrator_counts_and_changes_are_noticed(world: World) -> None:
    put(world)
    take(world)
    world.sync()
    assert world.verdict("own") == "ready"
    (world.root / "etc/dkms").mkdir(parents=True)
    override = world.root / "etc/dkms/own-1.0.conf"
    override.write_text('BUILD_EXCLUSIVE_ARCH="s390x"\n')
    assert world.verdict("own") == "excluded"
    override.write_text('MAKE="make -C $kernel_source_dir M=$dkms_tree/own/1.0/build EXTRA=1 modules"\n')
    assert re.search(r"build +own", world.plan())
    override.unlink()
    assert not re.search(r"build +own", world.plan())


def test_an_unchanged_conf_costs_no_process(world: World, tmp_path: Path) -> None:
    put(world)
    put(world, "exit 0\n", name="broken")
    for name in ("own", "broken"):
        world.registry(name).write_text(f'[source]\ndkms = "/usr/src/{name}-1.0/dkms.conf"\n')
    world.sync()
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    fake.chmod(0o755)
    said = world.ctl("status", "--json", env={"KMODD_PROGRAM_PATH": f"{tmp_path}:{PROGRAM_PATH}"}).stdout
    verdicts = {target["module"]: target["problem"] for target in json.loads(said)["targets"]}
    assert verdicts == {"own": "", "broken": "dkms-conf-invalid"}
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_taken_is_reported_and_the_others_are_registered(world: World) -> None:
    put(world)
    put(world, 'POST_ADD="x.sh"\n', name="hooked")
    put(world, 'AUTOINSTALL=""\n', name="silent")
    done = world.ctl("import", "dkms", "--all")
    assert done.returncode == 1
    assert "refused /usr/src/hooked-1.0/dkms.conf" in done.stdout
    assert not world.registry("hooked").exists()
    assert "enabled = false" in world.registry("silent").read_text()
    assert "to build it: kmoddctl enable silent" in done.stdout
    assert world.registry("own").exists()
    assert take(world, "hooked", "--ignore-hooks")["hooked"]["error"] is None
    assert "ignore_hooks = true" in world.registry("hooked").read_text()
    assert world.ctl("import", "dkms", "nothing").returncode == 1


def test_a_source_that_a_package_drops_is_a_module_as_long_as_it_is_there(world: World) -> None:
    world.settings("[dkms]\nadopt = true\n")
    put(world, 'AUTOINSTALL=""\n', name="silent")
    world.start()
    source = put(world)
    world.wait_for("own", "ready")
    assert world.verdict("silent") == "excluded"
    newer = source.rename(source.with_name("own-1.1"))
    world.wait(lambda: "/usr/src/own-1.1" in world.ctl("status", "own").stdout, "the newer source")
    assert world.ctl("disable", "own").returncode == 0
    world.wait_for("own", "excluded")
    assert world.ctl("enable", "own").returncode == 0
    world.wait_for("own", "ready")
    world.registry("own").unlink()
    assert world.ctl("remove", "own").returncode == 0
    world.wait(lambda: not world.extra(), "removal")
    world.registry("own").unlink()
    world.wait_for("own", "ready")
    shutil.rmtree(newer)
    world.wait(lambda: not world.extra(), "removal")


def test_copies_by_dkms_are_put_aside_where_kmodd_is_installed_and_put_back(world: World) -> None:
    put(world)
    take(world)
    tree = world.root / "lib/modules" / world.kernel
    built = world.root / "var/lib/dkms/own/1.0" / world.kernel / "x86_64/module/own.ko"
    copy, other = tree / "updates/dkms/own.ko", tree / "extra/own.ko"
    real = next((tree / "kernel").rglob("dummy.ko"))
    for path in (built, copy):
        path.parent.mkdir(parents=True)
        shutil.copyfile(real, path)
    done = world.ctl("import", "dkms", "own", "--remove-copies")
    assert (done.returncode, copy.exists()) == (1, True)
    assert f"left /lib/modules/{world.kernel}/updates/dkms/own.ko: own is building there" in done.stdout
    world.sync()
    assert world.target("own")["problem"] == "object-shadowed"
    other.write_bytes(b"somebody's")
    done = world.ctl("import", "dkms", "--all", "--remove-copies")
    assert done.stdout == f"put aside /lib/modules/{world.kernel}/updates/dkms/own.ko\n", done.stderr
    assert (done.returncode, copy.exists(), other.exists()) == (0, False, True)
    other.unlink()
    world.sync()
    assert world.verdict("own") == "ready"
    done = world.ctl("import", "dkms", "--restore-copies")
    assert done.stdout == f"restored /lib/modules/{world.kernel}/updates/dkms/own.ko\n"
    assert copy.read_bytes() == real.read_bytes()


HOOK = """\
#!/bin/sh
echo "$0 $* in $(pwd) as $(id -u), ${SECRET:-nothing} inherited"
echo "$1" >> /var/log/hooks
[ "$1" != fail ]
"""


def test_install_hooks_run_as_root_where_the_administrator_allows_it(world: World) -> None:
    words = {"PRE_INSTALL": "pre $kernelver", "POST_INSTALL": "post", "POST_ADD": "add", "POST_REMOVE": "removed"}
    hooks = "".join(f'{directive}="h.sh {said}"\n' for directive, said in words.items())
    source = put(world, hooks, files={"h.sh": HOOK})
    argv = [sys.executable, "-m", "kmodd.ctl"]
    told = world.root / "var/log/hooks"

    def run(*words: str) -> str:
        done = enter(world.root, *argv, *words, env={"SECRET": "something"}, timeout=LIMIT)
        assert "Traceback" not in done.stderr, done.stderr
        return " ".join((done.stdout + done.stderr).split())

    assert "dkms.allow_hooks" in run("import", "dkms", "own")
    world.settings('[dkms]\nallow_hooks = ["other"]\n')
    world.registry("own").write_text('[source]\ndkms = "/usr/src/own-1.0/dkms.conf"\n')
    assert "dkms.conf:6: PRE_INSTALL='h.sh pre" in run("status", "own")
    world.settings('[dkms]\nallow_hooks = ["own"]\n')
    (source / "h.sh").chmod(0o777)
    assert "others than root can change what would be signed: /usr/src/own-1.0/h.sh belongs to uid 0" in run("sync")
    assert (world.extra(), told.exists()) == ([], False)
    (source / "h.sh").chmod(0o755)
    run("sync")
    assert world.extra() == ["own/own.ko"]
    assert told.read_text().split() == ["add", "pre", "post"]
    log = world.build_log("own")
    assert f"/usr/src/own-1.0/h.sh pre {world.kernel} in /usr/src/own-1.0 as 0, nothing inherited" in log
    run("disable", "own")
    run("sync")
    assert (world.extra(), told.read_text().split()) == ([], ["add", "pre", "post", "removed"])
    conf = source / "dkms.conf"
    conf.write_text(conf.read_text().replace("h.sh pre", "h.sh fail"))
    run("enable", "own")
    said = run("sync")
    assert "PRE_INSTALL: /usr/src/own-1.0/h.sh ended with exit status 1" in said
    assert world.extra() == []
    world.settings("")
    assert "kmodd runs no script of a source outside of the sandbox" in run("status", "own")


def test_what_a_module_depends_on_is_built_first_and_a_cycle_is_told(world: World) -> None:
    exporting = GOOD.format(name="base") + "int base_answer(void) { return 42; }\nEXPORT_SYMBOL(base_answer);\n"
    using = "int base_answer(void);\n" + GOOD.format(name="user").replace("{ return 0; }", "{ return base_answer(); }")
    put(world, name="base", files={"base.c": exporting})
    put(world, 'BUILD_DEPENDS[0]="base"\n', name="user", files={"user.c": using})
    put(world, 'BUILD_DEPENDS="right"\n', name="left")
    put(world, 'BUILD_DEPENDS="left"\n', name="right")
    take(world)
    world.sync()
    targets = {target["module"]: target for target in world.status()["targets"]}
    assert {name for name, target in targets.items() if target["verdict"] == "ready"} == {"base", "user"}
    built = {name: targets[name]["last_attempt"]["began"] for name in ("base", "user")}
    assert built["base"] < built["user"]
    assert [targets[name]["verdict"] for name in ("left", "right")] == ["failed", "failed"]
    assert "cycle" in targets["left"]["reason"] or "left" in targets["left"]["reason"], targets["left"]
