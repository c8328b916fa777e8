"""Bad input and bad luck: the right verdict and reason, the others unharmed, the daemon alive."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from patience import pause
from world import GOOD, HELD, World

from kmodd.core.sysroot import PROGRAM_PATH

pytestmark = pytest.mark.system

#: A file whose Makefile runs a shell line first; what it prints is in the build's log.
HOSTILE = "obj-m := bad.o\n$(info $(shell {line}))\n"


def hostile(line: str) -> dict[str, str]:
    return {"bad.c": GOOD.format(name="bad"), "Makefile": HOSTILE.format(line=line)}


BUILDS = {
    "compiler error": (
        {"bad.c": "#include <linux/module.h>\nint f(void) { return undeclared_thing; }\nMODULE_LICENSE(\"GPL\");\n"},
        "",
        "build-failed",
        "bad.c:2:22: error: 'undeclared_thing' undeclared",
    ),
    "unresolved symbol": (
        {"bad.c": "int nowhere(void);\n" + GOOD.format(name="bad").replace("return 0", "return nowhere()")},
        "",
        "build-failed",
        'modpost: "nowhere"',
    ),
    "makefile fails": ({"Makefile": "$(error no such luck)\n", "bad.c": ""}, "", "build-failed", "no such luck"),
    "hangs": (hostile("sleep 300"), '[build]\ntimeout = "3s"\n', "build-timeout", "within 3 s"),
    "no object": ({"Makefile": "obj-y := bad.o\n", "bad.c": "int x;\n"}, "", "no-objects", "no .ko"),
    "object is a link": (
        {"Makefile": "obj-n :=\n$(shell ln -s /etc/shadow /build/source/bad.ko)\n", "bad.c": ""},
        "",
        "no-objects",
        "no .ko",
    ),
    "object is not ELF": (
        {"Makefile": "obj-n :=\n$(shell echo hello > /build/source/bad.ko)\n", "bad.c": ""},
        "[build]\nstrip = false\n",
        "object-invalid",
        "not a relocatable ELF",
    ),
    "object without a name": (
        {"Makefile": "obj-n :=\n$(shell cp /bin/true /build/source/.ko)\n", "bad.c": ""},
        "[build]\nstrip = false\n",
        "object-invalid",
        "the build yielded .ko:",
    ),
    "object named in two lines": (
        {"Makefile": "obj-n :=\n$(shell cp /bin/true \"$$(printf '/build/source/a\\nb\\033[31m.ko')\")\n", "bad.c": ""},
        "[build]\nstrip = false\n",
        "object-invalid",
        "the build yielded a\\nb\\x1b[31m.ko:",
    ),
    "object named by bytes that are no text": (
        {"Makefile": "obj-n :=\n$(shell cp /bin/true \"$$(printf '/build/source/a\\377.ko')\")\n", "bad.c": ""},
        "[build]\nstrip = false\n",
        "object-invalid",
        "the build yielded a\\xff.ko:",
    ),
    "object with too long a name": (
        {"Makefile": f"obj-n :=\n$(shell cp /bin/true /build/source/{56 * 'a'}.ko)\n", "bad.c": ""},
        "[build]\nstrip = false\n",
        "object-invalid",
        "aaa.ko: a module's name",
    ),
    "object not built": (
        {"bad.c": GOOD.format(name="bad")},
        '[[object]]\nname = "worse"\n',
        "object-missing",
        "worse.ko",
    ),
    "patch does not apply": ({"bad.c": GOOD.format(name="bad")}, None, "patch-failed", "fix.patch"),
    "patch is missing": (
        {"bad.c": GOOD.format(name="bad")},
        "patches = ['absent.patch']\n",
        "patch-missing",
        "absent.patch",
    ),
}  # fmt: skip


#: It uses up what processes the build user may have, also for builds in other roots.
BOMB = (hostile("f() { f | f & }; f; sleep 300"), '[build]\ntimeout = "5s"\n', None, "")


@pytest.mark.parametrize("case", [*BUILDS, pytest.param("fork bomb", marks=pytest.mark.alone)])
def test_a_build_that_fails_harms_nobody_else(world: World, case: str) -> None:
    files, more, problem, reason = BUILDS.get(case, BOMB)
    world.add("good")
    if more is None:
        patches = world.registry("bad").with_suffix(".patches")
        patches.mkdir()
        (patches / "fix.patch").write_text("--- a/bad.c\n+++ b/bad.c\n@@ -1 +1 @@\n-something else\n+this\n")
        more = "patches = ['fix.patch']\n"
    world.add("bad", files, more)
    world.sync()
    bad = world.target("bad")
    assert bad["verdict"] == "failed", bad
    if problem is not None:
        assert bad["problem"] == problem, bad
    assert reason in bad["reason"].replace("‘", "'").replace("’", "'"), bad
    assert world.verdict("good") == "ready"
    assert world.extra() == ["good/good.ko"]
    if bad["problem"] in ("build-failed", "build-timeout", "no-objects"):
        log = bad["last_attempt"]["log"]
        assert (world.root / log.lstrip("/")).stat().st_size > 0
        assert world.plan() == "nothing to do", "a deterministic failure is not tried again"


def test_a_hostile_makefile_finds_nothing_to_harm(world: World) -> None:
    """One build tries everything; each try says in the log whether it succeeded."""
    secret = world.root / "etc/kmodd/keys/signing.key"
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    socket.create_connection(("127.0.0.1", port)).close()
    listener.accept()[0].close()  # it can be reached from here
    listener.setblocking(False)
    tries = {
        "uid": "test $$(id -u) = 0",
        "key": f"cat {secret} || cat /etc/kmodd/keys/signing.key",
        "shadow": "cat /etc/shadow",
        "usr": "touch /usr/x",
        "etc": "touch /etc/x",
        "modules": f"touch /lib/modules/{world.kernel}/x",
        "tree": f"touch /usr/src/kernels/{world.kernel}/x",
        "source": f"touch /usr/src/bad-1.0/x || touch {world.source('bad')}/x",
        "network": f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'",
        "mount": "mount -t tmpfs none /tmp",
        "state": f"ls {world.root}/var/lib/kmodd || ls /var/lib/kmodd",
        "device": "dd if=/dev/vda of=/dev/null count=1",
    }
    line = "; ".join(f"if {what} >/dev/null 2>&1; then echo {name}=DONE; else echo {name}=no; fi"
                     for name, what in tries.items())  # fmt: skip
    span = str(10_000_000 + os.getpid())  # by which the process is known
    world.add("good")
    world.sync()
    assert secret.exists()
    world.add("bad", hostile(f"{line}; setsid sleep {span} >/dev/null 2>&1 & true"))
    world.sync()
    said = world.build_log("bad")
    for name in tries:
        assert f"{name}=no" in said, f"{name}: {said[:3000]}"
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()
    assert span not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not (world.source("bad") / "x").exists()
    assert world.verdict("bad") == "ready"


def test_megabytes_of_output_do_not_fill_the_log(world: World) -> None:
    line = "head -c 60000000 /dev/zero | tr \\\\0 y >&2"
    world.add("bad", hostile(line))
    world.sync()
    log = world.root / world.target("bad")["last_attempt"]["log"].lstrip("/")
    assert log.stat().st_size < 18_000_000
    assert "more output was dropped" in log.read_bytes()[-300:].decode(errors="replace")


def test_bad_module_files_and_sources(world: World) -> None:
    world.add("good")
    world.start()
    world.wait_for("good", "ready")
    registry = world.root / "etc/kmodd/modules.d"
    (registry / "broken.toml").write_text("[source\n")
    (registry / "unknown.toml").write_text('[source]\npath = "/x"\n[build]\nspeed = 11\n')
    (registry / "missing.toml").write_text('[source]\npath = "/usr/src/nowhere-1.0"\n')
    (world.root / "usr/src/file").write_text("")
    (registry / "file.toml").write_text('[source]\npath = "/usr/src/file"\n')
    (world.root / "usr/src/loop").symlink_to("loop")
    (registry / "loop.toml").write_text('[source]\npath = "/usr/src/loop"\n')
    os.mkfifo(world.root / "usr/src/pipe")
    fifo = world.source("fifo")
    fifo.mkdir()
    os.mkfifo(fifo / "pipe")
    (registry / "fifo.toml").write_text('[source]\npath = "/usr/src/fifo-1.0"\n')
    expected = {
        "broken": ("module-file-invalid", "broken.toml: not valid TOML"),
        "unknown": ("module-file-invalid", "unknown.toml: build.speed: unknown key"),
        "missing": ("source-missing", "missing.toml: source.path: /usr/src/nowhere-1.0 does not exist"),
        "file": ("source-not-directory", "file.toml: source.path: /usr/src/file is not a directory"),
        "loop": ("symlink-loop", "/usr/src/loop"),
        "fifo": ("source-special-file", "pipe"),
    }
    world.wait(lambda: all(world.verdict(name) == "failed" for name in expected), "all to fail")
    for name, (problem, reason) in expected.items():
        found = world.target(name)
        assert found["problem"] == problem and reason in found["reason"], found
    assert world.verdict("good") == "ready" and world.is_alive()
    assert world.extra() == ["good/good.ko"]
    (registry / "missing.toml").unlink()
    world.wait(lambda: not world.target("missing"), "the file's going to be seen")


def test_a_file_that_breaks_later_does_not_remove_its_module(world: World) -> None:
    world.add("good", more='[load]\nat_boot = ["good"]\n')
    world.start()
    world.wait_for("good", "ready")
    world.registry("good").write_text("[oops\n")
    world.wait_for("good", "failed")
    assert world.extra() == ["good/good.ko"]
    assert (world.root / "etc/modules-load.d/kmodd-good.conf").exists()


def test_objects_of_one_name_in_two_modules(world: World) -> None:
    world.add("first", {"same.c": GOOD.format(name="same"), "Makefile": "obj-m := same.o\n"})
    world.add("second", {"same.c": GOOD.format(name="same"), "Makefile": "obj-m := same.o\n"})
    world.sync()
    assert world.verdict("first") == "ready"
    second = world.target("second")
    assert (second["verdict"], second["problem"]) == ("failed", "object-collision"), second
    assert "first" in second["reason"]


def test_a_full_disk_while_building_passes(world: World) -> None:
    cache = world.root / "var/cache/kmodd"
    world.mount(cache, "-t", "tmpfs", "-o", "size=64k", "none")
    world.add("alpha", {"alpha.c": GOOD.format(name="alpha") + "/*" + "x" * 100_000 + "*/\n"})
    world.start()
    world.wait_for("alpha", "failed")
    assert world.target("alpha")["problem"] == "disk-full"
    world.unmount(cache)
    world.wait_for("alpha", "ready")


def test_a_full_disk_while_installing_passes(world: World) -> None:
    extra = world.root / "lib/modules" / world.kernel / "extra"
    world.mount(extra, "-t", "tmpfs", "-o", "size=4k", "none")
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "failed")
    assert world.target("alpha")["problem"] == "disk-full"
    world.unmount(extra)
    world.wait_for("alpha", "ready")


def test_read_only_modules_pass(world: World) -> None:
    modules = world.root / "usr/lib/modules"
    world.mount(modules, "--bind", str(modules))
    subprocess.run(["mount", "-o", "remount,ro,bind", modules], check=True)
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "failed")
    assert world.target("alpha")["problem"] == "read-only"
    assert world.is_alive()
    subprocess.run(["mount", "-o", "remount,rw,bind", modules], check=True)
    world.wait_for("alpha", "ready")


def test_a_kernel_that_goes_while_it_is_built_for(world: World) -> None:
    world.install(world.releases.old)
    world.add("good")
    world.start()
    world.wait_for("good", "ready")
    world.wait_for("good", "ready", world.releases.old)
    world.add("slow", {"slow.c": GOOD.format(name="slow"), "Makefile": f"obj-m := slow.o\n{HELD}"},
              f'[kernels]\nmatch = ["{world.kernel}"]\n')  # fmt: skip
    world.hold()
    from ground import privateroot

    privateroot.erase(world.root, world.kernel)
    ends = ("build stopped module=slow", "build discarded module=slow")
    world.wait(lambda: any(end in world.log.read_text() for end in ends), "the build to be given up")
    gone = world.root / "lib/modules" / world.kernel
    world.wait(lambda: not gone.exists(), "the leftovers to go")
    assert world.verdict("good", world.releases.old) == "ready" and world.is_alive()


def test_a_build_tree_that_changes_while_it_is_built_against(world: World) -> None:
    world.add("slow", {"slow.c": GOOD.format(name="slow"), "Makefile": f"obj-m := slow.o\n{HELD}"})
    config = world.root / "usr/src/kernels" / world.kernel / ".config"
    text = config.read_text()
    config.unlink()  # it is a hard link to the template's
    config.write_text(text)
    world.start()
    world.hold()
    config.write_text(text + "# another build\n")
    ends = ("build stopped", "build discarded")
    world.wait(lambda: any(end in world.log.read_text() for end in ends), "the build to be given up")
    world.release()
    world.wait_for("slow", "ready")
    assert world.log.read_text().count("build started module=slow") == 2


def _tools_without(world: World, missing: str) -> dict[str, str]:
    """Return an environment whose programs are all but one."""
    directory = world.root.parent / "tools"
    directory.mkdir()
    for place in reversed(PROGRAM_PATH.split(":")):
        for path in Path(place).iterdir() if Path(place).is_dir() else []:
            link = directory / path.name
            if path.name != missing and not link.is_symlink():
                link.symlink_to(path)
    return {"KMODD_PROGRAM_PATH": str(directory)}


def test_without_depmod_nothing_is_ready(world: World) -> None:
    world.add("alpha")
    world.start(_tools_without(world, "depmod"))
    world.wait_for("alpha", "failed")
    found = world.target("alpha")
    assert found["problem"] == "tool-missing" and "depmod" in found["reason"] and "kmod" in found["hint"], found
    assert world.is_alive()
    world.stop()
    world.start()
    world.wait_for("alpha", "ready")


def test_an_unreadable_rpm_database_is_no_obstacle(world: World) -> None:
    (world.root / "var/lib/rpm/rpmdb.sqlite").write_bytes(b"this is not a database" * 1000)
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    assert "rpm database not read" in world.log.read_text() and world.is_alive()


@pytest.mark.parametrize("harm", ["gone", "exposed"])
def test_a_key_that_is_not_as_it_was_is_a_failure_and_never_unsigned(world: World, harm: str) -> None:
    world.add("alpha")
    world.sync()
    assert world.verdict("alpha") == "ready"
    key = world.root / "etc/kmodd/keys/signing.key"
    kept = key.read_bytes()
    if harm == "gone":
        key.unlink()
    else:
        key.chmod(0o644)
    world.add("beta")
    world.sync()
    beta = world.target("beta")
    expected = "signing-key-missing" if harm == "gone" else "signing-key-exposed"
    assert (beta["verdict"], beta["problem"]) == ("failed", expected), beta
    assert beta["hint"]
    assert world.extra() == ["alpha/alpha.ko"]
    key.unlink(missing_ok=True)
    key.touch(mode=0o600)
    key.write_bytes(kept)
    world.sync()
    assert world.verdict("beta") == "ready"


def test_an_edited_object_is_put_right(world: World) -> None:
    world.add("alpha")
    world.sync()
    path = world.root / "lib/modules" / world.kernel / "extra/alpha/alpha.ko"
    path.write_bytes(path.read_bytes() + b"x")
    found = world.target("alpha")
    assert found["verdict"] == "building" and "changed by somebody else" in found["reason"]
    world.start()
    world.wait_for("alpha", "ready")
    path.unlink()
    world.wait(lambda: path.exists(), "the object to come back")


def test_many_triggers_at_once_end_in_rest(world: World) -> None:
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    for number in range(3000):
        path = world.registry(f"noise{number % 7}").with_suffix(".txt")
        path.write_text("x")
        path.unlink()
    world.add("last")
    world.wait_for("last", "ready")
    before = world.log.read_text().count("looked again")
    pause(2.0)
    assert world.log.read_text().count("looked again") <= before + 1
    assert world.verdict("alpha") == "ready"


def test_an_ostree_deployment_is_refused_and_left_alone(world: World) -> None:
    world.add("alpha")
    (world.root / "run/ostree-booted").touch()
    done = world.sync()
    assert done.returncode == 1
    assert "ostree" in done.stderr and "--root" in done.stderr
    assert world.extra() == []
