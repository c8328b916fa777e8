"""What kmoddctl shows of real builds: their stories, their logs, their JSON, and what it would do."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest
from patience import LIMIT
from world import GOOD, HELD, World

pytestmark = pytest.mark.system
BROKEN = """\
#include <linux/module.h>
int init_module(void)
{
\treturn missing_function(1);
}
MODULE_LICENSE("GPL");
"""
SLOW = f"obj-m := slow.o\n{HELD}"


def test_failed_build_is_explained_with_its_source(built: World) -> None:
    built.add("broken", {"broken.c": BROKEN})
    assert built.sync().returncode == 1
    shown = built.ctl("explain", "broken")
    assert shown.returncode == 1
    lines = shown.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("    broken.c:4:16: error: implicit declaration"))
    assert lines[at - 2] == "  first error"
    assert lines[at - 1] == "    broken.c: In function 'init_module':"
    assert lines[at + 1].endswith("return missing_function(1);")
    text = " ".join(shown.stdout.split())
    assert "rule 4: what failed is not tried again" in text
    assert "waits for a change of its source" in text
    assert "last try build failed" in text
    document = json.loads(built.ctl("explain", "broken", "--json").stdout)
    (target,) = document["targets"]
    assert (target["error"]["file"], target["error"]["number"]) == ("broken.c", 4)
    assert (target["rule"]["number"], target["awaits"]["until"]) == (4, None)
    (attempt,) = target["attempts"]
    assert (attempt["outcome"], attempt["log"]) == ("failed", target["last_attempt"]["log"])
    summary = built.ctl("status").stdout
    assert "    → kmoddctl explain broken" in summary and f"broken on {built.kernel}" in summary


def test_logs_of_earlier_attempts_are_listed_and_chosen(built: World) -> None:
    built.add("broken", {"broken.c": BROKEN})
    built.sync()
    source = built.source("broken") / "broken.c"
    source.write_text(BROKEN.replace("missing_function(1)", "0"))
    assert built.sync().returncode == 0
    listed = built.ctl("logs", "broken", "--list").stdout.splitlines()
    assert [line.split()[2] for line in listed] == ["succeeded", "failed"]
    attempts = json.loads(built.ctl("logs", "broken", "--list", "--json").stdout)["attempts"]
    assert [one["outcome"] for one in attempts] == ["succeeded", "failed"]
    assert "missing_function" in built.ctl("logs", "broken", "--attempt", "2").stdout
    assert "missing_function" in built.ctl("logs", "broken", "--attempt", attempts[1]["attempt"]).stdout
    assert "missing_function" not in built.ctl("logs", "broken").stdout
    refused = built.ctl("logs", "broken", "--attempt", "3")
    assert refused.returncode == 2 and "--list shows them" in refused.stderr
    earlier = built.ctl("explain", "broken").stdout
    assert "  earlier     failed " in earlier


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["logs", "nothing"], 2, "no module nothing is registered"),
        (["logs", "alhpa"], 2, "did you mean alpha?"),
        (["status", "alhpa"], 2, "did you mean alpha?"),
        (["explain", "alpha", "--kernel", "6.1.0-5-amd64"], 2, "did you mean 6.1.0-5"),
        (["statu"], 2, "did you mean 'status'?"),
    ],
)
def test_misspelt_words_get_a_suggestion(built: World, words: list[str], status: int, said: str) -> None:
    done = built.ctl(*words)
    assert done.returncode == status and said in done.stderr
    if words != ["statu"]:
        error = json.loads(built.ctl(*words, "--json").stdout)["error"]
        assert set(error) == {"problem", "message", "hint"}


def test_log_is_followed_while_the_build_runs(built: World) -> None:
    built.add("slow", {"slow.c": BROKEN.replace("missing_function(1)", "0"), "Makefile": SLOW})
    sync = subprocess.Popen([sys.executable, "-m", "kmodd.ctl", "sync", "--root", str(built.root)])
    built.hold()
    argv = [sys.executable, "-m", "kmodd.ctl", "logs", "slow", "--follow", "--root", str(built.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None and following.stdout.readline() != ""
        built.release()
        last = following.stdout.read().splitlines()[-1]
    assert last.startswith("[kmodd: succeeded after ") and following.returncode == 0
    assert sync.wait(LIMIT) == 0


def test_log_on_a_terminal_goes_through_the_pager_without_what_steers_it(built: World) -> None:
    built.add("broken", {"broken.c": BROKEN.replace("missing_function(1)", 'missing("\x1b[2J\x1b]0;owned\x07")')})
    built.sync()
    shown = {}
    for pager in ("sed s/^/PAGED:/", "cat", "/nonexistent/pager"):
        out = b""
        child, terminal = pty.fork()
        if child == 0:
            os.environ.update(PAGER=pager, TERM="xterm")
            argv = [sys.executable, "-m", "kmodd.ctl", "logs", "broken", "--root", str(built.root)]
            os.execv(sys.executable, argv)
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            if not data:
                break
            out += data
        os.waitpid(child, 0)
        os.close(terminal)
        shown[pager] = out.decode()
    assert "PAGED:[kmodd: broken for" in shown["sed s/^/PAGED:/"]
    for text in shown.values():
        assert "owned" in text and "[kmodd: failed after" in text
        assert "\x1b" not in text and "\x07" not in text


def test_status_needs_no_command_and_root_may_stand_before_it(built: World) -> None:
    argv = [sys.executable, "-m", "kmodd.ctl", "--root", str(built.root)]
    plain = subprocess.run(argv, capture_output=True, text=True)
    said = subprocess.run([*argv, "status"], capture_output=True, text=True)
    assert plain.returncode == said.returncode == 0
    assert plain.stdout == said.stdout == built.ctl("status").stdout
    assert f"{built.kernel}" in plain.stdout and "alpha" in plain.stdout
    found = json.loads(subprocess.run([*argv, "--json"], capture_output=True, text=True).stdout)
    assert [t["verdict"] for t in found["targets"]] == ["ready"]


@pytest.mark.parametrize(
    "words",
    [
        ["add", "/usr/src/beta-1.0"], ["remove", "alpha"], ["disable", "alpha"], ["sync"],
        ["key", "generate"], ["key", "rotate"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_dry_run_changes_nothing(built: World, words: list[str]) -> None:
    source = built.source("beta")
    source.mkdir()
    (source / "Makefile").write_text("obj-m := beta.o\n")
    if words == ["sync"]:
        built.registry("beta").write_text('[source]\npath = "/usr/src/beta-1.0"\n')
    if words == ["key", "generate"]:
        for name in ("signing.key", "signing.x509"):
            (built.root / "etc/kmodd/keys" / name).unlink()
        (built.root / "var/lib/kmodd/signing.x509").unlink()

    def state() -> dict[str, object]:
        places = ("etc", "var/lib/kmodd", "usr/lib/modules")
        paths = [p for place in places for p in sorted((built.root / place).rglob("*")) if p.is_file()]
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in paths}

    before = state()
    done = built.ctl(*words, "--dry-run")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    document = json.loads(built.ctl(*words, "--dry-run", "--json").stdout)
    assert document["schema"] == 1
    assert state() == before


def test_what_failed_for_want_of_something_unseen_is_built_again_when_asked(built: World) -> None:
    """A lack that is no input of the build, such as a header of another package, is seen by nobody."""
    lack = built.root / f"usr/src/kernels/{built.kernel}/include/lacking.h"
    makefile = "obj-m := beta.o\nifeq ($(wildcard $(srctree)/include/lacking.h),)\n$(error no lacking.h)\nendif\n"
    built.add("beta", {"beta.c": GOOD.format(name="beta"), "Makefile": makefile})
    built.sync()
    assert built.verdict("beta") == "failed"
    lack.touch()
    built.sync()
    assert built.verdict("beta") == "failed"
    assert "kmoddctl rebuild" in built.ctl("explain", "beta").stdout
    assert "build    beta" in built.ctl("rebuild", "--dry-run").stdout
    assert built.ctl("rebuild").returncode == 0
    assert built.verdict("beta") == "ready"
    assert built.ctl("rebuild").stdout == "nothing failed\n"
    assert built.plan() == "nothing to do"


def test_kernel_that_boots_next_is_marked(built: World) -> None:
    entries = built.root / "boot/loader/entries"
    entries.mkdir(parents=True)
    (entries / f"id-{built.kernel}.conf").write_text(f"version {built.kernel}\nlinux /vmlinuz-{built.kernel}\n")
    (built.root / "boot/grub2").mkdir()
    (found,) = built.status()["kernels"]
    assert found["default_boot"] is True
    assert "boots next" in built.ctl("status").stdout
    (built.root / "boot/grub2").rmdir()
    assert built.status()["kernels"][0]["default_boot"] is None
