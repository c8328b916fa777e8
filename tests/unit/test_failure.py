"""What is told of a failed build's log: real texts of gcc, modpost, make, the shell and the kernel's killer."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmodd.build.failure import explain, first_error

GCC = """make: Entering directory '/usr/src/kernels/6.12.0-1'
  CC [M]  /build/source/v4l2loopback.o
In file included from /build/source/v4l2loopback.c:20:
/build/source/v4l2loopback.c: In function 'vidioc_g_fmt':
/build/source/v4l2loopback.c:901:9: warning: 'strncpy' output may be truncated [-Wstringop-truncation]
/build/source/v4l2loopback.c:2811:28: error: initialization of 'void (*)(struct file *)' from incompatible pointer type
 2811 |         .vidioc_enum_frameintervals = f,
      |                            ^
/build/source/v4l2loopback.c:2900:1: error: expected ';' before '}' token
make[2]: *** [scripts/Makefile.build:243: /build/source/v4l2loopback.o] Error 1
make[1]: *** [Makefile:1938: /build/source] Error 2
make: *** [Makefile:234: __sub-make] Error 2
"""
HEADER = """/build/source/x.c:3:10: fatal error: linux/gone.h: No such file or directory
    3 | #include <linux/gone.h>
compilation terminated.
make[2]: *** [scripts/Makefile.build:250: /build/source/x.o] Error 1
"""
MODPOST = """  MODPOST /build/source/Module.symvers
ERROR: modpost: "ceph_create_client" [/build/source/rbd.ko] undefined!
ERROR: modpost: "ceph_open_session" [/build/source/rbd.ko] undefined!
make[2]: *** [scripts/Makefile.modpost:126: /build/source/Module.symvers] Error 1
"""
GPL = (
    "ERROR: modpost: GPL-incompatible module x.ko uses GPL-only symbol 'class_create'\n"
    "make: *** [Makefile:1: all] Error 2\n"
)
NO_RULE = """make[2]: *** No rule to make target '/build/source/gone.o', needed by '/build/source/x.o'.  Stop.
make[1]: *** [Makefile:1938: /build/source] Error 2
"""
NO_MAKEFILE = (
    "scripts/Makefile.build:41: /build/source/Makefile: No such file or directory\n"
    "make[2]: *** No rule to make target '/build/source/Makefile'.  Stop.\n"
)
LINK = (
    "  LD [M]  /build/source/x.o\n"
    "ld: /build/source/y.o: file not recognized: file format not recognized\n"
    "make[2]: *** [x] Error 1\n"
)
TABLE = [
    ("gcc", GCC, "build-failed", "v4l2loopback.c:2811:28: error: initialization of 'void (*)(struct file *)'"),
    ("gcc, missing header", HEADER, "build-failed", "x.c:3:10: fatal error: linux/gone.h: No such file or directory"),
    ("modpost", MODPOST, "build-failed", 'ERROR: modpost: "ceph_create_client" [rbd.ko] undefined!'),
    ("modpost, GPL", GPL, "build-failed", "ERROR: modpost: GPL-incompatible module x.ko uses GPL-only symbol"),
    ("no rule", NO_RULE, "build-failed", "make[2]: *** No rule to make target 'gone.o', needed by 'x.o'.  Stop."),
    ("no Makefile", NO_MAKEFILE, "build-failed", "make[2]: *** No rule to make target 'Makefile'.  Stop."),
    ("linker", LINK, "build-failed", "ld: y.o: file not recognized: file format not recognized"),
    ("only make", "make: *** [Makefile:3: all] Error 7\n", "build-failed", "make: *** [Makefile:3: all] Error 7"),
    ("nothing known", "[kmodd: x]\nsomething odd\n", "build-failed", "something odd"),
    ("empty", "", "build-failed", "the build ended with exit status 2"),
    (
        "missing program",
        "/bin/sh: 1: bison: not found\nmake[1]: *** [Makefile:1: x] Error 127\n",
        "tool-missing",
        "bison: not found",
    ),
    ("missing program, bash", "bash: line 1: pahole: command not found\n", "tool-missing", "pahole: command not found"),
    (
        "disk full",
        "x.c:1:1: fatal error: error writing to /tmp/ccX.s: No space left on device\nmake: *** [x] Error 1\n",
        "disk-full",
        "No space left on device",
    ),
    ("quota", "cp: error writing 'a': Disk quota exceeded\n", "disk-full", "Disk quota exceeded"),
    (
        "out of memory",
        "gcc: fatal error: Killed signal terminated program cc1\ncompilation terminated.\n",
        "out-of-memory",
        "Killed signal terminated program cc1",
    ),
    ("killed in a recipe", "make[1]: *** [Makefile:3: all] Killed\n", "out-of-memory", "[Makefile:3: all] Killed"),
    ("linker killed", "collect2: fatal error: ld terminated with signal 9 [Killed]\n", "out-of-memory", "signal 9"),
    ("cannot allocate", "cc1: out of memory allocating 65536 bytes\n", "out-of-memory", "out of memory"),
    ("no sandbox", "bwrap: loopback: Failed RTM_NEWADDR: No child processes\n", "sandbox-failed", "RTM_NEWADDR"),
    ("fork fails", "make: vfork: Resource temporarily unavailable\n", "resources-exhausted", "vfork"),
    ("the shell cannot fork", "/bin/sh: 1: Cannot fork\n", "resources-exhausted", "Cannot fork"),
]


@pytest.mark.parametrize(("text", "code", "message"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE])
def test_log_is_explained(tmp_path: Path, text: str, code: str, message: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    problem = explain(log, 2, "/var/log/kmodd/m/k/1.log")
    assert problem.code == code
    assert message in problem.message
    assert problem.transient is (code != "build-failed")
    assert problem.hint
    if code == "build-failed":
        assert "/var/log/kmodd/m/k/1.log" in problem.hint


@pytest.mark.parametrize("status", [-9, 137])
def test_killed_make_may_be_tried_again(tmp_path: Path, status: int) -> None:
    (tmp_path / "log").write_text("  CC [M]  x.o\n")
    problem = explain(tmp_path / "log", status, "/log")
    assert (problem.code, problem.transient) == ("build-killed", True)


@pytest.mark.parametrize(
    "text",
    [
        'x.c:5:9: error: implicit declaration of function "pr_oom" [-Werror]\nx.c:6: note: out of memory handling\n',
        'x.c:5:9: error: expected expression\n  5 | pr_err("Cannot allocate memory\\n");\n',
        'x.c:5:9: error: expected expression\n  5 | pr_err("cable: not found\n");\n',
    ],
)
def test_source_that_speaks_of_memory_is_still_to_blame(tmp_path: Path, text: str) -> None:
    (tmp_path / "log").write_text(text)
    problem = explain(tmp_path / "log", 2, "/log")
    assert (problem.code, problem.transient) == ("build-failed", False)


def test_log_that_is_not_text_or_very_long_is_bearable(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\xfe" * 1000 + b"\nx.c:1:1: error: caf\xe9 " + b"y" * 100_000 + b"\n")
    problem = explain(tmp_path / "log", 2, "/log")
    assert problem.message.startswith("x.c:1:1: error: caf")
    assert len(problem.message) <= 500


def test_later_pattern_does_not_win_by_coming_first() -> None:
    assert first_error("make[1]: *** [x] Error 1\nx.c:1: error: y\n") == "x.c:1: error: y"
