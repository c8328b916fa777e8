"""The main job: kernels come and go by real rpm, and nobody else lifts a finger."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from patience import LIMIT, pause
from world import GOOD, HELD, World

pytestmark = pytest.mark.system


def show_depends(world: World, name: str, kernel: str = "") -> list[str]:
    argv = ["modprobe", "--show-depends", "-d", world.root, "-S", kernel or world.kernel]
    argv += ["-C", world.root / "etc/modprobe.d", name]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout.replace(str(world.root), "").replace("/usr/lib/", "/lib/").split("\n")[:-1]


def modinfo(world: World, field: str, path: str) -> str:
    argv = ["modinfo", "-F", field, world.root / path.lstrip("/")]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_a_kernel_that_rpm_installs_gets_its_modules(bare: World) -> None:
    """With the settings as they are where nobody sets any."""
    bare.settings("")
    bare.add("alpha", more='[load]\nat_boot = ["alpha"]\noptions = { alpha = "value=7" }\n')
    bare.start()
    bare.install(bare.kernel)
    bare.wait_for("alpha", "ready")
    (item,) = bare.target("alpha")["objects"]
    assert item["path"] == f"/lib/modules/{bare.kernel}/extra/alpha/alpha.ko"
    assert modinfo(bare, "signer", item["path"]).startswith("kmodd ")
    assert "\nalpha\n" in (bare.root / "etc/modules-load.d/kmodd-alpha.conf").read_text()
    assert show_depends(bare, "alpha") == [f"insmod {item['path']} value=7 "]
    assert any(re.fullmatch(r"STATUS=.*1 ready", line) for line in bare.heard())
    assert bare.status()["kernels"][0]["kernel_devel"].startswith("kernel-devel-")
    assert (bare.root / "etc/kmodd/keys/signing.key").stat().st_mode & 0o777 == 0o600
    assert bare.plan() == "nothing to do"


def test_headers_after_the_kernel_and_before_it(bare: World) -> None:
    core, modules_core, devel = bare.releases.files[bare.kernel]
    bare.add("alpha")
    bare.start()
    bare.rpm("-i", core, modules_core)
    bare.wait_for("alpha", "waiting")
    target = bare.target("alpha")
    assert target["problem"] == "kernel-devel-missing"
    expected = f"dnf --installroot={bare.root} install 'kernel-devel-uname-r = {bare.kernel}'"
    assert target["hint"] == expected
    bare.rpm("-i", devel)
    bare.wait_for("alpha", "ready")
    old = bare.releases.old
    core, modules_core, devel = bare.releases.files[old]
    bare.rpm("-i", devel)
    bare.rpm("-i", core, modules_core)
    bare.wait_for("alpha", "ready", old)


def test_objects_are_compressed_as_the_kernels_own_are(bare: World) -> None:
    bare.add("alpha")
    bare.start()
    bare.install(bare.releases.other)
    bare.wait_for("alpha", "ready", bare.releases.other)
    own = next((bare.root / "lib/modules" / bare.releases.other / "kernel").rglob("*.ko*"))
    assert own.suffix == ".xz"
    assert bare.extra(bare.releases.other) == ["alpha/alpha.ko.xz"]


def test_what_a_removed_kernel_leaves_goes_too(world: World) -> None:
    world.add("alpha")
    world.install(world.releases.old)
    world.start()
    world.wait_for("alpha", "ready", world.releases.old)
    world.wait_for("alpha", "ready")
    from ground import privateroot

    privateroot.erase(world.root, world.releases.old)
    gone = world.root / "lib/modules" / world.releases.old
    world.wait(lambda: not gone.exists(), f"{gone} to go")
    world.wait_for("alpha", "ready")
    assert not list((world.root / "var/lib/kmodd/targets").glob(f"{world.releases.old}*"))


def test_unregistering_removes_everything(world: World) -> None:
    world.add("alpha", more='[load]\nat_boot = ["alpha"]\n')
    world.add("beta")
    world.start()
    world.wait_for("alpha", "ready")
    world.wait_for("beta", "ready")
    assert world.ctl("remove", "alpha").returncode == 0
    world.wait(lambda: world.extra() == ["beta/beta.ko"], "alpha to go")
    world.wait(lambda: not (world.root / "etc/modules-load.d/kmodd-alpha.conf").exists(), "its drop-in to go")
    dependencies = world.root / "lib/modules" / world.kernel / "modules.dep"
    world.wait(lambda: "extra/alpha" not in dependencies.read_text(), "depmod, which comes last")


def test_an_object_whose_name_has_a_dash_wins_against_the_kernels_own(world: World) -> None:
    assert list((world.root / "lib/modules" / world.kernel / "kernel").rglob("dm-zero.ko*"))
    world.add("dm-zero", {"dm-zero.c": GOOD.format(name="dm_zero")}, '[[object]]\nname = "dm-zero"\n')
    world.sync()
    assert world.verdict("dm-zero") == "ready", world.target("dm-zero")


def test_an_in_tree_module_is_overridden_and_comes_back(world: World) -> None:
    in_tree = next((world.root / "lib/modules" / world.kernel / "kernel").rglob("dummy.ko"))
    before = in_tree.read_bytes()
    files = {"dummy.c": GOOD.format(name="dummy"), "Makefile": "obj-m := dummy.o\n"}
    world.add("mine", files, '[[object]]\nname = "dummy"\n')
    world.sync()
    assert world.verdict("mine") == "ready"
    assert show_depends(world, "dummy")[-1].startswith(f"insmod /lib/modules/{world.kernel}/extra/mine/dummy.ko")
    assert in_tree.read_bytes() == before
    world.registry("mine").unlink()
    world.sync()
    assert show_depends(world, "dummy")[-1].strip().endswith(str(in_tree).partition("modules/")[2])
    assert not (world.root / "etc/depmod.d/kmodd-mine.conf").exists()


def test_an_in_tree_module_is_not_overridden_unasked(world: World) -> None:
    files = {"dummy.c": GOOD.format(name="dummy"), "Makefile": "obj-m := dummy.o\n"}
    world.add("mine", files)
    world.add("alpha")
    world.sync()
    target = world.target("mine")
    assert (target["verdict"], target["problem"]) == ("failed", "object-in-tree"), target
    assert "dummy.ko" in target["reason"] and "[[object]]" in target["hint"]
    assert world.extra() == ["alpha/alpha.ko"]
    assert world.plan() == "nothing to do"
    named = world.registry("mine").read_text() + '[[object]]\nname = "dummy"\n'
    world.registry("mine").write_text(named)
    assert world.sync().returncode == 0
    world.registry("mine").write_text(named.partition("[[object]]")[0])
    world.source("mine").joinpath("dummy.c").write_text(GOOD.format(name="dummy") + "int changed;\n")
    built = world.target("mine")["fingerprint"]
    world.sync()
    target = world.target("mine")
    assert (target["verdict"], target["problem"]) == ("failed", "object-in-tree"), "a new build is refused"
    assert target["fingerprint"] != built and "the previous build stays installed" in target["reason"]
    assert show_depends(world, "dummy")[-1].startswith(f"insmod /lib/modules/{world.kernel}/extra/mine/dummy.ko")


def test_add_names_objects_that_take_the_place_of_the_kernels_own(world: World) -> None:
    world.add("mine", {"dummy.c": GOOD.format(name="dummy"), "Makefile": "obj-m := dummy.o beta.o\n",
                       "beta.c": GOOD.format(name="beta")})  # fmt: skip
    world.registry("mine").unlink()
    said = world.ctl("add", "/usr/src/mine-1.0").stdout
    assert "name dummy, which the kernel has itself" in said
    assert '[[object]]\nname = "dummy"\n' in world.registry("mine").read_text()
    assert world.sync().returncode == 0
    assert world.extra() == ["mine/beta.ko", "mine/dummy.ko"]


def test_ours_wins_on_kernels_whose_names_hold_a_plus_or_another_name(bare: World) -> None:
    """Where the search order prefers the kernel's own: one release has a plus, and that of another begins so, too."""
    plus, short = bare.releases.other, bare.kernel
    bare.install(plus)
    bare.install(short)
    order = bare.root / "etc/depmod.d/order.conf"
    order.parent.mkdir(parents=True, exist_ok=True)
    order.write_text("search built-in extra\n")
    longer = f"{short}1"  # a neighbour with its own module only, whose name ours is a part of
    shutil.copytree(bare.root / "lib/modules" / short, bare.root / "lib/modules" / longer, symlinks=True)
    more = f'[[object]]\nname = "dummy"\n[kernels]\nexclude = ["{longer}"]\n'
    bare.add("mine", {"dummy.c": GOOD.format(name="dummy"), "Makefile": "obj-m := dummy.o\n"}, more)
    assert bare.sync().returncode == 0
    subprocess.run(["depmod", "-b", bare.root, "-C", bare.root / "etc/depmod.d", longer], check=True)
    for kernel, place in ((plus, "extra/mine/"), (short, "extra/mine/"), (longer, "kernel/drivers/net/")):
        assert show_depends(bare, "dummy", kernel)[-1].startswith(f"insmod /lib/modules/{kernel}/{place}dummy.ko")
    assert {bare.verdict("mine", kernel) for kernel in (plus, short)} == {"ready"}
    override = bare.root / "etc/depmod.d/kmodd-mine.conf"
    older = f"# Generated by kmodd for module mine\noverride dummy {plus} extra/mine\n"
    override.write_text(older)
    assert bare.sync().returncode == 0
    assert override.read_text() != older
    assert show_depends(bare, "dummy", plus)[-1].startswith(f"insmod /lib/modules/{plus}/extra/mine/dummy.ko")


def test_a_changed_source_is_built_again_and_only_then(world: World) -> None:
    world.add("alpha")
    world.sync()
    first = world.target("alpha")
    world.sync()
    assert world.target("alpha") == first
    source = world.source("alpha") / "alpha.c"
    os.utime(source)
    assert world.plan() == "nothing to do"
    source.write_text(source.read_text().replace("value = 1", "value = 2"))
    assert "its source changed" in world.plan()
    world.sync()
    assert world.target("alpha")["objects"] != first["objects"]


def test_symbols_of_a_module_are_handed_to_those_that_depend_on_it(world: World) -> None:
    provider = GOOD.format(name="zeta") + "int zeta_answer(void) { return 42; }\nEXPORT_SYMBOL_GPL(zeta_answer);\n"
    user = GOOD.format(name="alpha").replace("return 0", "return zeta_answer() != 42")
    world.add("zeta", {"zeta.c": "int zeta_answer(void);\n" + provider})
    world.add("alpha", {"alpha.c": "int zeta_answer(void);\n" + user}, '[build]\ndepends = ["zeta"]\n')
    world.sync()
    assert [world.verdict("zeta"), world.verdict("alpha")] == ["ready", "ready"]
    assert [Path(line.split()[1]).name for line in show_depends(world, "alpha")] == ["zeta.ko", "alpha.ko"]
    source = world.source("zeta") / "zeta.c"
    source.write_text(source.read_text().replace("42", "43"))
    assert "zeta, which it depends on, changed" in world.plan()


def test_a_stopped_build_goes_on_at_the_next_start(world: World) -> None:
    world.add("alpha", {"alpha.c": GOOD.format(name="alpha"), "Makefile": f"obj-m := alpha.o\n{HELD}"})
    world.start()
    world.hold()
    world.wait(lambda: any("building alpha" in line for line in world.heard()), "the service manager to be told")
    assert world.kill(signal.SIGTERM) == 0
    assert "STOPPING=1" in world.heard()
    assert world.extra() == []
    world.told.clear()
    world.start()
    world.release()
    world.wait_for("alpha", "ready")


def test_reload_takes_changed_settings(world: World) -> None:
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    world.settings("[daemon]\nquiet = 'nonsense'\n")
    assert world.child is not None
    world.child.send_signal(signal.SIGHUP)
    world.wait(lambda: "settings refused" in world.log.read_text(), "the bad settings to be refused")
    assert "daemon.quiet" in world.log.read_text()
    world.wait(lambda: world.heard().count("READY=1") >= 2, "READY=1 after the refused settings")
    world.settings("[build]\njobs = 1\n")
    world.told.clear()
    world.child.send_signal(signal.SIGHUP)
    world.wait(lambda: "READY=1" in world.heard(), "READY=1 after the reload")
    assert "RELOADING=1" in world.told
    assert "configuration read" in world.log.read_text()


def test_no_reload_is_lost_in_the_midst_of_a_look(world: World) -> None:
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    assert world.child is not None
    for round in range(8):
        world.settings(f"[daemon]\nquiet = 'nonsense {round}'\n")  # this alone makes it look
        pause(0.15 + 0.05 * round)  # any moment of a look is a good one
        world.child.send_signal(signal.SIGHUP)
        refused = round + 1
        world.wait(lambda n=refused: world.log.read_text().count("settings refused") == n, "the reload to be answered")


def test_two_on_one_root_exclude_each_other(world: World) -> None:
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    assert world.child is not None
    second = subprocess.run(world.command(), capture_output=True, text=True, timeout=LIMIT)
    assert second.returncode == 1
    assert f"kmodd (pid {world.child.pid}) is at work on" in second.stderr
    assert world.ctl("status").returncode == 0  # the first one's socket was left alone


def test_the_rpm_lock_is_waited_for(world: World) -> None:
    """A transaction that goes on long after the files are there: nothing starts before its end."""
    world.add("alpha")
    holder = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    lock = subprocess.Popen(
        ["python3", "-c", holder, world.root / "var/lib/rpm/.rpm.lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert lock.stdout is not None and lock.stdout.readline().strip() == "1"
    world.start()
    world.wait(lambda: "waiting for the rpm transaction" in world.log.read_text(), "the daemon to wait for the lock")
    lock.communicate("\n")
    assert lock.returncode == 0
    world.wait_for("alpha", "ready")
    text = world.log.read_text()
    assert text.index("waiting for the rpm transaction") < text.index("build started")
    assert f"pid={lock.pid}" in text


def test_the_watchdog_hears_of_a_daemon_at_work(world: World) -> None:
    world.add("alpha", {"alpha.c": GOOD.format(name="alpha"), "Makefile": f"obj-m := alpha.o\n{HELD}"})
    world.start({"WATCHDOG_USEC": "1000000"})
    world.hold()
    before = world.heard().count("WATCHDOG=1")
    world.wait(lambda: world.heard().count("WATCHDOG=1") >= before + 4, "signs of life while it builds")
    assert world.verdict("alpha") == "building"
    world.release()
    world.wait_for("alpha", "ready")
