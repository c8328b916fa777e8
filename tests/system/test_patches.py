"""Patches on the copy of a source, by the real patch(1) in the sandbox: applied exactly, or refused with the reason."""

from __future__ import annotations

import asyncio
import difflib
import os
from pathlib import Path
from typing import Any

import pytest
from world import GOOD, World

from kmodd.core.errors import Problem
from kmodd.core.model import Fault, Kernel
from kmodd.core.modulefile import Patch
from kmodd.core.settings import SettingsSource
from kmodd.core.sysroot import Sysroot
from kmodd.kbuild.builder import Builder
from kmodd.kbuild.jobserver import Jobserver
from kmodd.kbuild.patches import apply
from kmodd.kbuild.workspace import Workspace

pytestmark = pytest.mark.system

LINES = [f"line {number}" for number in range(1, 61)]
OLD = "".join(f"{line}\n" for line in LINES)
ONE = OLD.replace("line 5\n", "line five\n")
TWO = ONE.replace("line 30\n", "line thirty\n")


def diff(old: str, new: str, name: str = "sub/f.c", of: str = "") -> str:
    """Return a unified diff; of: the old name where it is another."""
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    names = (f"a/{of or name}" if old else "/dev/null", f"b/{name}" if new else "/dev/null")
    return "".join(difflib.unified_diff(before, after, *names))


class Outcome:
    """What became of a source and its log."""

    def __init__(
        self, top: Path, *patches: tuple[str, dict[str, Any]], files: dict[str, str], links: dict[str, str]
    ) -> None:
        self.warnings: tuple[Fault, ...] = ()
        self.problem = Problem("", "")
        (top / "root").mkdir()
        self.log = top / "root/log"
        self.log.touch()
        given = []
        for number, (text, more) in enumerate(patches):
            path = top / f"{number}.patch"
            path.write_bytes(text.encode(errors="surrogateescape"))
            given.append((path, Patch(file=f"{number}.patch", **more)))
        try:
            asyncio.run(self._work(Sysroot(top), given, files, links))
        except Problem as problem:
            self.problem = problem

    async def _work(
        self, sysroot: Sysroot, patches: list[tuple[Path, Patch]], files: dict[str, str], links: dict[str, str]
    ) -> None:
        builder = Builder(sysroot, Jobserver(lambda: 1), SettingsSource())
        scratch = builder.make_scratch("x")
        self.top = scratch / "source"
        for name, text in files.items():
            (self.top / name).parent.mkdir(parents=True, exist_ok=True)
            (self.top / name).write_text(text)
        for name, target in links.items():
            (self.top / name).symlink_to(target)
        for path in (self.top, *self.top.rglob("*")):
            os.chown(path, *builder.owners[scratch], follow_symlinks=False)
        kernel = Kernel("6.1", build_tree="/usr/src/x")
        workspace = Workspace(sysroot, scratch, builder.owners[scratch], kernel, self.log)
        self.warnings = await apply(workspace, patches, "m.toml: source.patches")
        assert sorted(path.name for path in (scratch / "tmp").iterdir()) == [], "a trial leaves nothing"

    def read(self, name: str = "sub/f.c") -> str:
        return (self.top / name).read_text()


def patched(top: Path, *patches: str, old: str = OLD, **more: Any) -> Outcome:
    files = {"sub/f.c": old, **more.pop("files", {})}
    links = more.pop("links", {})
    return Outcome(top, *((text, more) for text in patches), files=files, links=links)


def test_patches_are_applied_in_order(tmp_path: Path) -> None:
    found = patched(tmp_path, diff(OLD, ONE), diff(ONE, TWO))
    assert (found.problem.message, found.warnings, found.read()) == ("", (), TWO)


def test_hunks_may_have_moved(tmp_path: Path) -> None:
    found = patched(tmp_path, diff(OLD, TWO), old="new\n" * 7 + OLD)
    assert found.read() == "new\n" * 7 + TWO
    assert "offset 7 lines" in found.log.read_text()


def test_files_are_made_and_deleted(tmp_path: Path) -> None:
    found = patched(tmp_path, diff("", "new\n", "dir/new.c") + diff("gone\n", "", "gone.c"), files={"gone.c": "gone\n"})
    assert found.problem.message == ""
    assert found.read("dir/new.c") == "new\n"
    assert not (found.top / "gone.c").exists()


SERIES = diff(OLD, ONE) + diff(ONE, TWO) + diff("", "new\n", "new.c") + diff("new\n", "newer\n", "new.c")


def test_series_in_one_file_is_applied(tmp_path: Path) -> None:
    """What patch --dry-run could not tell: a file that is changed twice."""
    found = patched(tmp_path, SERIES)
    assert (found.problem.message, found.read(), found.read("new.c")) == ("", TWO, "newer\n")


@pytest.mark.parametrize(
    ("patch", "files"),
    [
        (diff(OLD, TWO), {"sub/f.c": TWO}),
        (diff(OLD, TWO) + diff("", "new\n", "new.c"), {"sub/f.c": TWO, "new.c": "new\n"}),
        (diff(OLD, TWO) + diff("gone\n", "", "gone.c"), {"sub/f.c": TWO}),
        (SERIES, {"sub/f.c": TWO, "new.c": "newer\n"}),
        (diff(OLD, TWO), {"sub/f.c": "moved\n" * 9 + TWO}),
    ],
    ids=["one file", "made file", "deleted file", "series", "moved"],
)
def test_patch_that_is_there_already_is_left_out_with_a_warning(
    tmp_path: Path, patch: str, files: dict[str, str]
) -> None:
    found = patched(tmp_path, patch, diff(TWO, OLD), files=files)
    assert found.problem.message == ""
    (warning,) = found.warnings
    assert warning.problem == "patch-already-applied"
    assert warning.message == "0.patch is left out, since the source has it already"
    assert OLD in found.read(), "the next one is applied all the same"


FUZZY = OLD.replace("line 3\n", "line three\n").replace("line 7\n", "line seven\n")


def test_fuzz_is_refused_and_said(tmp_path: Path) -> None:
    found = patched(tmp_path, diff(OLD, ONE), old=FUZZY)
    assert found.problem.code == "patch-fuzz"
    assert "m.toml: source.patches: 0.patch: applies only with fuzz 2" in found.problem.message
    assert "set fuzz = 2 if you have checked" in found.problem.hint
    assert found.read() == FUZZY


def test_fuzz_is_taken_where_it_is_allowed(tmp_path: Path) -> None:
    found = patched(tmp_path, diff(OLD, ONE), old=FUZZY, fuzz=2)
    assert (found.problem.message, found.read()) == ("", FUZZY.replace("line 5\n", "line five\n"))
    assert "with fuzz 2" in found.log.read_text()


def test_fuzz_that_is_allowed_does_not_apply_a_patch_twice(tmp_path: Path) -> None:
    """Without its context an insertion fits everywhere."""
    insertion = OLD.replace("line 5\n", "line 5\nadded\n")
    found = patched(tmp_path, diff(OLD, insertion), old=insertion, fuzz=3)
    assert len(found.warnings) == 1
    assert found.read() == insertion


def test_less_fuzz_than_is_needed_is_not_enough(tmp_path: Path) -> None:
    assert patched(tmp_path, diff(OLD, ONE), old=FUZZY, fuzz=1).problem.code == "patch-fuzz"


EXECUTABLE = "diff --git a/sub/f.c b/sub/f.c\nold mode 100644\nnew mode 120000\n"
MADE_LINK = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/shadow\n"
OTHER = OLD.replace("line 5\n", "something else\n")
REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "rejected": (diff(OLD, ONE), {"old": OTHER}, "patch-failed", "hunk 1 of sub/f.c (line 2) does not apply"),
    "second hunk rejected": (
        diff(OLD, TWO), {"old": OLD.replace("line 30\n", "")}, "patch-failed", "hunk 2 of sub/f.c (line 27) does not",
    ),
    "all rejected": (
        diff(OLD, TWO), {"old": "x\n"}, "patch-failed", "hunk 1 of sub/f.c (line 2) does not apply, nor do 1 more",
    ),
    "applied in part": (
        diff(OLD, TWO), {"old": ONE}, "patch-failed", "is applied in part: hunk 1 of sub/f.c (line 2) is there already",
    ),
    "rest rejected": (
        diff(OLD, TWO), {"old": ONE.replace("line 30\n", "")}, "patch-failed", "is applied in part: hunk 1 of sub/f.c",
    ),
    "file missing": (diff(OLD, ONE, "g.c"), {}, "patch-failed", "g.c is not in the source (strip = 1)"),
    "wrong strip": (diff(OLD, ONE), {"strip": 2}, "patch-failed", "f.c is not in the source (strip = 2)"),
    "file to be made is there": (
        diff("", "new\n", "new.c"), {"files": {"new.c": "other\n"}}, "patch-failed", "hunk 1 of new.c (line 0)",
    ),
    "series in part": (SERIES, {"old": OTHER}, "patch-failed", "hunk 1 of sub/f.c (line 2) does not apply"),
    "no diff": ("nothing\n", {}, "patch-invalid", "holds no unified diff"),
    "cut": (diff(OLD, ONE)[:-20], {}, "patch-invalid", "is malformed at line"),
    "dots": (diff(OLD, ONE, "../f.c"), {}, "patch-unsafe", "../f.c lies outside of the source"),
    "absolute": (
        diff(OLD, ONE).replace("a/sub", "/etc").replace("b/sub", "/etc"), {"strip": 0}, "patch-unsafe", "/etc/f.c lies",
    ),
    "through a link": (
        diff(OLD, ONE, "l/f.c"), {"links": {"l": "sub"}}, "patch-unsafe", "l/f.c is reached through the link l",
    ),
    "link out": (diff(OLD, ONE, "l/x"), {"links": {"l": "/tmp"}}, "patch-unsafe", "l/x is reached through the link l"),
    "a link": (diff(OLD, ONE, "l"), {"links": {"l": "sub/f.c"}}, "patch-unsafe", "l is reached through the link l"),
    "makes a link": (MADE_LINK, {}, "patch-unsafe", "makes the link l"),
    "becomes a link": (EXECUTABLE, {}, "patch-unsafe", "makes the link"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_patch_is_refused_by_patch_file_and_hunk(tmp_path: Path, case: str) -> None:
    text, more, code, message = REFUSED[case]
    found = patched(tmp_path, text, **more)
    assert found.problem.code == code, found.problem
    assert found.problem.message.startswith(f"m.toml: source.patches: 0.patch: {message}")
    assert not found.problem.transient
    if "rejected" in case:
        said = found.log.read_text().partition("[kmodd: hunk ")[2]
        assert "\n-line 30\n+line thirty\n" in said or "\n-line 5\n+line five\n" in said


def test_name_with_spaces_and_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    text = diff(OLD, ONE, "a file.c").replace("+line five", "+line \udcff")
    found = patched(tmp_path, text.replace("a file.c\n", "a file.c\t\n"), files={"a file.c": OLD})
    assert found.problem.message == ""
    assert b"line \xff\n" in (found.top / "a file.c").read_bytes()


# -- the whole way ---------------------------------------------------------------------------------------------------
def register(world: World, name: str, patches: str, text: dict[str, str]) -> None:
    directory = world.registry(name).with_suffix(".patches")
    directory.mkdir()
    for file, content in text.items():
        (directory / file).write_text(content)
    world.add(name, {f"{name}.c": GOOD.format(name=name)}, f"patches = {patches}\n")


def test_fix_that_the_source_has_by_now_is_a_warning(world: World) -> None:
    good = GOOD.format(name="alpha")
    fixed = good.replace("value = 1", "value = 2")
    register(world, "alpha", '["fix.patch"]', {"fix.patch": diff(good, fixed, "alpha.c")})
    world.sync()
    first = world.target("alpha")
    assert (first["verdict"], first["warnings"]) == ("ready", [])
    (world.source("alpha") / "alpha.c").write_text(fixed)
    done = world.sync()
    found = world.target("alpha")
    assert found["verdict"] == "ready"
    (warning,) = found["warnings"]
    assert "fix.patch is left out" in warning and "(patch-already-applied)" in warning
    assert "patch-already-applied" in done.stderr, "the journal has it"
    for shown in (done.stdout, world.ctl("explain", "alpha").stdout):
        assert "fix.patch is left out" in shown and "warning" in shown, shown
    assert found["objects"][0]["name"] == "alpha"


def test_patches_are_chosen_by_kernel_and_their_change_is_seen(world: World) -> None:
    good = GOOD.format(name="alpha")
    fixed = good.replace("value = 1", "value = 2")
    text = '[{ file = "a.patch", kernels = ["6.1.*"] }, { file = "b.patch", kernels = ["5.*"] }]'
    register(world, "alpha", text, {"a.patch": diff(good, fixed, "alpha.c"), "b.patch": "no patch at all\n"})
    world.sync()
    first = world.target("alpha")
    assert first["verdict"] == "ready"
    patch = world.registry("alpha").with_suffix(".patches") / "a.patch"
    patch.write_text(patch.read_text().replace("value = 2", "value = 3"))
    assert "its patches changed" in world.plan()
    world.sync()
    assert world.target("alpha")["objects"] != first["objects"]
