"""A patch file is understood as patch(1) understands it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmodd.kbuild.diff import Outside, parse

PLAIN = """\
A fix.
diff -urN a/f.c b/f.c
--- a/f.c\t2020-01-01
+++ b/f.c\t2020-01-02
@@ -1,3 +1,3 @@ int f(void)
 one
-two
+TWO

@@ -10 +10,2 @@
-ten
\\ No newline at end of file
+10
+--- not a name
--- a/g.c
+++ b/g.c
@@ -0,0 +1 @@
+new
--\x20
2.39
"""
GIT = """\
From 1234 Mon Sep 17
diff --git a/old.c b/new.c
similarity index 90%
rename from old.c
rename to new.c
index 1..2 100644
--- a/old.c
+++ b/new.c
@@ -1 +1 @@
-x
+y
diff --git a/only b/moved
rename from only
rename to moved
diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
"""
HUNK = "@@ -1 +1 @@\n-x\n+y\n"


def test_plain_diff() -> None:
    first, second = parse(PLAIN, 1)
    assert (first.names, second.names) == (["f.c", "f.c"], ["g.c", "g.c"])
    assert [(h.number, h.line, len(h.lines)) for h in first.hunks] == [(1, 1, 5), (2, 10, 5)]
    assert first.hunks[0].result == "one\nTWO\n\n"
    assert first.hunks[1].result == "10\n--- not a name\n"
    assert [(h.number, h.line, h.result) for h in second.hunks] == [(1, 0, "new\n")]
    assert first.text + second.text == PLAIN.partition("--\x20\n")[0]


def test_git_diff() -> None:
    pieces = parse(GIT, 1)
    assert [p.names for p in pieces] == [["old.c", "new.c", "old.c", "new.c"], ["only", "moved"], []]
    assert [len(p.hunks) for p in pieces] == [1, 0, 0]
    assert not any(p.makes_link for p in pieces)
    assert "".join(p.text for p in pieces) == GIT


def test_line_ends_of_dos_are_no_part_of_it() -> None:
    (piece,) = parse(PLAIN.partition("--- a/g.c")[0].replace("\n", "\r\n"), 1)
    assert piece.names == ["f.c", "f.c"]
    assert piece.hunks[0].result == "one\nTWO\n\n"


@pytest.mark.parametrize("mode", ["new file mode 120000", "old mode 100644\nnew mode 120000"])
def test_link_is_seen(mode: str) -> None:
    (piece,) = parse(f"diff --git a/l b/l\n{mode}\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/shadow\n", 1)
    assert piece.makes_link


@pytest.mark.parametrize(("strip", "name"), [(0, "a//b/f.c"), (1, "b/f.c"), (2, "f.c")])
def test_leading_directories_are_dropped(strip: int, name: str) -> None:
    (piece,) = parse(f"--- a//b/f.c\n+++ a//b/f.c\n{HUNK}", strip)
    assert piece.names[0].replace("//", "/") == name.replace("//", "/")


def named(name: str) -> str:
    return f"--- a/f.c\n+++ {name}\n{HUNK}"


BAD = [
    ("nothing", "", ValueError, "holds no unified diff"),
    ("prose", "just\nsome text\n", ValueError, "holds no unified diff"),
    ("context diff", "*** a/f.c\n--- b/f.c\n***************\n*** 1 ****\n! x\n", ValueError, "holds no unified diff"),
    ("cut", named("b/f.c")[:-4], ValueError, "is malformed at line 4"),
    ("strange line", named("b/f.c").replace("+y", "?y"), ValueError, "is malformed at line 5"),
    ("count too small", named("b/f.c").replace("@@ -1 ", "@@ -1,0 "), ValueError, "is malformed"),
    ("git binary", "diff --git a/x b/x\nGIT binary patch\n", ValueError, "binary difference (line 2)"),
    ("binary", "Binary files a/x and b/x differ\n", ValueError, "binary difference (line 1)"),
    ("too few directories", named("f.c"), ValueError, "f.c has fewer directories than strip = 1 drops"),
    ("dots", named("b/../../etc/passwd"), Outside, "../../etc/passwd lies outside of the source"),
    ("dots inside", named("b/x/../f.c"), Outside, "x/../f.c lies outside"),
    ("quoted dots", named('"b/../f.c"'), Outside, "../f.c lies outside"),
    ("rename", "diff --git a/x b/y\nrename from x\nrename to ../y\n", Outside, "../y lies outside"),
    ("absolute rename", "diff --git a/x b/y\nrename from x\nrename to /etc/y\n", Outside, "/etc/y lies outside"),
]


@pytest.mark.parametrize(("text", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_patch_is_refused_by_line_or_name(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        parse(text, 1)


def test_absolute_name_is_refused() -> None:
    with pytest.raises(Outside, match="/etc/passwd lies outside"):
        parse(f"--- /etc/passwd\n+++ /etc/passwd\n{HUNK}", 0)


@given(st.text("@-+ 1,0ab/.\n\\d\t"), st.integers(0, 2))
def test_any_text_is_parsed_or_refused(text: str, strip: int) -> None:
    try:
        pieces = parse(f"--- a/b/c\n+++ a/b/c\n{text}", strip)
    except (ValueError, Outside):
        return
    assert all(".." not in name.split("/") and not name.startswith("/") for p in pieces for name in p.names)
