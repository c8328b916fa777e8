"""What is found in a failed build's log: real texts of gcc, modpost, make, the shell and the kernel's killer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kmodd.kbuild.failure import HEAD, TAIL, explain, find_error, find_passing, first_error, read

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
UNEXPLAINED = "build-failed, for what nobody knows"
TABLE = [
    ("gcc", GCC, "build-failed", "v4l2loopback.c:2811:28: error: initialization of 'void (*)(struct file *)'"),
    ("gcc, missing header", HEADER, "build-failed", "x.c:3:10: fatal error: linux/gone.h: No such file or directory"),
    ("modpost", MODPOST, "build-failed", 'ERROR: modpost: "ceph_create_client" [rbd.ko] undefined!'),
    ("modpost, GPL", GPL, "build-failed", "ERROR: modpost: GPL-incompatible module x.ko uses GPL-only symbol"),
    ("no rule", NO_RULE, "build-failed", "make[2]: *** No rule to make target 'gone.o', needed by 'x.o'.  Stop."),
    ("no Makefile", NO_MAKEFILE, "build-failed", "make[2]: *** No rule to make target 'Makefile'.  Stop."),
    ("linker", LINK, "build-failed", "ld: y.o: file not recognized: file format not recognized"),
    ("only make", "make: *** [Makefile:3: all] Error 7\n", UNEXPLAINED, "make: *** [Makefile:3: all] Error 7"),
    ("nothing known", "[kmodd: x]\nsomething odd\n", UNEXPLAINED, "something odd"),
    ("empty", "", UNEXPLAINED, "the build ended with exit status 2"),
    (
        "only directories",
        "make[1]: Entering directory '/x'\nmake[1]: Leaving directory '/x'\n",
        UNEXPLAINED,
        "status 2",
    ),
    ("shell", "/bin/sh: 1: ./gen: Permission denied\nmake: *** [x] Error 126\n", UNEXPLAINED, "./gen: Permission"),
    ("ld warns", "ld: warning: x.o: missing .note.GNU-stack section\nmake: *** [x] Error 9\n", UNEXPLAINED, "Error 9"),
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
    assert problem.code == code.partition(",")[0]
    assert message in problem.message
    assert problem.transient is (code != "build-failed")
    assert problem.hint
    if problem.code == "build-failed":
        assert "/var/log/kmodd/m/k/1.log" in problem.hint


#: What was printed when tools were really killed in builds for Linux 6.1, by GNU make 4.3, dash, bash 5.2 and gcc 12.
KILLED = {
    "objtool KILL": """  CC [M]  /build/source/m.o
Killed
make[1]: *** [scripts/Makefile.build:255: /build/source/m.o] Error 137
make[1]: *** Deleting file '/build/source/m.o'
make: *** [Makefile:2065: /build/source] Error 2
make: Leaving directory '/usr/src/kernels/6.1.0'
""",
    "modpost TERM": """  MODPOST /build/source/Module.symvers
Terminated
make[1]: *** [scripts/Makefile.modpost:127: /build/source/Module.symvers] Error 143
make: *** [Makefile:2017: modpost] Error 2
make: Leaving directory '/usr/src/kernels/6.1.0'
""",
    "fixdep SEGV": """  CC [M]  /build/source/m.o
Segmentation fault
make[1]: *** [scripts/Makefile.build:255: /build/source/m.o] Error 139
make[1]: *** Deleting file '/build/source/m.o'
""",
    "nm KILL": """./scripts/check-local-export: nm failed
Terminated
make[1]: *** [scripts/Makefile.build:255: /build/source/m.o] Error 143
make[1]: *** Deleting file '/build/source/m.o'
""",
    "recipe HUP": "make: *** [Makefile:2: x] Hangup\n",
    "recipe TERM": "make: *** [Makefile:2: x] Terminated\n",
    "recipe SEGV": "make: *** [Makefile:2: x] Segmentation fault\n",
    "recipe BUS": "make: *** [Makefile:2: x] Bus error\n",
    "recipe INT": "make: *** [Makefile:2: x] Interrupt\n",
    "recipe SEGV, core": "make: *** [Makefile:2: x] Segmentation fault (core dumped)\n",
    "shell INT": "make: *** [Makefile:2: x] Error 130\n",
    "bash KILL": "/bin/bash: line 1: 26791 Killed                  bash -c 'x'\nmake: *** [Makefile:3: x] Error 1\n",
    "bash BUS": "/bin/bash: line 1: 26872 Bus error               bash -c 'x'\nmake: *** [Makefile:3: x] Error 2\n",
    "cc1 TERM": "gcc: fatal error: Terminated signal terminated program cc1\ncompilation terminated.\n",
    "as SEGV": """gcc: internal compiler error: Segmentation fault signal terminated program as
Please submit a full bug report, with preprocessed source (by using -freport-bug).
""",
    "ld TERM": "collect2: fatal error: ld terminated with signal 15 [Terminated]\ncompilation terminated.\n",
    "ld SEGV": "collect2: fatal error: ld terminated with signal 11 [Segmentation fault]\ncompilation terminated.\n",
    "python": "subprocess.CalledProcessError: Command 'x' died with <Signals.SIGKILL: 9>.\nmake: *** [x] Error 1\n",
    "xargs": "xargs: gcc: terminated by signal 9\nmake: *** [x] Error 125\n",
    "cc1 ENOSPC": "x.c:1:1: fatal error: error closing /tmp/c.s: No space left on device\n    1 | int main\n",
    "as ENOSPC": "/tmp/c.s: Fatal error: can't write 11 bytes to section .text of x.o: 'No space left on device'\n",
    "ld ENOSPC": "/usr/bin/ld: final link failed: No space left on device\ncollect2: error: ld returned 1\n",
    "dash ENOSPC": "sh: 1: echo: echo: I/O error\nmake: *** [Makefile:2: x] Error 1\n",
    "cc1 EMFILE": "<command-line>: fatal error: /usr/include/stdc-predef.h: Too many open files\n",
    "killed beside an error": "x.c:1:1: error: expected ';'\nmake: *** [Makefile:2: y.o] Error 137\n",
}


@pytest.mark.parametrize("text", KILLED.values(), ids=list(KILLED))
def test_failure_for_a_killed_or_starved_tool_may_pass(tmp_path: Path, text: str) -> None:
    (tmp_path / "log").write_text(text)
    problem = explain(tmp_path / "log", 2, "/log")
    assert problem.transient
    assert problem.code != "build-failed"


@pytest.mark.parametrize("status", [-9, -15, -11, 129, 130, 134, 135, 137, 139, 143])
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


TRAPS = {
    "colons and digits": ":1" * 499 + "\n",
    "digits": "x:" + "1" * 998 + "\n",
    "spaces and digits": "error " + " " * 400 + "1" * 300 + " " * 200 + "\n",
    "no spaces": "x" * 900 + "not found\n",
    "brackets": "make: *** [" + "] " * 490 + "\n",
    "make and brackets": "make: *** [" * 90 + "\n",
    "undefined": "undefined reference t" * 47 + "\n",
    "dkms": "/var/lib/dkms/" * 70 + " error\n",
    "errors": "x:1: erro" * 110 + "\n",
    "empty": "\n",
    "two": "*\n",
    "one long": "error: x:1: " * 80,
    "from": " from x:1" * 110 + "\n",
}


@pytest.mark.parametrize("trap", TRAPS.values(), ids=list(TRAPS))
def test_time_grows_with_a_log_and_no_faster(trap: str) -> None:
    def take(size: int) -> float:
        text = trap * (size // len(trap))
        took = []
        for _ in range(3):
            began = time.process_time()
            find_passing(text, 2)
            find_error(text)
            took.append(time.process_time() - began)
        return min(took)

    assert take(128 << 10) < 5 * take(32 << 10) + 0.05


def test_no_more_than_head_and_tail_of_a_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("first\n" + "x" * (8 << 20) + "\nlast\n")
    text = read(tmp_path / "log")
    assert len(text) <= HEAD + TAIL + 1
    assert text.startswith("first\n")
    assert text.endswith("\nlast\n")
    (tmp_path / "log").write_text("12345\n")
    assert read(tmp_path / "log", 3) == "45\n"


def test_end_of_a_long_log_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("  CC [M]  a.o\n" * 1_000_000 + "x.c:1:2: error: y\n" + "w.c:1: warning: z\n" * 1000)
    assert explain(tmp_path / "log", 2, "/log").message == "x.c:1:2: error: y"
    found = find_error(read(tmp_path / "log"))
    assert found is not None
    assert (found["file"], found["number"], found["excerpt"]) == ("x.c", 1, ["x.c:1:2: error: y"])


def test_later_pattern_does_not_win_by_coming_first() -> None:
    assert first_error("make[1]: *** [x] Error 1\nx.c:1: error: y\n") == "x.c:1: error: y"
