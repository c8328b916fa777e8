"""Projects that bring their own way to build, and those whose Makefile is not at the top, on a real build tree."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from ground import autoproject
from ground.archives import source, tar
from world import GOOD, World

pytestmark = pytest.mark.system


def register(world: World, name: str, command: str, script: str = "", more: str = "", mode: int = 0o755) -> None:
    """Register a module whose source is one shell script."""
    top = world.source(name)
    top.mkdir(parents=True)
    (top / "run").write_text(script)
    (top / "run").chmod(mode)
    world.registry(name).write_text(f'[source]\npath = "/usr/src/{name}-1.0"\n[build]\ncommand = {command}\n{more}')


def test_project_of_autoconf_is_built(world: World) -> None:
    path = world.root / "srv/foo-1.2.tar.xz"
    path.parent.mkdir()
    tar(path, source("foo-1.2", autoproject.files(GOOD.format(name="foo"))), "xz")
    command = '[["./configure", "--with-linux={build_tree}"], ["make"]]'
    world.registry("foo").write_text(f'[source]\narchive = "/srv/foo-1.2.tar.xz"\n[build]\ncommand = {command}\n')
    world.sync()
    log = world.build_log("foo")
    assert world.verdict("foo") == "ready", log
    assert world.extra() == ["foo/foo.ko"]
    assert f"checking whether modules can be built against /usr/src/kernels/{world.kernel}" in log
    assert "this is PACKAGE_VERSION 1.2" in log
    assert "jobserver" not in log.replace("--jobserver-auth", ""), "configure did not close what make hands on"
    assert world.plan() == "nothing to do"


def test_configure_that_refuses_is_quoted(world: World) -> None:
    top = world.source("foo")
    for name, text in autoproject.files(GOOD.format(name="foo")).items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    (top / "configure").chmod(0o755)
    command = '[["./configure", "--with-linux=/nowhere"], ["make"]]'
    world.registry("foo").write_text(f'[source]\npath = "/usr/src/foo-1.0"\n[build]\ncommand = {command}\n')
    world.sync()
    found = world.target("foo")
    assert (found["verdict"], found["problem"]) == ("failed", "build-failed"), found
    assert 'configure: error: no kernel in "/nowhere"' in found["reason"]
    assert "make ended" not in world.build_log("foo"), "what comes after a failure does not run"


SHOW = '#!/bin/sh\necho "words $*"\necho "user $(id -u) in $PWD, CC=$CC"\ncat /etc/shadow\nexit 3\n'


def test_placeholders_and_the_place_of_a_command(world: World) -> None:
    command = '["./run", "{kernel}", "--with={build_tree}", "-j{jobs}", "{source}", "${not}", "a b"]'
    world.settings('[retry]\nfirst = "1h"\nlongest = "1h"\n')  # nothing tells that the source is to blame
    register(world, "show", command, SHOW, 'directory = "."\n')
    world.sync()
    log = world.build_log("show")
    tree = f"/usr/src/kernels/{world.kernel}"
    assert f"words {world.kernel} --with={tree} -j" in log
    assert " /build/source ${not} a b\n" in log
    assert "in /build/source, CC=gcc" in log
    assert "user 0 " not in log
    assert "root:" not in log
    assert world.target("show")["problem"] == "build-failed"


BAD: dict[str, tuple[str, str, int, str, str]] = {
    "missing": ('["./nowhere"]', "", 0o755, "command-missing", "build.command: ./nowhere cannot be run: No such file"),
    "closed": ('["./run"]', "#!/bin/sh\n", 0o644, "command-missing", "build.command: ./run cannot be run: Permission"),
    "fails": ('["./run"]', "#!/bin/sh\necho hard luck\nexit 7\n", 0o755, "build-failed", "hard luck"),
    "nothing": ('["./run"]', "#!/bin/sh\n", 0o755, "no-objects", "the build succeeded but yielded no .ko"),
    "first": ('[["false"], ["./run"]]', "#!/bin/sh\ntouch x.ko\n", 0o755, "build-failed", "ended with exit status 1"),
    "slow": ('[["sleep", "2"], ["sleep", "300"]]', "", 0o755, "build-timeout", "within 4 s (build.timeout)"),
    "fake": ('["cp", "run", "fake.ko"]', "#!/bin/sh\n", 0o755, "object-invalid", "is not a relocatable ELF object"),
}


def test_commands_that_fail_say_why(world: World) -> None:
    world.settings('[retry]\nfirst = "1h"\n')
    for name, (command, script, mode, _, _) in BAD.items():
        limit = "4s" if name == "slow" else "1h"
        register(world, name, command, script, f'timeout = "{limit}"\nstrip = false\n', mode)
    register(world, "tool", '["no-such-program"]', "")
    world.add("good")
    world.sync()
    for name, (_, _, _, problem, reason) in BAD.items():
        found = world.target(name)
        assert (found["verdict"], found["problem"]) == ("failed", problem), found
        assert reason in found["reason"], found
    assert world.target("tool")["problem"] == "tool-missing"
    assert "no-such-program, which the build runs, is not installed" in world.target("tool")["reason"]
    assert world.extra() == ["good/good.ko"]


def put(world: World, name: str, files: dict[str, str], more: Optional[str] = None) -> Path:
    """Register a module of several files; more: what follows in its module file."""
    top = world.source(name)
    for path, text in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    world.registry(name).write_text(f'[source]\npath = "/usr/src/{name}-1.0"\n{more or ""}')
    return top


def test_makefile_in_a_subdirectory_that_includes_from_its_parent(world: World) -> None:
    code = GOOD.format(name="alpha").replace("value = 1", "value = ALPHA")
    files = {
        "include/alpha.h": "#define ALPHA 5\n",
        "common.c": "int alpha_common(void);\nint alpha_common(void) { return 0; }\n",
        "drivers/alpha/Kbuild": (
            "obj-m := alpha.o\nalpha-y := main.o ../../common.o\nccflags-y := -I$(src)/../../include\n"
        ),
        "drivers/alpha/main.c": f"#include <alpha.h>\n{code}",
        "Makefile": "$(error this is the wrong one)\n",
    }
    top = put(world, "alpha", files, '[build]\ndirectory = "drivers/alpha"\n')
    world.sync()
    assert world.verdict("alpha") == "ready", world.build_log("alpha")
    assert world.extra() == ["alpha/alpha.ko"]
    (top / "include/alpha.h").write_text("#define ALPHA 6\n")
    assert "its source changed" in world.plan()


def test_directory_that_is_not_there(world: World) -> None:
    put(world, "alpha", {"a/Makefile": "obj-m := alpha.o\n"}, '[build]\ndirectory = "b"\n')
    put(world, "beta", {"Makefile": ""}, '[build]\ndirectory = "b"\ncommand = ["true"]\n')
    world.sync()
    for name in ("alpha", "beta"):
        found = world.target(name)
        assert (found["verdict"], found["problem"]) == ("failed", "build-directory-missing"), found
        assert f"{name}.toml: build.directory: b is not a directory of the source" in found["reason"]
