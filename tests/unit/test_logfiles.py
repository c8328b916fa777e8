"""What a target's logs tell: attempts in their order, how each ended, and the first error with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from test_failure import GCC, HEADER, MODPOST

from kmodd.core.errors import Problem
from kmodd.core.sysroot import Sysroot
from kmodd.kbuild.failure import find_error
from kmodd.kbuild.logfiles import ENDING, LogReader, is_ended, new_name

ENDED = ENDING.format(outcome="failed", seconds=1.5) + "\n"


def log(root: Path, name: str, text: str, release: str = "6.1") -> str:
    path = root / "var/log/kmodd/m" / release / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return f"/var/log/kmodd/m/{release}/{name}.log"


def test_names_sort_by_the_time_of_the_start(tmp_path: Path) -> None:
    stamps = [(0.0, 0), (1.0, 0), (1.0, 2), (1.0, 10), (86400.0, 0)]
    for began, number in stamps:
        log(tmp_path, new_name(began, number), "")
    found = LogReader(Sysroot(tmp_path)).attempts("m", "6.1")
    assert [one["attempt"] for one in found] == [new_name(*stamp) for stamp in reversed(stamps)]
    assert [one["began"] for one in found] == [86400, 1, 1, 1, 0]
    assert new_name(0, 3) == "19700101T000000-3"


@pytest.mark.parametrize(
    ("text", "outcome", "seconds"),
    [
        ("CC x.o\n" + ENDED, "failed", 1.5),
        (ENDED, "failed", 1.5),
        ("x" * 100_000 + "\n" + ENDED, "failed", 1.5),
        ("CC x.o\n", "", None),
        ("", "", None),
        (ENDED + "more\n", "", None),
        ("make prints [kmodd: failed after 1.5 s]\n", "", None),
        ("[kmodd: failed after 1.2.3 s]\n", "", None),
        ("[kmodd: failed after . s]\n", "", None),
        ("[kmodd: done after 1.5 s]\n", "", None),
    ],
)
def test_last_line_tells_how_a_build_ended(tmp_path: Path, text: str, outcome: str, seconds: Optional[float]) -> None:
    log(tmp_path, "20261121T103752-0", text)
    (found,) = LogReader(Sysroot(tmp_path)).attempts("m", "6.1")
    assert (found["outcome"], found["seconds"], found["bytes"]) == (outcome, seconds, len(text))
    assert is_ended(text) == bool(outcome)


def test_story_has_the_attempts_newest_first(tmp_path: Path) -> None:
    reader = LogReader(Sysroot(tmp_path))
    assert reader.story("m", "6.1") == []
    log(tmp_path, "20261121T103752-0", GCC + ENDED)
    log(tmp_path, "20261121T103753-0", GCC + ENDING.format(outcome="stopped", seconds=1) + "\n")
    assert [one["outcome"] for one in reader.story("m", "6.1")] == ["stopped", "failed"]
    assert (reader.modules(), reader.kernels("m")) == (["m"], ["6.1"])


def test_log_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        LogReader(Sysroot(tmp_path)).read("/var/log/kmodd/m/6.1/x.log")
    assert caught.value.code == "log-missing"


@pytest.mark.parametrize(
    ("text", "file", "number", "excerpt"),
    [
        (
            GCC, "v4l2loopback.c", 2811,
            [
                "v4l2loopback.c:2811:28: error: initialization of 'void (*)(struct file *)' from incompatible "
                "pointer type",
                " 2811 |         .vidioc_enum_frameintervals = f,",
                "      |                            ^",
            ],
        ),
        (
            "x.c: In function 'f':\n/build/source/x.c:3:1: error: no\n    3 | y\n      | ^\nx.c:9:1: note: z\nmake\n",
            "x.c", 3,
            ["x.c: In function 'f':", "x.c:3:1: error: no", "    3 | y", "      | ^", "x.c:9:1: note: z"],
        ),
        (
            HEADER, "x.c", 3,
            ["x.c:3:10: fatal error: linux/gone.h: No such file or directory", "    3 | #include <linux/gone.h>"],
        ),
        (MODPOST, None, None, ['ERROR: modpost: "ceph_create_client" [rbd.ko] undefined!']),
    ],
    ids=["gcc", "function and note", "missing header", "modpost"],
)  # fmt: skip
def test_first_error_is_quoted_with_its_source(
    text: str, file: Optional[str], number: Optional[int], excerpt: list[str]
) -> None:
    found = find_error(text)
    assert found is not None
    assert (found["file"], found["number"], found["excerpt"]) == (file, number, excerpt)
    assert found["line"] in excerpt


@pytest.mark.parametrize("text", ["", "all is well\n", "[kmodd: make ended with exit status 0 after 1 s]\n"])
def test_log_without_an_error_has_none(text: str) -> None:
    assert find_error(text) is None


def test_excerpt_of_many_notes_is_short() -> None:
    text = "x.c:1:1: error: no\n" + "x.c:2:2: note: more\n" * 1000
    found = find_error(text)
    assert found is not None and len(found["excerpt"]) <= 12
