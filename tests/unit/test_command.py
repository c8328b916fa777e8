"""What a project's own commands get, and what is told of those that cannot be started."""

from __future__ import annotations

import pytest

from kmodd.core.errors import Problem
from kmodd.core.modulefile import Build
from kmodd.kbuild.compiler import Compiler
from kmodd.kbuild.owncommand import check_started, directory, environment, fill, steps

MARKS = {"kernel": "6.1", "build_tree": "/tree", "jobs": "4", "source": "/build/source"}


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("{kernel}", "6.1"),
        ("--a={build_tree}/x{jobs}", "--a=/tree/x4"),
        ("{kernel}{kernel}", "6.16.1"),
        ("${HOME} {} {x", "${HOME} {} {x"),
    ],
)
def test_placeholders_are_filled_in(word: str, filled: str) -> None:
    assert fill(word, MARKS) == filled


def test_steps_and_their_place() -> None:
    build = Build(command=(("./configure", "--kernel={kernel}"), ("make",)), directory="b")  # type: ignore[arg-type]
    assert steps(build, MARKS) == [["./configure", "--kernel=6.1"], ["make"]]
    assert directory(Build(directory="src/./x")) == "/build/source/src/x"


def test_compiler_and_symvers_reach_every_make_below() -> None:
    compiler = Compiler("/usr/bin/gcc-12", "gcc 12", ("CC=gcc-12",))
    assert environment(compiler, ["/a", "/b"], " -j --jobserver-auth=10,11") == {
        "CC": "gcc-12",
        "MAKEFLAGS": " -j --jobserver-auth=10,11 -- CC=gcc-12",
        "KBUILD_EXTRA_SYMBOLS": "/a /b",
    }
    assert environment(Compiler("gcc", "gcc", ()), [], "-j") == {}


STARTED = [
    ("setpriv: failed to execute ./run: Permission denied", "command-missing", "./run cannot be run: Permission"),
    ("said before\nsetpriv: failed to execute autoreconf: No such file or directory\n", "tool-missing", "autoreconf"),
    ("bwrap: execvp ./run: No such file or directory", "command-missing", "./run cannot be run: No such file"),
]


@pytest.mark.parametrize(("said", "code", "text"), STARTED)
def test_program_that_cannot_be_started_is_named(said: str, code: str, text: str) -> None:
    with pytest.raises(Problem) as caught:
        check_started(said)
    assert (caught.value.code, text in caught.value.message) == (code, True)
    assert caught.value.transient is (code == "tool-missing")


@pytest.mark.parametrize("said", ["", "error: x", "setpriv: failed to execute x: No such file\nand went on"])
def test_other_ends_are_not_taken_for_it(said: str) -> None:
    check_started(said)
